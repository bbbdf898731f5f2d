"""A pytest plugin that writes each outcome as soon as it is known: `-p benchmarks.outcomes`, to the file FUSEDRNN_OUTCOMES.

A run that hangs, crashes or is killed loses nothing, and another one on the same file goes on with the tests that had
not begun. A kernel that fails may leave the CUDA context useless: the process ends there, lest all that follows fail.
"""

import json
import os
import sys
from pathlib import Path

import pytest

VARIABLE = "FUSEDRNN_OUTCOMES"
BEFORE = "FUSEDRNN_OUTCOMES_BEFORE"  # the file as it was before this run: a worker that replaces a lost one collects the same tests


def read(path):
    """Return {test: its record}, a failure before anything else that was written of that test."""
    tests = {}
    for line in Path(path).read_text().splitlines() if Path(path).exists() else ():
        record = json.loads(line)
        if tests.get(record["test"], {}).get("outcome") != "failed":
            tests[record["test"]] = record
    return tests


def write(**record):
    with open(os.environ[VARIABLE], "a") as file:
        file.write(json.dumps(record) + "\n")


def writes_here():
    return "PYTEST_XDIST_WORKER" not in os.environ  # what xdist's workers find, their controller is told


def pytest_collection_modifyitems(config, items):
    begun = read(os.environ[BEFORE])
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in begun])
    items[:] = [item for item in items if item.nodeid not in begun]


def pytest_runtest_logstart(nodeid):
    if writes_here():
        write(test=nodeid, outcome="begun")


def pytest_runtest_logreport(report):
    if writes_here() and (report.when == "call" or not report.passed):
        message = "" if report.passed else first_line(report.longrepr)
        write(test=report.nodeid, outcome=report.outcome, seconds=round(report.duration, 3), message=message)


def pytest_collectreport(report):
    if writes_here() and report.failed:
        write(test=report.nodeid, outcome="failed", seconds=0, message=first_line(report.longrepr))


def first_line(longrepr):
    if isinstance(longrepr, tuple):  # a skip: file, line, reason
        return longrepr[2]
    text = longrepr.reprcrash.message if hasattr(longrepr, "reprcrash") else str(longrepr)
    return next((line for line in text.splitlines() if line.strip()), "")[:300]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    yield
    if call.excinfo and context_is_lost():
        message = f"the CUDA context is lost: {first_line(str(call.excinfo.value))}"
        write(test=item.nodeid, outcome="failed", seconds=round(call.duration, 3), message=message)
        os._exit(3)  # an orderly end would wait for the GPU


def context_is_lost():
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False
