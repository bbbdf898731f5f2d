"""Writes the tables of README.md and docs/ from committed results: `python -m benchmarks.readme`.

With `--machine zen5 RESULT.json ...` these become committed ones first, under names made of the processor's, which a
virtual machine often keeps to itself, of kernels, cores, and the command that made them. What stands between the marks
in the texts is made here and nowhere else; a test compares the two.
"""

import argparse
import itertools
import json
import re
import statistics
from pathlib import Path

from . import gate
from .cases import Case
from .machine import INSTRUCTION_SETS
from .timing import OURS, RECOMPUTE, WHOLE, as_text, of_limit

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


# what follows the name of a machine in that of a committed result → the command that makes it
SUITES = {
    "": "python -m benchmarks",
    "-full": "python -m benchmarks --suite full",
    "-one-thread": "python -m benchmarks --threads 1 --budget 230",
    "-full-one-thread": "python -m benchmarks --suite full --threads 1",
    "-float64": "python -m benchmarks --dtype float64 --budget 230",
    "-bfloat16": "python -m benchmarks --dtype bfloat16",
    "-recompute": (
        "python -m benchmarks --batch 32 --seq-len 128 --hidden 256 --layers 1,4 --passes step "
        "--contenders fusedrnn,fusedrnn-recompute --budget 70"
    ),
    "-memory": "python -m benchmarks --suite memory",
    "-costs": "python -m benchmarks --suite costs",
    "-costs-one-thread": "python -m benchmarks --suite costs --threads 1",
    "-wide": (
        "python -m benchmarks --cells lstm,gru --batch 64 --seq-len 64 --hidden 512 --passes infer,step --rounds 30 --budget 150"
    ),
}


def committed(result, machine):
    """What a result is called once it is committed; None if it is none of those. By its machine, kernels, cores and command."""
    e = result["environment"]
    if e.get("told") and set(e["told"]) != set(INSTRUCTION_SETS):
        return None  # some were held back, and others not
    for suite, command in SUITES.items():
        if e["command"] == command:
            return f"{machine}-{kernels(result).removesuffix('_bf16')}-{e['cores']}-cores{suite}"
    return None


def read(name):
    """The committed result of that name, and what machine it is of."""
    return {**json.loads((RESULTS / f"{name}.json").read_text()), "machine": name.split("-")[0]}


# what we want to be: so many times as fast as torch.nn, by cell and pass
GOALS = {
    ("lstm", "step"): 2.0, ("lstm", "infer"): 1.8,
    ("gru", "step"): 5.0, ("gru", "infer"): 3.0,
    ("rnn", "step"): 5.0, ("rnn", "infer"): 3.0,
}  # fmt: skip


def taken(result):
    """How the result came about."""
    e = result["environment"]
    return (
        f"`{e['command']}`{told(e)} on a {e['cores']}-core {e['cpu']} ({where(result)}), torch {e['torch']}, "
        f"{e['threads']} thread{'s' * (e['threads'] > 1)}, {e['date'][:10]}."
    )


def told(environment):
    """What held the instruction sets of fusedrnn and torch back, if anything did."""
    variables = environment.get("told") or {}
    return f" with `{' '.join(f'{name}={value}' for name, value in variables.items())}`" if variables else ""


def against_torch(result):
    """(record, torch.nn's time over ours) where there are both."""
    for record in result["results"]:
        if "torch.nn" in record["ratios"]:
            yield record, record["ratios"]["torch.nn"]


def at_limit(record):
    """torch.nn's time over the limit, in the fastest decile of its rounds: what stands at every ceiling would reach that ratio."""
    return 1 / of_limit(record, "torch.nn")


def speed(result):
    """A row a case, training and inference side by side, and the losses by name."""
    rows, ratios = {}, {}
    for record, ratio in against_torch(result):
        theirs, ours = (record["contenders"][name] for name in ("torch.nn", OURS))
        cell = f"{1e3 * theirs['median_s']:.3g} → {1e3 * ours['median_s']:.3g} ms | **{ratio:.2f}**"
        rows.setdefault(record["case"], {})[record["pass"]] = cell
        ratios[f"{record['case']} {record['pass']}"] = ratio
    losses = [f"{name} ({ratio:.2f})" for name, ratio in ratios.items() if ratio < 1]
    of_rounds = all("ratio" in record["contenders"]["torch.nn"] for record, _ in against_torch(result))
    said = "Medians, torch.nn → fusedrnn, and " + ("that of the rounds' ratios" if of_rounds else "their ratio")
    return [
        f"{taken(result)} {said}, which is above 1 where fusedrnn is faster.",
        "",
        "| case | training step | ratio | inference | ratio |",
        "|---|---|---|---|---|",
        *(f"| {case} | {cells.get('step', '| ')} | {cells.get('infer', '| ')} |" for case, cells in rows.items()),
        "",
        f"Geometric mean of {len(ratios)} ratios: {statistics.geometric_mean(ratios.values()):.2f}. "
        f"Losses: {'; '.join(losses) or 'none in this grid'}.",
    ]


