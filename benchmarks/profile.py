"""Where the time of a layer goes, by kind of kernel: `python -m benchmarks.profile --cell gru --batch 64 --hidden 128`.

Runs one pass over and over under Linux's `perf`, which has to be there and be allowed to look (kernel.perf_event_paranoid
of 2 or less), and prints what share of the processor's time each kind of work took, of all threads.

Exit status: 0, 1 where perf recorded nothing, 2 for input that makes no sense.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from . import missing

try:
    import torch

    from .cases import LAYERS, Case, contenders, too_large
    from .timing import OURS, ROOT
except ImportError as error:
    missing(error, "python -m benchmarks.profile", "pip install --no-build-isolation -e .")

# kind of work → what the names of its functions have (csrc/cpu)
KINDS = {
    "products of the steps": r"multiply|join_|sum_block|dot|Product",
    "products for the weights' gradients": r"add_block|add_rows|GradientWalk<.*>::place",
    "packing for the weights' gradients": r"GradientWalk",
    "cells": r"_units|finish_rows",
    "packing of weights": r"::pack(_|<)",
    "steps around them": r"ForwardWalk|BackwardWalk|Run<",
    "waiting for the other threads": r"Barrier|gomp|omp_",
    "copies": r"mem(move|cpy|set)",
}
OTHER = "Python, torch, system"
PASSES = ("infer", "step")
SETTLE = 0.5  # seconds between the last call before the record and the first in it


def kind_of(symbol, library):
    """The kind of work of a function; what is of none belongs to Python, torch and the system."""
    if "gomp" in library:
        return "waiting for the other threads"
    return next((kind for kind, names in KINDS.items() if re.search(names, symbol)), OTHER)


def shares(report):
    """{kind: share of the time}, of the lines `percent  command  library  [.] symbol` of perf's report."""
    found = {}
    for line in report.splitlines():
        parts = re.match(r"\s*([\d.]+)%\s+\S+\s+(\S+)\s+\[.\]\s+(.*)", line)
        if parts:
            percent, library, symbol = parts.groups()
            kind = kind_of(symbol, library)
            found[kind] = found.get(kind, 0.0) + float(percent) / 100
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def run(case, mode, threads, seconds):
    """What the process does that is watched: prints a line when it is about to begin, and seconds a call at the end."""
    torch.set_num_threads(threads)
    call = contenders(case)[0][OURS].run(mode)
    call(), call()
    print("begins", flush=True)
    time.sleep(SETTLE)
    start, count = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        call()
        count += 1
    print((time.perf_counter() - start) / count, flush=True)
    os._exit(0)  # or the end of Python would be recorded too


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__.split("`")[0].strip())
    parser.add_argument("--cell", choices=LAYERS, default="lstm", help="the layer's (default: %(default)s)")
    says = "inference or a training step (default: %(default)s)"
    parser.add_argument("--pass", dest="mode", choices=PASSES, default="step", help=says)
    for name, usual, what in (
        ("batch", 32, "rows"), ("seq-len", 128, "steps"), ("hidden", 256, "units, and inputs"),
        ("threads", torch.get_num_threads(), "threads"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=usual, metavar="N", help=f"{what} (default: %(default)s)")
    parser.add_argument("--lengths", action="store_true", help="rows of unequal length, given with their lengths")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long to watch (default: %(default)s)")
    parser.add_argument("--watched", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    least = min(options.batch, options.seq_len, options.hidden, options.threads, options.seconds)
    if least <= 0:
        parser.error(f"sizes, threads and seconds must be above 0; got {least}")
    case = Case(options.cell, options.batch, options.seq_len, options.hidden, ragged="lengths" * options.lengths)
    reason = too_large(case)
    if reason:
        parser.error(reason)
    if options.watched:
        return run(case, options.mode, options.threads, options.seconds)
    if not shutil.which("perf"):
        parser.error("perf is not installed (Debian: linux-perf)")
    command = [sys.executable, "-m", "benchmarks.profile", *(sys.argv[1:] if arguments is None else arguments), "--watched"]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "perf.data"
        with open(Path(folder) / "said", "w+") as said:
            watched = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=said, text=True)
            if not watched.stdout.readline():  # it ended before it began
                said.seek(0)
                last = (said.read().strip() or "it says nothing").splitlines()[-1]
                print(f"python -m benchmarks.profile: the process ended before it began: {last}", file=sys.stderr)
                return 1
        time.sleep(SETTLE / 2)
        subprocess.run(["perf", "record", "-q", "-F", "4000", "-o", data, "-p", str(watched.pid)], capture_output=True)
        took = watched.stdout.read().strip()
        report = subprocess.run(["perf", "report", "--stdio", "-g", "none", "-i", data], capture_output=True, text=True)
    found = shares(report.stdout)
    if not found or not took:
        print(f"perf recorded nothing: {report.stderr.strip().splitlines()[-1:] or 'no reason given'}", file=sys.stderr)
        return 1
    print(f"{case} {options.mode}, {options.threads} thread(s): {1e3 * float(took):.3f} ms a call, of which")
    for kind, share in found.items():
        print(f"  {100 * share:5.1f} %  {kind}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
