"""The check for the day there is a GPU: what of it runs without one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_check, gpu_report, gpu_targets, outcomes, timing

ROOT = Path(__file__).parents[1]


def timed(seconds):
    return {"right": True, "error": 1e-4, "median_s": seconds, "p10_s": seconds, "p90_s": seconds, "rounds": 5}


def a_row(case, theirs, ours, refused=None, T=100):
    results = {"torch.nn": timed(theirs), "fusedrnn auto": timed(ours)}
    return {**gpu_targets.row(case, T, results, refused or {}), "rows": 2}


RESULT = {
    "environment": {"device": "Imagined 1", "torch": "2.99"},
    "parts": {
        "build": {"status": "passed", "seconds": 100.0},
        "tests": {
            "status": "failed",
            "seconds": 3.0,
            "complete": True,
            "counts": {"passed": 7, "failed": 1, "skipped": 2},
            "failures": [{"test": "test_x.py::test_y[cuda]", "message": "AssertionError: 1 != 2"}],
            "unfinished": ["test_x.py::test_hangs[cuda]"],
        },
        "sanitizer": {"status": "skipped", "seconds": 0.0, "reason": "compute-sanitizer is not on the PATH"},
        "benchmark": {
            "status": "passed",
            "seconds": 80.0,
            "rows": [a_row("lstm fast", 4e-3, 1e-3), a_row("gru slow", 1e-3, 2e-3, {"persistent": "H is too large"})],
        },
    },
}


@pytest.mark.parametrize("capability, name", [((9, 0), "9.0a"), ((10, 0), "10.0a"), ((8, 6), "8.6"), ((12, 0), "12.0")])
def test_architectures(capability, name):
    assert gpu_check.architecture(*capability) == name


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line(capsys):
    assert gpu_check.main([]) == 2
    printed = capsys.readouterr().out
    assert printed.startswith("no CUDA device: torch ") and printed.count("\n") == 1


def test_unknown_parts_are_refused(capsys):
    assert gpu_check.parse(["--parts", "benchmark,build"]).parts == ["build", "benchmark"]
    with pytest.raises(SystemExit):
        gpu_check.parse(["--parts", "build,test"])
    assert "parts are build, tests, sanitizer, benchmark; got test" in capsys.readouterr().err


def test_a_failing_part_stops_nothing_and_every_part_is_written_at_once(tmp_path):
    output, given = tmp_path / "new" / "result.json", []

    def breaks(seconds):
        given.append(seconds)
        raise OSError("no such tool")

    def looks(seconds):
        given.append(seconds)
        written = json.loads(output.read_text())
        assert not written["complete"] and written["parts"]["build"]["reason"] == "OSError: no such tool"
        return {"status": "passed"}

    gpu_check.check(["build", "benchmark"], 270, output, {"build": breaks, "benchmark": looks}, {"device": "none"})
    written = json.loads(output.read_text())
    assert written["complete"] and written["environment"] == {"device": "none"}
    assert [part["status"] for part in written["parts"].values()] == ["failed", "passed"]
    assert given[0] == pytest.approx(180, abs=1) and given[1] > 180, "what a part leaves of its time, later ones get"


def test_the_summary_ends_with_the_ratios_the_losses_and_the_verdicts(capsys):
    gpu_report.show(RESULT)
    printed = capsys.readouterr().out.splitlines()
    assert printed[-6:] == [
        "geometric mean of 2 ratios: 1.41",
        "losses: gru slow (0.50)",
        "PASS build in 100 s",
        "FAIL tests in 3 s: 7 passed, 1 failed, 2 skipped",
        "SKIP sanitizer in 0 s: compute-sanitizer is not on the PATH",
        "PASS benchmark in 80 s: 2 of 2 rows",
    ]
    text = "\n".join(printed)
    assert "failed: test_x.py::test_y[cuda]: AssertionError: 1 != 2" in text
    assert "did not finish: test_x.py::test_hangs[cuda]" in text
    assert "persistent refused: H is too large (1 rows)" in text
    assert any("gru slow" in line and "20.00" in line and "0.50" in line for line in printed), "µs a step and ratio"


def test_the_summary_needs_no_rich(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.table", None)
    gpu_report.show(RESULT)
    assert "gru slow\t1.000\t2.000\t\trefused\t20.00\t0.50" in capsys.readouterr().out


SUITE = """
import os, pytest

