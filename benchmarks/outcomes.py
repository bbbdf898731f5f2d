"""What has begun and what came of it, as lines of JSON that are written as soon as they are known.

A run that hangs, crashes or is killed loses nothing, and another one on the same file goes on with what had not begun.
A kernel that fails may leave the CUDA context useless: the process has to end there, lest all that follows fail.
"""

import json
import sys
from pathlib import Path

LOST = 3  # exit status of a process whose CUDA context is lost


def read(path):
    """Return {test: its record}, a failure before anything else that was written of that test."""
    tests = {}
    for line in Path(path).read_text().splitlines() if Path(path).exists() else ():
        record = json.loads(line)
        if tests.get(record["test"], {}).get("outcome") != "failed":
            tests[record["test"]] = record
    return tests


def write(path, **record):
    with open(path, "a") as file:
        file.write(json.dumps(record) + "\n")


def context_is_lost():
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False