def grids(*results):
    """A row a result: geometric means by cell and pass, with the least ratio and the mean at the limit; then the losses."""
    columns = list(itertools.product(("lstm", "gru", "rnn"), ("step", "infer")))
    rows, losses = [], []
    for result in results:
        e = result["environment"]
        name = f"{where(result)}: `{e['command']}`, {e['threads']} thread{'s' * (e['threads'] > 1)}{disturbance(result)}"
        name += f" ({result['ended']})" if "ended" in result else ""
        ratios, most = ({column: [] for column in columns} for _ in range(2))
        for record, ratio in against_torch(result):
            if (record["cell"], record["pass"]) in ratios:
                ratios[record["cell"], record["pass"]].append(ratio)
                most[record["cell"], record["pass"]].append(at_limit(record))
            if ratio < 1:
                ours, theirs = (100 * of_limit(record, name) for name in (OURS, "torch.nn"))
                losses.append(
                    f"- {where(result)}: {record['case']} {record['pass']} of `{e['command']}`: {ratio:.2f}; ours at {ours:.0f} % of the limit, "
                    f"torch.nn at {theirs:.0f} %"
                )
        mean = lambda values: f"{statistics.geometric_mean(values):.2f}"
        cells = (f"**{mean(ratios[c])}** ({min(ratios[c]):.2f}) of {mean(most[c])}" for c in columns)
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return [
        "All that was measured: geometric means of torch.nn's time over ours, the least ratio in brackets, and the mean that a",
        "kernel would have that stands at every ceiling of the machine (docs/speed.md). Undisturbed: the part of its best speed",
        "at which a loop that needs registers alone ran between the rounds that count, in the median; the rest went to other users.",
        "",
        "| | LSTM training | inference | GRU training | inference | RNN training | inference |",
        "|---|" + "---|" * len(columns),
        *rows,
        "",
        *held_back(*results),
        *(["Where torch.nn was faster:", "", *losses] if losses else ["torch.nn was faster nowhere."]),
    ]


def held_back(*results):
    """A line for each way in which processors were held to less than they have, and which were."""
    ways = {}
    for result in results:
        if result["environment"].get("told"):
            ways.setdefault(told(result["environment"]), {})[where(result)] = None  # in their order, once each
    return [line for way, places in ways.items() for line in (f"{'; '.join(places)}: a processor that has more, held to it{way}.", "")]


def kernels(result):
    return result["environment"]["build"]["cpu kernels"]


def where(result):
    """Processor and kernels."""
    return f"{result['machine']}, {kernels(result)}"


def disturbance(result):
    shares = [record["undisturbed"] for record in result["results"] if record.get("undisturbed")]
    return f", undisturbed {100 * statistics.median(shares):.0f} %" if shares else ""


LARGE, WANTED = 8192, 0.85  # B·H of what is called large, and the share of the limit that it is to reach


def short_of_goals(*results):
    """The rows that fall short of their goal: those whose goal lies beyond the machine's limit, those that come as near to it as
    large layers are to come, and the others."""
    beyond, near, others, count = [], [], [], 0
    for result in results:
        grid = result["environment"]["command"].removeprefix("python -m benchmarks").strip() or "quick"
        for record, ratio in against_torch(result):
            goal = GOALS.get((record["cell"], record["pass"]))
            if goal and record["dtype"] == "float64":
                goal = 1.0  # what matters there is the digits
            if goal is None or not record["limit_s"]:
                continue
            count += 1
            if ratio >= goal:
                continue
            most, share = at_limit(record), of_limit(record, OURS)
            row = f"| {record['case']} {record['pass']} | {grid} | {ratio:.2f} | {goal} | {most:.2f} | {100 * share:.0f} % |"
            (beyond if most < goal else near if share >= WANTED else others).append((most, row))
    head = ["| case and pass | grid | ratio | goal | most | ours of the limit |", "|---|---|---|---|---|---|"]
    table = lambda rows: [*head, *(row for _, row in sorted(rows))]
    return [
        f"Of {count} rows {len(beyond) + len(near) + len(others)} fall short of their goal. Of {len(beyond)} of them the goal lies "
        "beyond the limit: “most” is torch.nn's time over the limit, what a kernel that stands at every ceiling would reach; both "
        "columns of the limit are of the fastest tenth of the rounds.",
        "",
        *table(beyond),
        "",
        f"{len(near)} stand at {100 * WANTED:.0f} % of the limit and more:",
        "",
        *table(near),
        "",
        f"The other {len(others)}:",
        "",
        *table(others),
    ]


