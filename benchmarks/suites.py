"""Which cases run: a quick suite, a full one, one for memory, one for calls and masks, or the grid that the options ask for."""

import dataclasses
import itertools

from .cases import CONTENDERS, LAYERS, RAGGED, Case
from .peers import LONGEST_UNROLLED
from .timing import OURS, RECOMPUTE, TF32, WHOLE

BATCHES, STEPS, WIDTHS = (1, 4, 16, 32, 64, 128), (10, 128, 512), (16, 50, 64, 100, 200, 512, 650, 1024)
MOST_FLOPS = 1.5e10  # of a forward's products: what is beyond would take the time of all the others
COMPILED = [(1, 10, 256), (32, 10, 256)]  # the full suite compiles the step loop for these alone

TELLING = [
    *(Case(cell, 1, 128, 64) for cell in LAYERS),  # one sequence at a time
    *(Case(cell, 1, 128, 128) for cell in ("lstm", "gru")),
    *(Case("gru", 1, T, 1024) for T in (10, 100)),  # weights larger than most caches
    Case("lstm", 1, 1, 64),  # one step: what a call costs
    Case("lstm", 4, 16, 256),
    Case("lstm", 8, 200, 50),  # a width that no vector divides
    *(Case(cell, 32, 128, 256) for cell in LAYERS),  # the common training shape
    *(Case(cell, 64, 32, 512) for cell in ("lstm", "gru")),  # large products take all the time
    Case("gru", 16, 64, 128, layers=2, bidirectional=True),
    *(Case(cell, 32, 128, 256, ragged=way) for cell in ("lstm", "gru") for way in RAGGED),
]
QUICK = TELLING + [Case(cell, B, T, 128) for cell, B, T in itertools.product(LAYERS, (1, 16, 64), (10, 128))]
FULL = TELLING + [
    *(Case(cell, B, T, 256) for cell, B, T in itertools.product(LAYERS, BATCHES, STEPS)),
    *(Case(cell, B, 128, H) for cell, B, H in itertools.product(LAYERS, (1, 32), WIDTHS)),
    *(Case(cell, 16, 128, 128, layers=2) for cell in LAYERS),
    *(Case(cell, 16, 128, 128, bidirectional=True) for cell in LAYERS),
    *(Case("rnn", 32, 128, 256, ragged=way) for way in RAGGED),
]
MEMORY = [Case(cell, 32, T, 256) for cell, T in itertools.product(LAYERS, (10, 32, 128, 512))]
MASKED = [(4, 128, 128), (32, 128, 256)]  # B, T, H
COSTS = [  # of a call, a step, a reset, and rows of unequal length
    *(Case(cell, B, 1, H, form="cell") for cell, (B, H) in itertools.product(LAYERS, [(1, 64), (1, 256), (32, 256)])),
    *(Case(cell, 1, T, 64) for cell, T in itertools.product(LAYERS, (1, 128))),
    *(Case(cell, *sizes, form="reset") for sizes, cell in itertools.product(MASKED, LAYERS)),
    *(Case(cell, *sizes, ragged="lengths") for sizes, cell in itertools.product(MASKED, LAYERS)),
]
SUITES = {  # name → cases, passes, seconds in all
    "quick": (QUICK, ("infer", "step"), 102),
    "full": (FULL, ("infer", "step"), 580),
    "memory": (MEMORY, ("step",), 120),
    "costs": (COSTS, ("infer", "step"), 120),
}
APART = ("train-forward", "backward")  # the halves of a step, which the full suite times of TELLING alone
SECONDS_PER_ROW, SECONDS_TO_COMPILE = 1.5, 30  # in a grid without --budget


def select(options):
    """[(case, pass, contenders)] in the order of running, and the seconds that they may take in all."""
    cases, passes, seconds = SUITES[options.suite]
    sizes = (options.batch, options.seq_len, options.hidden, options.layers)
    asked = any(sizes) or options.bidirectional or options.ragged
    if asked:
        grid = itertools.product(options.cells, *(given or [usual] for given, usual in zip(sizes, (32, 128, 256, 1))))
        ways = options.ragged or [""]
        cases = [Case(*point, options.bidirectional, options.dtype, way) for point in grid for way in ways]
    else:
        small = (case for case in dict.fromkeys(cases) if sum(case.products()) <= MOST_FLOPS or case in TELLING)
        cases = [dataclasses.replace(case, dtype=options.dtype) for case in small if case.cell in options.cells]
    passes = options.passes or list(passes) + ["graph"] * (options.device == "cuda" and options.suite != "memory")
    halves = options.suite == "full" and not asked and not options.passes

    def passes_of(case):
        # torch packs rows by indices that it copies from the host, which no graph captures.
        packs = case.ragged == "packed" or (case.ragged and case.bidirectional)
        usual = [mode for mode in passes if mode != "graph" or options.passes or not packs]
        return [*usual, *(APART if halves and case in TELLING else ())]

    timed_in_float32 = options.dtype == "float32" and options.suite != "memory"
    besides = (TF32,) if options.device == "cuda" and timed_in_float32 and not options.tf32 else ()
    rows = [(case, mode, rivals(case, options) + besides) for case in cases for mode in passes_of(case)]
    if asked:
        compiling = sum("compiled" in names and case.T <= LONGEST_UNROLLED for case, _, names in rows)
        seconds = min(560, 10 + SECONDS_PER_ROW * len(rows) + SECONDS_TO_COMPILE * compiling)
    return rows, options.budget or seconds


def rivals(case, options):
    """Who runs a case: those asked for, or torch.nn and ours, with peers where the full suite wants them."""
    if options.contenders:
        return tuple(name for name in CONTENDERS if name in ("torch.nn", *options.contenders))
    if options.suite == "memory":
        return "torch.nn", OURS, RECOMPUTE
    if options.suite == "costs":
        return ("torch.nn", OURS, WHOLE) if case != case.whole() else ("torch.nn", OURS)
    if options.suite != "full" or case.ragged or case.layers > 1 or case.bidirectional:
        return "torch.nn", OURS
    unwanted = {RECOMPUTE, WHOLE, *(["compiled"] if (case.B, case.T, case.H) not in COMPILED else [])}
    return tuple(name for name in CONTENDERS if name not in unwanted)
