"""Writes the README's tables from committed results: `python -m benchmarks.readme [RESULT.json]`.

A result that is named becomes a committed one first: that of the speed, or, where recompute=True took part, that of
the memory. What stands between the marks in README.md is made here and nowhere else; a test compares the two.
"""

import json
import statistics
import sys
from pathlib import Path

from .timing import OURS, RECOMPUTE

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def taken(result):
    """How the result came about."""
    e = result["environment"]
    return (
        f"`{e['command']}` on a {e['cores']}-core {e['cpu']} ({e['build']['cpu kernels']}), torch {e['torch']}, "
        f"{e['threads']} threads, {e['date'][:10]}."
    )


def speed(result):
    """A row a case and rival, training and inference side by side, and the losses by name."""
    rows, ratios = {}, {}
    for record in result["results"]:
        ours = record["contenders"][OURS]
        for rival, ratio in record["ratios"].items():
            if not rival.startswith("torch.nn"):
                continue
            case = record["case"] + (f" (against {rival})" if rival != "torch.nn" else "")
            theirs = record["contenders"][rival]
            cell = f"{1e3 * theirs['median_s']:.3g} → {1e3 * ours['median_s']:.3g} ms | **{ratio:.2f}**"
            rows.setdefault(case, {})[record["pass"]] = cell
            ratios[f"{case} {record['pass']}"] = ratio
    losses = [f"{name} ({ratio:.2f})" for name, ratio in ratios.items() if ratio < 1]
    return [
        taken(result) + " Medians, torch.nn → fusedrnn; the ratio is above 1 where fusedrnn is faster.",
        "",
        "| case | training step | ratio | inference | ratio |",
        "|---|---|---|---|---|",
        *(f"| {case} | {cells.get('step', '| ')} | {cells.get('infer', '| ')} |" for case, cells in rows.items()),
        "",
        f"Geometric mean of {len(ratios)} ratios: {statistics.geometric_mean(ratios.values()):.2f}. "
        f"Losses: {'; '.join(losses) or 'none in this grid'}.",
    ]


def memory(result):
    """Peak of memory and time of a training step of torch.nn, of ours, and of ours with recompute=True."""
    names = ("torch.nn", OURS, RECOMPUTE)

    def cells(record):
        for name in names:
            figures = record["contenders"][name]
            yield f"{figures['peak_bytes'] / 1e6:.3g} MB, {1e3 * figures['median_s']:.3g} ms"

    return [
        taken(result) + " Peak of a training step beyond what was there before it, and its median time.",
        "",
        f"| case | {' | '.join(names)} |",
        "|---|" + "---|" * len(names),
        *(f"| {record['case']} | {' | '.join(cells(record))} |" for record in result["results"]),
    ]


TABLES = {
    "speed": (RESULTS / "cpu-avx2-2-cores.json", speed),
    "memory": (RESULTS / "cpu-avx2-2-cores-recompute.json", memory),
}


def filled(readme):
    """The README's text with the tables between their marks. Raises ValueError where a mark is missing."""
    for name, (path, table) in TABLES.items():
        begin, end = f"<!-- {name}: made by python -m benchmarks.readme -->", f"<!-- end of {name} -->"
        head, _, rest = readme.partition(begin)
        _, mark, tail = rest.partition(end)
        if not mark:
            raise ValueError(f"README.md must hold the marks {begin!r} and {end!r}")
        lines = "\n".join(table(json.loads(path.read_text())))
        readme = f"{head}{begin}\n\n{lines}\n\n{end}{tail}"
    return readme


if __name__ == "__main__":
    for given in map(Path, sys.argv[1:]):
        recomputes = any(RECOMPUTE in record["contenders"] for record in json.loads(given.read_text())["results"])
        TABLES["memory" if recomputes else "speed"][0].write_text(given.read_text())
    path = ROOT / "README.md"
    path.write_text(filled(path.read_text()))
