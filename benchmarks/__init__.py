"""The speed and memory of fusedrnn's layers against torch.nn's: `python -m benchmarks`."""

import os
import sys

# before torch loads them: its profiler, which memory.py runs for every row, would write lines of its own each time
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def missing(error, program, remedy):
    """End a program that a package is missing for, with one line that says how to get it."""
    print(f"{program} needs {error.name.partition('.')[0]}: {remedy}", file=sys.stderr)
    sys.exit(2)
