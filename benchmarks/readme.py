"""Writes the README's table of speed from a committed result: `python -m benchmarks.readme [RESULT.json]`.

A result that is named, of `python -m benchmarks --suite quick`, becomes the committed one first. What stands
between the two marks in README.md is made here and nowhere else; a test compares the two.
"""

import json
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "cpu-avx2-2-cores.json"
BEGIN, END = "<!-- speed: made by python -m benchmarks.readme -->", "<!-- end of speed -->"


def table(result):
    """The result as Markdown: a row a case and rival, training and inference side by side, and the losses by name."""
    environment, rows, ratios = result["environment"], {}, {}
    for record in result["results"]:
        ours = record["contenders"]["fusedrnn"]
        for rival, ratio in record["ratios"].items():
            if not rival.startswith("torch.nn"):
                continue
            case = record["case"] + (f" (against {rival})" if rival != "torch.nn" else "")
            theirs = record["contenders"][rival]
            cell = f"{1e3 * theirs['median_s']:.3g} → {1e3 * ours['median_s']:.3g} ms | **{ratio:.2f}**"
            rows.setdefault(case, {})[record["pass"]] = cell
            ratios[f"{case} {record['pass']}"] = ratio
    losses = [f"{name} ({ratio:.2f})" for name, ratio in ratios.items() if ratio < 1]
    return "\n".join(
        [
            f"`{environment['command']}` on a {environment['cores']}-core {environment['cpu']} "
            f"({environment['build']['cpu kernels']}), torch {environment['torch']}, {environment['threads']} threads, "
            f"{environment['date'][:10]}. Medians, torch.nn → fusedrnn; the ratio is above 1 where fusedrnn is faster.",
            "",
            "| case | training step | ratio | inference | ratio |",
            "|---|---|---|---|---|",
            *(f"| {case} | {cells.get('step', '| ')} | {cells.get('infer', '| ')} |" for case, cells in rows.items()),
            "",
            f"Geometric mean of {len(ratios)} ratios: {statistics.geometric_mean(ratios.values()):.2f}. "
            f"Losses: {'; '.join(losses) or 'none in this grid'}.",
        ]
    )


def filled(readme, result):
    """The README's text with the table between its marks. Raises ValueError where the marks are missing."""
    head, _, rest = readme.partition(BEGIN)
    _, mark, tail = rest.partition(END)
    if not mark:
        raise ValueError(f"README.md must hold the marks {BEGIN!r} and {END!r}")
    return f"{head}{BEGIN}\n\n{table(result)}\n\n{END}{tail}"


if __name__ == "__main__":
    if sys.argv[1:]:
        RESULT.write_text(Path(sys.argv[1]).read_text())
    path = ROOT / "README.md"
    path.write_text(filled(path.read_text(), json.loads(RESULT.read_text())))