def large(*results):
    """How near to their limit layers of many rows and units come, by cell and pass, and which stay below what is wanted."""
    shares, below = {}, []
    for result in results:
        grid = result["environment"]["command"].removeprefix("python -m benchmarks").strip() or "quick"
        for record, _ in against_torch(result):
            if record["B"] * record["H"] < LARGE or record["pass"] not in ("infer", "step") or not record["limit_s"]:
                continue
            share = of_limit(record, OURS)
            kind = f"{record['cell']} {record['pass']}" + f", {record['ragged']}" * bool(record["ragged"])
            shares.setdefault(kind, []).append(share)
            if share < WANTED:
                below.append((share, f"| {record['case']} {record['pass']} | {grid} | {100 * share:.0f} % |"))
    rows = [
        f"| {kind} | {len(found)} | {sum(share >= WANTED for share in found)} | {100 * statistics.median(found):.0f} % | {100 * min(found):.0f} % |"
        for kind, found in sorted(shares.items())
    ]
    return [
        f"B·H of {LARGE} and more, in the fastest tenth of the rounds:",
        "",
        f"| cell and pass | rows | at {100 * WANTED:.0f} % of the limit | median | least |",
        "|---|---|---|---|---|",
        *rows,
        "",
        "Below it:",
        "",
        "| case and pass | grid | of the limit |",
        "|---|---|---|",
        *(row for _, row in sorted(below)),
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


def peaks(result):
    """Peak of memory of a training step over sequences of several lengths, and ours over torch.nn's."""
    rows = []
    for record in result["results"]:
        theirs, ours, again = (record["contenders"][name]["peak_bytes"] for name in ("torch.nn", OURS, RECOMPUTE))
        rows.append(f"| {record['case']} | {theirs / 1e6:.3g} | {ours / 1e6:.3g} | **{ours / theirs:.2f}** | {again / 1e6:.3g} |")
    head = f"| case | torch.nn, MB | {OURS}, MB | of torch.nn's | {RECOMPUTE}, MB |"
    return [taken(result) + " Peak of a training step beyond what was there before it.", "", head, "|---|---|---|---|---|", *rows]


def costs(*results):
    """What a call and a step take, and rows with resets or of unequal length beside the same rows without."""
    lines = []
    for result in results:
        rows = []
        for record, ratio in against_torch(result):
            theirs, ours = (1e6 * record["contenders"][name]["median_s"] for name in ("torch.nn", OURS))
            case = Case.of(record)
            cells = [f"{case} {record['pass']}", f"{theirs:.3g}", f"{ours:.3g}", f"**{ratio:.2f}**", f"{ours / case.T:.3g}"]
            cells += [f"{1 / record['ratios'][WHOLE]:.2f}" if WHOLE in record["ratios"] else ""]
            cells += [f"{int(case.sequence_lengths().sum()) / (case.B * case.T):.2f}" if case.ragged else ""]
            rows.append(f"| {' | '.join(cells)} |")
        head = ["case and pass", "torch.nn, µs", f"{OURS}, µs", "ratio", "a step, µs", "of whole rows' time", "of their steps"]
        lines += [f"{taken(result)} Medians, and those of the rounds' ratios.", "", f"| {' | '.join(head)} |"]
        lines += ["|---|" + "---|" * (len(head) - 1), *rows, ""]
    return lines[:-1]


def many_rounds(result):
    """Medians and deciles of rows that the suites have time for only a few rounds of."""
    rows = []
    for record, ratio in against_torch(result):
        theirs, ours = record["contenders"]["torch.nn"], record["contenders"][OURS]
        rows.append(
            f"| {record['case']} {record['pass']} | {ours['rounds']} | {as_text(theirs)} | {as_text(ours)} | {ratio:.2f} |"
            f" {100 * of_limit(record, OURS):.0f} % |"
        )
    head = ["| case and pass | rounds | torch.nn, ms | fusedrnn, ms | ratio | ours of the limit |", "|---|---|---|---|---|---|"]
    return [taken(result) + " Medians, and deciles in brackets.", "", *head, *rows]


APART = ("-recompute", "-wide", "-memory", "-costs", "-costs-one-thread")  # results with tables of their own


def _grids(*machines):
    names = (f"{machine}{suite}" for machine in machines for suite in SUITES if suite not in APART)
    return [name for name in names if (RESULTS / f"{name}.json").exists()]


ZEN5, ZEN5_AVX2, ZEN4, ZEN4_AVX2 = (f"{machine}-{isa}-2-cores" for machine in ("zen5", "zen4") for isa in ("avx512", "avx2"))
LARGE_GRIDS = ("", "-full", "-one-thread", "-full-one-thread")
# name of a table → the text that it stands in, what makes it, and of which results, of those that are there by then
TABLES = {
    "speed": ("README.md", speed, lambda: [ZEN5]),
    "grids": ("README.md", grids, lambda: _grids(ZEN5, ZEN5_AVX2, ZEN4, ZEN4_AVX2)),
    "memory": ("README.md", memory, lambda: [f"{ZEN5}-recompute"]),
    "memory and length": ("docs/speed.md", peaks, lambda: [f"{ZEN5}-memory"]),
    "costs": ("docs/speed.md", costs, lambda: [f"{ZEN5}-costs", f"{ZEN5}-costs-one-thread"]),
    "speed in bfloat16": ("docs/speed.md", speed, lambda: [f"{ZEN5}-bfloat16"]),
    "speed with AVX2": ("docs/speed.md", speed, lambda: [ZEN5_AVX2]),
    "large layers": ("docs/speed.md", large, lambda: [f"{ZEN5}{grid}" for grid in LARGE_GRIDS]),
    "many rounds": ("docs/speed.md", many_rounds, lambda: [f"{ZEN5}-wide"]),
    "many rounds with AVX2": ("docs/speed.md", many_rounds, lambda: [f"{ZEN5_AVX2}-wide"]),
    "short with AVX-512": ("docs/speed.md", short_of_goals, lambda: _grids(ZEN5)),
    "short with AVX2": ("docs/speed.md", short_of_goals, lambda: _grids(ZEN5_AVX2)),
    "short with AVX-512 on Zen 4": ("docs/speed-zen4.md", short_of_goals, lambda: _grids(ZEN4)),
    "short with AVX2 on Zen 4": ("docs/speed-zen4.md", short_of_goals, lambda: _grids(ZEN4_AVX2)),
}
TEXTS = sorted({text for text, *_ in TABLES.values()})


def filled(text, content):
    """The content of the text of that name with its tables between their marks. Raises ValueError where one is missing."""
    for name, (place, table, sources) in TABLES.items():
        if place != text:
            continue
        begin, end = f"<!-- {name}: made by python -m benchmarks.readme -->", f"<!-- end of {name} -->"
        head, _, rest = content.partition(begin)
        _, mark, tail = rest.partition(end)
        if not mark:
            raise ValueError(f"{text} must hold the marks {begin!r} and {end!r}")
        lines = "\n".join(table(*map(read, sources())))
        content = f"{head}{begin}\n\n{lines}\n\n{end}{tail}"
    return content


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description="Writes the tables anew.")
    parser.add_argument("--machine", help="the processor's common name, without hyphens: zen5")
    parser.add_argument("results", nargs="*", type=Path, metavar="RESULT.json", help="becomes a committed one first")
    options = parser.parse_args(arguments)
    if options.results and not re.fullmatch(r"\w+", options.machine or ""):
        parser.error(f"results need --machine NAME, a word; got {options.machine!r}")
    for given in options.results:
        try:
            result = gate.read(given)
        except gate.BadResult as error:
            parser.error(str(error))
        name = committed(result, options.machine)
        if not name:
            made = f"`{result['environment']['command']}`{told(result['environment'])}"
            held = f"with all of {', '.join(INSTRUCTION_SETS)} or none"
            parser.error(f"{given} was made by {made}; a committed result, {held}, by one of: {', '.join(SUITES.values())}")
        (RESULTS / f"{name}.json").write_text(given.read_text())
    for text in TEXTS:
        path = ROOT / text
        path.write_text(filled(text, path.read_text()))


if __name__ == "__main__":
    main()
