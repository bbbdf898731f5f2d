"""Writes the tables of README.md and docs/ from the committed results: `python -m benchmarks.readme`.

With `--machine zen5 RESULT.json ...` it first commits those results to benchmarks/results, under names made of the
processor (which a virtual machine often does not tell), the kernels, the cores and the command. All text between the
marks in these files is generated here; a test compares the two.
"""

import argparse
import itertools
import json
import re
import statistics
import textwrap
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
    said = "the median over rounds" if of_rounds else "that of the medians"
    return [
        taken(result),
        *prose(f"Median times, torch.nn → fusedrnn; the ratio is {said}, above 1 where fusedrnn is faster."),
        "",
        "| case | training step | ratio | inference | ratio |",
        "|---|---|---|---|---|",
        *(f"| {case} | {cells.get('step', '| ')} | {cells.get('infer', '| ')} |" for case, cells in rows.items()),
        "",
        f"Geometric mean of {len(ratios)} ratios: {statistics.geometric_mean(ratios.values()):.2f}. "
        f"Losses: {'; '.join(losses) or 'none in this grid'}.",
    ]


COLUMNS = list(itertools.product(("lstm", "gru", "rnn"), ("step", "infer")))
HEAD = ["| | LSTM training | inference | GRU training | inference | RNN training | inference |", "|---|" + "---|" * len(COLUMNS)]


def prose(text):
    """Lines of text that fit the page, commands unbroken."""
    held = re.sub("`[^`]*`", lambda command: command[0].replace(" ", "\0"), text)
    return [line.replace("\0", " ") for line in textwrap.wrap(held, 120, break_long_words=False, break_on_hyphens=False)]


def in_threads(result):
    threads = result["environment"]["threads"]
    return f"{threads} thread{'s' * (threads > 1)}"


def mean(values):
    return f"{statistics.geometric_mean(values):.2f}"


def glance(*results):
    """Means of the quick grids, and how often torch.nn was faster in all of them."""
    everything = [ratio for result in results for _, ratio in against_torch(result)]
    losses = [ratio for ratio in everything if ratio < 1]
    quick = [result for result in results if result["environment"]["command"] == SUITES[""]]
    rows = []
    for result in quick:
        ratios = {column: [] for column in COLUMNS}
        for record, ratio in against_torch(result):
            ratios[record["cell"], record["pass"]].append(ratio)
        cells = (f"**{mean(ratios[column])}** ({min(ratios[column]):.2f})" for column in COLUMNS)
        rows.append(f"| {where(result)}, {in_threads(result)} | {' | '.join(cells)} |")
    count = len(list(against_torch(quick[0])))
    older = " In the rows “avx2” all libraries are restricted to AVX2." * any(result["environment"].get("told") for result in quick)
    said = f"by at most {100 * (1 / min(losses) - 1):.1f} %" if losses else ""
    faster = f"in {len(losses)}, {said}" if losses else "in none"
    return [
        *prose(
            f"Speed-up over torch.nn in float32 on virtual machines of {quick[0]['environment']['cores']} cores: geometric means over "
            f"the {count} measurements of `{SUITES['']}`, worst case in brackets.{older}"
        ),
        "",
        *HEAD,
        *rows,
        "",
        *prose(
            "[docs/speed.md](docs/speed.md) has the means of larger grids, on one thread, in float64 and in bfloat16. Of all "
            f"{len(everything):,} measurements, torch.nn was faster {faster}."
        ),
    ]


def grids(*results):
    """A row a result: geometric means by cell and pass, with the least ratio and the mean at the limit; then the losses."""
    rows, losses = [], []
    for result in results:
        e = result["environment"]
        name = f"{where(result)}: `{e['command']}`, {in_threads(result)}{disturbance(result)}"
        name += f" ({result['ended']})" if "ended" in result else ""
        ratios, most = ({column: [] for column in COLUMNS} for _ in range(2))
        for record, ratio in against_torch(result):
            if (record["cell"], record["pass"]) in ratios:
                ratios[record["cell"], record["pass"]].append(ratio)
                most[record["cell"], record["pass"]].append(at_limit(record))
            if ratio < 1:
                ours, theirs = (100 * of_limit(record, name) for name in (OURS, "torch.nn"))
                losses.append(
                    f"- {where(result)}, `{e['command']}`: {record['case']} {record['pass']}, ratio {ratio:.3f}; fusedrnn at "
                    f"{ours:.0f} % of the limit, torch.nn at {theirs:.0f} %"
                )
        cells = (f"**{mean(ratios[c])}** ({min(ratios[c]):.2f}) of {mean(most[c])}" for c in COLUMNS)
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return [
        *prose(
            "Geometric mean speed-up over torch.nn, worst case in brackets, then “of” the mean an ideal kernel could reach on "
            "this machine (the limit). Undisturbed: median share of the CPU left to the benchmark, from a register-only loop."
        ),
        "",
        *HEAD,
        *rows,
        "",
        *held_back(*results),
        *(["Where torch.nn was faster:", "", *losses] if losses else ["torch.nn was nowhere faster."]),
    ]


