"""A pytest plugin that writes each test's outcome to the file FUSEDRNN_OUTCOMES: `-p benchmarks.outcomes_plugin`.

Tests that had begun before, by the file FUSEDRNN_OUTCOMES_BEFORE, are left out.
"""

import os

import pytest

from . import outcomes

VARIABLE = "FUSEDRNN_OUTCOMES"
# the file as it was before this run: a worker that replaces a lost one collects the same tests
BEFORE = "FUSEDRNN_OUTCOMES_BEFORE"


def write(**record):
    outcomes.write(os.environ[VARIABLE], **record)


def writes_here():
    return "PYTEST_XDIST_WORKER" not in os.environ  # what xdist's workers find, their controller is told


def pytest_collection_modifyitems(config, items):
    begun = outcomes.read(os.environ[BEFORE])
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
    if call.excinfo and outcomes.context_is_lost():
        message = f"the CUDA context is lost: {first_line(str(call.excinfo.value))}"
        write(test=item.nodeid, outcome="failed", seconds=round(call.duration, 3), message=message)
        os._exit(outcomes.LOST)  # an orderly end would wait for the GPU
