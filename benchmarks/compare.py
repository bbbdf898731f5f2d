"""Compare the speed of fusedrnn's layers with torch.nn's on the CPU: `python -m benchmarks.compare`.

Every case is first computed in float64, and a contender whose output or gradients stray from that is never timed.
The others warm up and then take turns, round by round, so that whatever else the machine does hits them alike. A
training pass is forward and backward, with the gradients of the input and of every weight; an inference pass runs
under no_grad. Ragged cases start from a padded batch: packing and unpacking count where a contender packs.
"""

import argparse
import copy
import dataclasses
import datetime
import itertools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
import timeit
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fusedrnn
from fusedrnn import _ops

ROOT = Path(__file__).resolve().parents[1]
LAYERS = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}
PASSES = ("train", "infer")
OURS = "fusedrnn"
SAMPLE_SECONDS = 2e-3  # shorter passes are repeated to fill one sample
LEAST_ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Case:
    """The layer and the batch of one comparison; the input is as wide as the state."""

    cell: str
    B: int
    T: int
    H: int
    layers: int = 1
    bidirectional: bool = False
    dtype: str = "float32"
    ragged: bool = False  # rows of unequal length, drawn evenly from 1 to T

    def __str__(self):
        name = f"{self.cell} B={self.B} T={self.T} H={self.H}" + f" L={self.layers}" * (self.layers > 1)
        name += " bi" * self.bidirectional + " ragged" * self.ragged
        return name + f" {self.dtype}" * (self.dtype != "float32")


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


def contenders(case, mode):
    """Return {name: pass} of the same layer on the same data, with torch.nn's in float64 as "exact".

    A pass is a function of nothing that returns y, zero in the padding, and in training the gradients of x and of
    every weight. The first contender is the one whose rounding errors ours are held against.
    """
    torch.manual_seed(0)
    dtype = getattr(torch, case.dtype)
    make = getattr(torch.nn, LAYERS[case.cell])
    theirs = make(case.H, case.H, case.layers, bidirectional=case.bidirectional).to(dtype).train(mode == "train")
    ours = fusedrnn.convert(copy.deepcopy(theirs), report=None)
    x = torch.randn(case.T, case.B, case.H).to(dtype)
    d_y = torch.randn(case.T, case.B, (1 + case.bidirectional) * case.H).to(dtype)
    lengths = padding = None
    if case.ragged:
        lengths = torch.randint(1, case.T + 1, (case.B,))
        padding = (torch.arange(case.T)[:, None] >= lengths)[..., None]
        d_y = d_y.masked_fill(padding, 0)  # no loss looks at the padding

    def run(layer, x, d_y, packed):
        def forward():
            if packed:
                rows = pack_padded_sequence(x, lengths, enforce_sorted=False)
                return pad_packed_sequence(layer(rows)[0], total_length=case.T)[0]
            return layer(x)[0]

        def infer():
            with torch.no_grad():
                return [forward()]

        def train():
            y = forward()
            return [y, *torch.autograd.grad(y, [x, *layer.parameters()], d_y)]

        x = x.detach().requires_grad_(mode == "train")
        return train if mode == "train" else infer

    exact = run(copy.deepcopy(theirs).double(), x.double(), d_y.double(), case.ragged)
    if not case.ragged:
        passes = {"torch.nn": run(theirs, x, d_y, False)}
    else:
        passes = {"torch.nn packed": run(theirs, x, d_y, True)}
        if not case.bidirectional:  # a reverse direction that starts in the padding computes something else
            padded = run(theirs, x, d_y, False)
            passes["torch.nn padded"] = lambda: [(out := padded())[0].masked_fill(padding, 0), *out[1:]]
    return {**passes, OURS: run(ours, x, d_y, case.ragged), "exact": exact}


def relative_errors(results, truth):
    """The largest error of each tensor, in units of its largest true value; infinite where it is not a number."""
    if [r.shape for r in results] != [t.shape for t in truth]:
        return [math.inf] * len(truth)
    errors = [(r.double() - t).abs().max().item() / (t.abs().max().item() or 1) for r, t in zip(results, truth)]
    return [e if math.isfinite(e) else math.inf for e in errors]


def measure(case, mode, seconds, rounds):
    """Verify the contenders of one case, time those that are right, and return a record for the JSON file."""
    passes = contenders(case, mode)
    truth = passes.pop("exact")()
    errors = {name: relative_errors(run(), truth) for name, run in passes.items()}
    # Another order of the same sums: ours may be three times as far off as torch's, and a few roundings where torch
    # happens to be exact. Torch's own only has to be no nonsense.
    eps = torch.finfo(getattr(torch, case.dtype)).eps
    yardstick = next(iter(errors.values()))
    bounds = {n: [3 * e + 16 * eps for e in yardstick] if n == OURS else [4 * eps**0.5] * len(truth) for n in errors}
    right = [n for n in errors if all(e <= bound for e, bound in zip(errors[n], bounds[n]))]
    worst = {n: max(e) if max(e) < math.inf else None for n, e in errors.items()}  # JSON knows no infinity
    results = {n: {"error": worst[n], "right": n in right} for n in errors}
    for name, samples in time_in_turns({n: passes[n] for n in right}, seconds, rounds).items():
        deciles = statistics.quantiles(samples, n=10, method="inclusive") if len(samples) > 1 else samples
        figures = {"median_s": statistics.median(samples), "p10_s": deciles[0], "p90_s": deciles[-1]}
        results[name] |= {**figures, "rounds": len(samples)}
    ratios = {n: results[n]["median_s"] / results[OURS]["median_s"] for n in right if n != OURS and OURS in right}
    return {"case": str(case), "pass": mode, **dataclasses.asdict(case), "contenders": results, "ratios": ratios}


def time_in_turns(passes, seconds, rounds):
    """Return {name: seconds per pass, one for each round}: `rounds` rounds, or as many as fit into `seconds`."""
    timers = {name: timeit.Timer(run) for name, run in passes.items()}
    repeats = {}
    for name, timer in timers.items():
        timer.timeit(1)  # warm-up, after the run that was verified
        repeats[name] = max(1, round(SAMPLE_SECONDS / timer.timeit(1)))
    samples = {name: [] for name in timers}
    start, order = time.perf_counter(), list(timers)
    for turn in itertools.count():
        if turn >= (rounds or LEAST_ROUNDS) and (rounds or time.perf_counter() - start > seconds):
            return samples
        for name in order if turn % 2 else order[::-1]:
            samples[name].append(timers[name].timeit(repeats[name]) / repeats[name])


def load():
    """How many processes wanted the processor in the last minute, where the system counts them."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def environment():
    """What a reader needs to judge, or to repeat, the figures; taken before the run, for the load is ours in it."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    try:
        git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
        commit = git.stdout.strip() or None
    except OSError:  # no git
        commit = None
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit,
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
    if ratios:
        console.print(f"geometric mean of {len(ratios)} ratios: {statistics.geometric_mean(ratios.values()):.2f}")
        losses = [f"{name} ({ratio:.2f})" for name, ratio in ratios.items() if ratio < 1]
        console.print(f"losses: {'; '.join(losses) or 'none'}", highlight=False)


def as_text(result):
    if not result["right"]:
        return "WRONG, error " + ("not finite" if result["error"] is None else f"{result['error']:.1e}")
    return "{:.3f} ({:.3f} to {:.3f})".format(*(1e3 * result[key] for key in ("median_s", "p10_s", "p90_s")))


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
