"""The speed and memory of fusedrnn's layers against torch.nn's: `python -m benchmarks`."""

import os

# before torch loads them: its profiler, which memory.py runs for every row, would write lines of its own each time
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
