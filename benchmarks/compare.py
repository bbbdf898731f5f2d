"""Compare the speed of fusedrnn's layers with torch.nn's on the CPU: `python -m benchmarks.compare`.

Every case is first computed in float64, and a contender whose output or gradients stray from that is never timed.
The others warm up and then take turns, round by round, so that whatever else the machine does hits them alike. A
training pass is forward and backward, with the gradients of the input and of every weight; an inference pass runs
under no_grad. Ragged cases start from a padded batch: packing and unpacking count where a contender packs.
"""

import argparse
import dataclasses
import datetime
import itertools
import json
import os
import platform
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import fusedrnn
from fusedrnn import _ops

from . import timing
from .cases import LAYERS, PASSES, Case, contenders
from .timing import OURS, as_text

DEFAULT_CASES = [
    *(Case(cell, 1, 128, 64) for cell in LAYERS),  # one sequence at a time
    *(Case(cell, 1, 128, 128) for cell in ("lstm", "gru")),
    *(Case("gru", 1, T, 1024) for T in (10, 100)),  # weights larger than most caches
    Case("lstm", 1, 1, 64),  # one step: what a call costs
    Case("lstm", 4, 16, 256),
    Case("lstm", 8, 200, 50),  # a width that no vector divides
    *(Case(cell, 32, 128, 256) for cell in LAYERS),  # the common training shape
    *(Case(cell, 64, 64, 512) for cell in ("lstm", "gru")),  # large products take all the time
    Case("gru", 16, 64, 128, layers=2, bidirectional=True),
    *(Case(cell, 32, 128, 256, ragged=True) for cell in ("lstm", "gru")),
]


def measure(case, mode, seconds, rounds):
    """Verify the contenders of one case, time those that are right, and return a record for the JSON file."""
    passes = contenders(case, mode)
    truth = passes.pop("exact")()
    results = timing.measure(passes, truth, torch.finfo(getattr(torch, case.dtype)).eps, seconds, rounds)
    medians = {name: result["median_s"] for name, result in results.items() if result["right"]}
    ratios = {name: median / medians[OURS] for name, median in medians.items() if name != OURS and OURS in medians}
    return {"case": str(case), "pass": mode, **dataclasses.asdict(case), "contenders": results, "ratios": ratios}


def load():
    """How many processes wanted the processor in the last minute, where the system counts them."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def environment():
    """What a reader needs to judge, or to repeat, the figures; taken before the run, for the load is ours in it."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": timing.commit(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load": load(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "fusedrnn": fusedrnn.__version__,
        "build": _ops.build_info(),
    }


def report(records, console):
    """Print the table, the geometric mean and the losses by name."""
    table = Table(title="median ms (p10 to p90); ratio: torch.nn's time over fusedrnn's, above 1 fusedrnn is faster")
    for column in ("case", "pass", "torch.nn", OURS, "ratio"):
        table.add_column(column, justify="left" if column in ("case", "pass") else "right", no_wrap=True)
    rows = [(record, rival) for record in records for rival in record["contenders"] if rival != OURS]
    ratios = {}
    for record, rival in rows:
        case, ratio = record["case"] + rival.removeprefix("torch.nn").replace(" ", " / "), record["ratios"].get(rival)
        style = "yellow" if ratio is None else "red" if ratio < 1 else ""
        times = (as_text(record["contenders"][name]) for name in (rival, OURS))
        table.add_row(case, record["pass"], *times, "" if ratio is None else f"{ratio:.2f}", style=style)
        if ratio is not None:
            ratios[f"{case} {record['pass']}"] = ratio
    console.print(table)
    for line in timing.verdict(ratios):
        console.print(line, highlight=False)


def parse(arguments):
    def size(text):
        if not text.isdigit() or int(text) == 0:
            raise argparse.ArgumentTypeError(f"must be a whole number above 0; got {text!r}")
        return int(text)

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare",
        description=__doc__.splitlines()[0],
        epilog="A few telling cases run, unless any of --batch, --seq-len, --hidden, --layers, --bidirectional and "
        "--ragged asks for the grid of all combinations instead.",
    )
    parser.add_argument("--cells", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=PASSES)
    for name, letter, usual in (("batch", "B", 32), ("seq-len", "T", 128), ("hidden", "H", 256), ("layers", "L", 1)):
        parser.add_argument(f"--{name}", nargs="+", type=size, metavar=letter, help=f"{usual} in a grid if omitted")
    parser.add_argument("--bidirectional", action="store_true")
    parser.add_argument("--ragged", action="store_true", help="rows of unequal length")
    parser.add_argument("--dtype", choices=("float32", "float64", "bfloat16", "float16"), default="float32")
    parser.add_argument("--threads", type=size, help="torch's default if omitted")
    parser.add_argument("--seconds", type=float, default=1.2, help="to time each row for (default: %(default)s)")
    parser.add_argument("--rounds", type=size, help="samples of each contender, instead of --seconds")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write results and environment to this file")
    return parser.parse_args(arguments)


def select(options):
    """The cases that the options ask for."""
    sizes = (options.batch, options.seq_len, options.hidden, options.layers)
    if not any(sizes) and not options.bidirectional and not options.ragged:
        chosen = [case for case in DEFAULT_CASES if case.cell in options.cells]
        return [dataclasses.replace(case, dtype=options.dtype) for case in chosen]
    grid = itertools.product(options.cells, *(given or [usual] for given, usual in zip(sizes, (32, 128, 256, 1))))
    return [Case(*point, options.bidirectional, options.dtype, options.ragged) for point in grid]


def main(arguments=None):
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    console = Console()
    if not console.is_terminal:
        console.width = 140  # a file or a pipe has no width of its own
    machine = environment()
    if machine["load"] and machine["load"] > machine["cores"] / 2:
        console.print(f"the machine is busy (load {machine['load']} on {machine['cores']} cores): expect noise")
    rows = list(itertools.product(select(options), options.passes))
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    records = []
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=len(rows))
            for case, mode in rows:
                progress.update(task, description=f"{case} {mode}")
                records.append(measure(case, mode, options.seconds, options.rounds))
                progress.advance(task)
    except KeyboardInterrupt:
        console.print(f"interrupted after {len(records)} of {len(rows)} rows; here is what was measured")
    report(records, console)
    if options.output:
        result = {"environment": machine, "complete": len(records) == len(rows), "results": records}
        options.output.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
        console.print(f"written to {options.output}")
    if any(not result["right"] for record in records for result in record["contenders"].values()):
        sys.exit("a contender is wrong and was not timed; see the table")


if __name__ == "__main__":
    main()
