"""The quick suite under pytest-benchmark, to follow speed over versions: `pytest benchmarks --benchmark-only`.

`--benchmark-autosave` keeps a run and `--benchmark-compare` sets the next one beside it. A layer that is wrong fails
and is not timed.
"""

import functools

import pytest
import torch

from . import timing
from .cases import contenders, expected
from .suites import QUICK, SUITES
from .timing import OURS

CASES = list(dict.fromkeys(QUICK))
NAMES = ("torch.nn", OURS)
ROWS = [(case, mode, name) for case in CASES for mode in SUITES["quick"][1] for name in NAMES]


@functools.lru_cache(maxsize=1)  # the rows of a case come one after the other
def prepared(case):
    found, exact, _ = contenders(case)
    return found, exact.run("step")()


@pytest.mark.benchmark(min_rounds=3, max_time=0.3, disable_gc=True)
@pytest.mark.parametrize("case, mode, name", ROWS, ids=lambda value: str(value).replace(" ", "-").replace("=", ""))
def test_speed(benchmark, case, mode, name):
    found, truth = prepared(case)
    eps = torch.finfo(getattr(torch, case.dtype)).eps
    checked = timing.measure({n: found[n].run(mode) for n in NAMES}, expected(truth, mode), eps, seconds=0)
    assert checked[name]["right"], timing.as_text(checked[name])
    benchmark.group = f"{case} {mode}"
    benchmark(found[name].run(mode))