def held_back(*results):
    """A line for each way in which processors were held to less than they have, and which were."""
    ways = {}
    for result in results:
        if result["environment"].get("told"):
            ways.setdefault(told(result["environment"]), {})[where(result)] = None  # in their order, once each
    restricted = "all libraries restricted to an older instruction set than the processor's"
    return [line for way, places in ways.items() for line in (f"{'; '.join(places)}: {restricted},{way}.", "")]


def kernels(result):
    return result["environment"]["build"]["cpu kernels"]


def where(result):
    """Processor and instruction set of the kernels."""
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
    head = ["| case and pass | grid | ratio | goal | best possible | share of limit |", "|---|---|---|---|---|---|"]
    table = lambda rows: [*head, *(row for _, row in sorted(rows))]
    return [
        *prose(
            f"{len(beyond) + len(near) + len(others)} of {count} measurements fall short of their goal. For {len(beyond)} of them the "
            "goal lies beyond the limit. “Best possible” is the ratio of a kernel at the limit, “share of limit” what fusedrnn "
            "reaches of it; both are taken from the fastest tenth of the rounds."
        ),
        "",
        *table(beyond),
        "",
        f"{len(near)} reach at least {100 * WANTED:.0f} % of the limit:",
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
        f"Layers with B·H of {LARGE} or more; shares of the limit in the fastest tenth of the rounds:",
        "",
        f"| cell and pass | cases | of these at {100 * WANTED:.0f} % or more | median | lowest |",
        "|---|---|---|---|---|",
        *rows,
        "",
        f"Those below {100 * WANTED:.0f} %:",
        "",
        "| case and pass | grid | share of limit |",
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
        taken(result),
        "Peak memory added by one training step, and its median time.",
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
    head = f"| case | torch.nn, MB | {OURS}, MB | {OURS} / torch.nn | {RECOMPUTE}, MB |"
    return [taken(result), "Peak memory added by one training step.", "", head, "|---|---|---|---|---|", *rows]


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
        head = ["case and pass", "torch.nn, µs", f"{OURS}, µs", "ratio", "per time step, µs", "time / plain", "valid steps"]
        lines += [taken(result), "Median times; the ratio is the median over rounds.", "", f"| {' | '.join(head)} |"]
        lines += ["|---|" + "---|" * (len(head) - 1), *rows, ""]
    return lines[:-1]


def many_rounds(result):
    """Medians and deciles of cases for which the suites have time for a few rounds only."""
    rows = []
    for record, ratio in against_torch(result):
        theirs, ours = record["contenders"]["torch.nn"], record["contenders"][OURS]
        rows.append(
            f"| {record['case']} {record['pass']} | {ours['rounds']} | {as_text(theirs)} | {as_text(ours)} | {ratio:.2f} |"
            f" {100 * of_limit(record, OURS):.0f} % |"
        )
    head = ["| case and pass | rounds | torch.nn, ms | fusedrnn, ms | ratio | share of limit |", "|---|---|---|---|---|---|"]
    return [taken(result), "Medians, with the 10th and 90th percentiles in brackets.", "", *head, *rows]


APART = ("-recompute", "-wide", "-memory", "-costs", "-costs-one-thread")  # results with tables of their own


def _grids(*machines):
    names = (f"{machine}{suite}" for machine in machines for suite in SUITES if suite not in APART)
    return [name for name in names if (RESULTS / f"{name}.json").exists()]


ZEN5, ZEN5_AVX2, ZEN4, ZEN4_AVX2 = (f"{machine}-{isa}-2-cores" for machine in ("zen5", "zen4") for isa in ("avx512", "avx2"))
LARGE_GRIDS = ("", "-full", "-one-thread", "-full-one-thread")
# name of a table → the text that it stands in, what makes it, and of which results, of those that are there by then
TABLES = {
    "glance": ("README.md", glance, lambda: _grids(ZEN5, ZEN5_AVX2, ZEN4, ZEN4_AVX2)),
    "speed": ("README.md", speed, lambda: [ZEN5]),
    "grids": ("docs/speed.md", grids, lambda: _grids(ZEN5, ZEN5_AVX2, ZEN4, ZEN4_AVX2)),
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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description="Regenerates the tables of README.md and docs/.")
    parser.add_argument("--machine", help="the processor's common name, without hyphens: zen5")
    parser.add_argument("results", nargs="*", type=Path, metavar="RESULT.json", help="commit this result first")
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