cuda = pytest.mark.cuda
@cuda
def test_passes(): pass
@cuda
def test_fails(): assert 1 == 2, "arithmetic"
@cuda
def test_skips(): pytest.skip("no reason")
@cuda
def test_crashes(): os._exit(7)
@cuda
def test_comes_after(): pass
@pytest.mark.cpu
def test_elsewhere(): pass
def test_anywhere(): pass
"""


def test_outcomes_survive_a_crash_and_the_next_run_goes_on(tmp_path, monkeypatch):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_suite.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n cpu: elsewhere\n cuda: here\n")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # what runs in there is no part of this run
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    monkeypatch.setattr(gpu_check.importlib.util, "find_spec", lambda name: None)  # no xdist: in the order of the file
    record = gpu_check.tests(60)
    assert record["counts"] == {"passed": 2, "failed": 1, "skipped": 1}
    assert record["failures"] == [{"test": "tests/test_suite.py::test_fails", "message": "AssertionError: arithmetic"}]
    assert record["unfinished"] == ["tests/test_suite.py::test_crashes"]
    assert record["complete"] and record["runs"] == 2 and record["status"] == "failed"


def test_a_failure_is_not_forgotten_for_a_later_outcome(tmp_path):
    path = tmp_path / "outcomes.jsonl"
    records = [("a", "begun"), ("a", "failed"), ("a", "passed"), ("b", "begun"), ("b", "passed"), ("c", "begun")]
    path.write_text("".join(json.dumps({"test": name, "outcome": outcome}) + "\n" for name, outcome in records))
    last = {name: record["outcome"] for name, record in outcomes.read(path).items()}
    assert last == {"a": "failed", "b": "passed", "c": "begun"}


def test_a_process_that_takes_too_long_is_killed_with_its_children():
    status, _ = gpu_check.run(["sh", "-c", "sleep 600 & wait"], 0.2)
    assert status is None
    assert gpu_check.ended(status, 0.2) == {"status": "failed", "reason": "not done after 0 s"}
    assert gpu_check.run(["sleep", "600"], 600, alive=lambda: False)[0] is None
    assert gpu_check.run(["sh", "-c", "echo $SHOWN; exit 3"], 600, SHOWN="said") == (3, "said\n")


def test_the_sanitizer_is_skipped_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(gpu_check.shutil, "which", lambda *_, **__: None)
    assert gpu_check.sanitizer(1) == {"status": "skipped", "reason": "compute-sanitizer is not on the PATH"}


def race(folder):
    """The rows of a race on the CPU, of two rounds each."""
    precisions = {"float32": ("float32", False, 2**-23)}
    gpu_targets.race(folder / "rows", 600, "cpu", [(5, 3, 7)], precisions, rounds=2, clock=timing.wall_clock)
    return [json.loads(line) for line in (folder / "rows").read_text().splitlines()]


def test_the_targets_run_on_the_cpu(tmp_path):
    assert gpu_targets.sanitize("cpu") == 0
    rows = race(tmp_path)
    assert [(row["cell"], row["pass"]) for row in rows] == [
        (cell, name) for cell in ("lstm", "gru", "rnn") for name in ("train", "infer")
    ]
    for row in rows:
        assert row["contenders"].keys() == {"torch.nn", *(f"fusedrnn {s}" for s in gpu_targets.STRATEGIES)}
        assert all(result["right"] for result in row["contenders"].values()) and row["ratio"] > 0


def test_a_strategy_that_cannot_serve_is_recorded_with_its_reason(tmp_path, monkeypatch):
    def within(strategy, run):
        def refuses():
            raise ValueError("persistent cannot serve: H = 7 is odd\nand more")

        return refuses if strategy == "persistent" else run

    monkeypatch.setattr(gpu_targets, "within", within)
    for row in race(tmp_path):
        assert row["refused"] == {"persistent": "persistent cannot serve: H = 7 is odd"}
        assert "fusedrnn persistent" not in row["contenders"]


def test_a_launch_that_fails_is_recorded_and_the_race_goes_on(tmp_path, monkeypatch, capsys):
    chosen = gpu_targets.fusedrnn.use_strategy

    def use_strategy(name):
        if name == "persistent":
            raise RuntimeError("CUDA kernel persistent_forward: invalid cluster\nand more")
        return chosen(name)

    monkeypatch.setattr(gpu_targets.fusedrnn, "use_strategy", use_strategy)
    for row in race(tmp_path):
        failed = row["contenders"].pop("fusedrnn persistent")
        assert not failed["right"] and "invalid cluster" in failed["failed"] and row["refused"] == {}
        assert all(result["right"] for result in row["contenders"].values()) and row["ratio"] > 0
    assert gpu_targets.sanitize("cpu") == 31 and "persistent LSTM" in capsys.readouterr().out


def test_it_is_a_program():
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--help"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0 and "--budget" in run.stdout and "--race-to" not in run.stdout


def test_the_record_of_the_build_names_no_folder_of_the_machine(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(gpu_check, "run", lambda *_, **__: (0, f"location  {gpu_check.ROOT / 'fusedrnn'}\n"))
    assert gpu_check.build(1)["info"] == ["location  fusedrnn"]


def test_without_torch_it_says_so_in_one_line():
    code = "import runpy, sys; sys.modules['torch'] = None; runpy.run_module('benchmarks.gpu_check', run_name='__main__')"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    said = "python -m benchmarks.gpu_check needs torch: install its build for your CUDA, from pytorch.org\n"
    assert (run.returncode, run.stdout, run.stderr) == (2, "", said)
