"""The speed and memory of fusedrnn's layers against torch.nn's: `python -m benchmarks`."""

import os
import sys

# before torch loads them: its profiler, which memory.py runs for every row, would write lines of its own each time
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def missing(error, program, remedy):
    """End a program that cannot import something, with one line: how to get a package, or how to mend a build."""
    package = isinstance(error, ModuleNotFoundError) and error.name.partition(".")[0]
    print(f"{program} needs {package}: {remedy}" if package else f"{program}: {error}", file=sys.stderr)
    sys.exit(2)
