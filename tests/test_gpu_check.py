"""The check for the day there is a GPU: what of it runs without one."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu_check, gpu_report, gpu_targets, outcomes, timing

ROOT = Path(__file__).parents[1]


def timed(seconds):
    return {"right": True, "error": 1e-4, "median_s": seconds, "p10_s": seconds, "p90_s": seconds, "rounds": 5}


def a_row(case, theirs, ours, refused=None, T=100):
    auto = timed(ours) | {"ratio": theirs / ours, "per_step_us": 1e6 * ours / T}
    results = {"torch.nn": timed(theirs), "fusedrnn auto": auto}
    return {"case": case, "contenders": results, "refused": refused or {}, "ratio": theirs / ours, "rows": 2}


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

    def breaks(seconds, written):
        given.append(seconds)
        raise OSError("no such tool")

    def looks(seconds, beside):
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


@pytest.fixture
def not_stopped(monkeypatch):
    """The check's own flag and handlers, as they are when it starts."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(gpu_check, "STOP", threading.Event())
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def with_a_gpu(monkeypatch, not_stopped):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_check, "environment", lambda: {"device": "Imagined 1", "date": "2030-01-02T03:04:05+00:00"})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_when_it_is_told_to_stop_the_part_is_written_and_shown(number, tmp_path, monkeypatch, with_a_gpu, capsys):
    def killed(seconds, written):
        written.write_text('{"so": "far"}')
        os.kill(os.getpid(), number)
        status, _ = gpu_check.run(["sh", "-c", "sleep 600 & wait"], seconds)
        return gpu_check.ended(status, seconds) | {"rows": [a_row("lstm fast", 4e-3, 1e-3)]}

    parts = {"benchmark": killed, "build": lambda *_: pytest.fail("it has been stopped")}
    monkeypatch.setattr(gpu_check, "PARTS", parts)
    assert gpu_check.main(["--output", str(tmp_path / "run.json")]) == 130
    written = json.loads((tmp_path / "run.json").read_text())
    assert written["parts"]["benchmark"]["reason"] == "interrupted" and not written["complete"]
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"], "what lay beside it is in it"
    printed = capsys.readouterr().out
    assert "geometric mean of 1 ratios: 4.00" in printed and "FAIL benchmark" in printed


def test_what_a_part_has_found_so_far_lies_beside_the_output_if_all_is_killed(tmp_path, monkeypatch):
    seen = []
    part = lambda seconds, written: seen.append(written) or {"status": "passed"}
    gpu_check.check(["tests"], 10, tmp_path / "run.json", {"tests": part}, {})
    assert seen == [tmp_path / "run-tests.jsonl"]


def test_each_run_has_a_file_of_its_own(tmp_path, monkeypatch, with_a_gpu, capsys):
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    monkeypatch.setattr(gpu_check, "PARTS", {"build": lambda *_: {"status": "passed"}})
    assert gpu_check.main([]) == 0
    (written,) = (tmp_path / "benchmarks" / "results").iterdir()
    assert written.name == "gpu-check-imagined-1-2030-01-02t03-04-05.json"


def test_a_file_that_cannot_be_written_is_refused_before_anything_runs(tmp_path, monkeypatch, with_a_gpu, capsys):
    monkeypatch.setattr(gpu_check, "PARTS", {"build": lambda *_: pytest.fail("nothing may run")})
    (tmp_path / "file").touch()
    for output, why in ((tmp_path, "it is a folder"), (tmp_path / "file" / "new.json", "its folder is a file")):
        assert gpu_check.main(["--output", str(output)]) == 2
        assert capsys.readouterr().out == f"python -m benchmarks.gpu_check: {output} cannot be written: {why}\n"


def test_packages_that_are_missing_are_named_before_the_build(monkeypatch, with_a_gpu, capsys):
    there = ("setuptools", "numpy")
    monkeypatch.setattr(gpu_check.importlib.util, "find_spec", lambda name: name in there or None)
    assert gpu_check.main([]) == 2
    said = "python -m benchmarks.gpu_check needs ninja, pytest: pip install ninja pytest\n"
    assert capsys.readouterr().out == said


def test_it_can_be_asked_where_pytest_is_missing():
    code = "import sys; sys.modules['pytest'] = None; from benchmarks import gpu_check; gpu_check.parse([])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_nvidia_smi_is_asked_for_the_gpu_that_torch_uses(monkeypatch):
    asked, properties = [], SimpleNamespace(uuid="0b42632a-bc5c")
    answer = SimpleNamespace(returncode=0, stdout="1980 MHz, 55\n")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(gpu_check.subprocess, "run", lambda command, **_: asked.append(command[-1]) or answer)
    assert gpu_check.query("clocks.sm", "temperature.gpu") == {"clocks.sm": "1980 MHz", "temperature.gpu": "55"}
    del properties.uuid
    gpu_check.query("clocks.sm")
    assert asked == ["--id=GPU-0b42632a-bc5c", "--id=0"]


def test_the_clocks_are_sampled_during_the_race(tmp_path, monkeypatch, not_stopped):
    number = itertools.count()
    monkeypatch.setattr(gpu_check, "clocks", lambda: next(number))
    monkeypatch.setattr(gpu_check, "SAMPLED", 0.5)
    monkeypatch.setattr(gpu_check, "this_module", lambda *options: ["sleep", "2.5"])
    record = gpu_check.benchmark(30, tmp_path / "rows.jsonl")
    assert record["clocks"][:2] == [0, 1] and record["reason"] == "wrong or refused: every row"


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
    (tmp_path / "tests" / "test_broken.py").write_text("import no_such_module")
    record = gpu_check.tests(60, tmp_path / "tests.jsonl")
    assert record["counts"] == {"passed": 2, "failed": 2, "skipped": 1}, "a broken file keeps no other from running"
    broken, failed = record["failures"]
    assert broken["test"] == "tests/test_broken.py"
    assert failed == {"test": "tests/test_suite.py::test_fails", "message": "AssertionError: arithmetic"}
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


def test_the_sanitizer_is_that_of_the_toolkit_and_skipped_where_it_is_missing(tmp_path, monkeypatch):
    from torch.utils import cpp_extension

    for folder in ("path", "toolkit/bin"):
        program = tmp_path / folder / "compute-sanitizer"
        program.parent.mkdir(parents=True)
        program.write_text("")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(tmp_path / "toolkit"))
    assert gpu_check.sanitizer_program() == str(tmp_path / "toolkit" / "bin" / "compute-sanitizer")
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)
    assert gpu_check.sanitizer_program() == str(tmp_path / "path" / "compute-sanitizer")
    monkeypatch.setattr(gpu_check.shutil, "which", lambda *_, **__: None)
    reason = "compute-sanitizer is neither in the toolkit nor on the PATH"
    assert gpu_check.sanitizer(1) == {"status": "skipped", "reason": reason}


NEWER = "--kernel-name --destroy-on-device-error --racecheck-deadlock-timeout"


@pytest.mark.parametrize("known", ["--kernel-regex", NEWER])
def test_the_sanitizer_is_told_what_it_knows(known, monkeypatch):
    commands = {}

    def run(command, seconds, **_):
        if command[1] == "--help":
            return 0, known
        commands[command[2]] = " ".join(command)
        return 0, ""

    monkeypatch.setattr(gpu_check, "sanitizer_program", lambda: "compute-sanitizer")
    monkeypatch.setattr(gpu_check, "run", run)
    assert gpu_check.sanitizer(1)["status"] == "passed" and commands.keys() == gpu_check.TOOLS.keys()
    newer = known == NEWER
    names = "--kernel-name" if newer else "--kernel-regex"
    assert all(f"{names} kns=fusedrnn" in command for command in commands.values())
    assert ("--destroy-on-device-error kernel" in commands["memcheck"]) == newer
    assert ("--racecheck-deadlock-timeout 15000" in commands["racecheck"]) == newer
    assert "deadlock" not in commands["memcheck"] + commands["synccheck"]


FLOAT32 = {"float32": ("float32", False, 2**-23)}


def race(folder, precisions=FLOAT32):
    """The rows of a race on the CPU, of two rounds each."""
    path = folder / "rows.jsonl"
    gpu_targets.race(path, 600, "cpu", [(5, 3, 7)], precisions, rounds=2, clock=timing.watched(timing.wall_clock))
    return gpu_check.joined(outcomes.read(path))


def test_the_targets_run_on_the_cpu(tmp_path):
    assert gpu_targets.sanitize("cpu") == 0
    rows = race(tmp_path)
    found = [(row["cell"], row["pass"]) for row in rows]
    assert found == list(itertools.product(("lstm", "gru", "rnn"), ("step", "infer")))
    for row in rows:
        assert list(row["contenders"]) == ["torch.nn", *(f"fusedrnn {s}" for s in gpu_targets.STRATEGIES)]
        assert all(result["right"] for result in row["contenders"].values()) and row["ratio"] > 0 and row["rows"] == 6
        assert row["contenders"]["fusedrnn auto"]["per_step_us"] > 0


def test_the_cuts_that_a_plan_chooses_among_are_raced_too(tmp_path):
    rows = race(tmp_path, {"float16": ("float16", False, 2**-10)})
    cut = {row["case"]: [name for name in row["contenders"] if name in gpu_targets.CUTS] for row in rows}
    assert {case: len(names) for case, names in cut.items()} == {case: 4 * case.startswith("lstm") for case in cut}
    for row in rows:
        for name, result in row["contenders"].items():
            result |= {"per_step_us": 1.5 if name.endswith("/32") else 2.0}
    said = gpu_report.cuts(rows)
    assert len(said) == 2 and said[0].startswith("lstm ")
    assert said[0].endswith("µs a step: 16 units 2.00, 32 units 1.50, 64 units 2.00, 128 units 2.00; auto 2.00")
    rows[0]["refused"] = {"persistent/64": "too large"}
    assert gpu_report.refusals(rows) == []


def test_large_and_small_shapes_take_turns():
    sizes = [T * B * H**2 for T, B, H in gpu_targets.SHAPES]
    assert sizes[0] == max(sizes)
    assert all((a > b) == (turn % 2 == 0) for turn, (a, b) in enumerate(itertools.pairwise(sizes)))


def test_contenders_are_built_once_a_precision_and_the_truth_once_a_layer(tmp_path, monkeypatch):
    built, contenders, true_step = [], gpu_targets.contenders, gpu_targets.true_step
    seen = lambda case, device: built.append(case.dtype) or contenders(case, device)
    monkeypatch.setattr(gpu_targets, "contenders", seen)
    monkeypatch.setattr(gpu_targets, "true_step", lambda *given: built.append("truth") or true_step(*given))
    gpu_targets.truth_of.cache_clear()
    gpu_targets.company.cache_clear()
    precisions = {"bfloat16": ("bfloat16", False, 2**-7), **FLOAT32, "tf32": ("float32", True, 2**-10)}
    race(tmp_path, precisions)
    assert built == ["truth", "bfloat16", "float32"] * 3


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
    monkeypatch.setattr(outcomes, "context_is_lost", lambda: True)
    assert gpu_targets.sanitize("cpu") == 1, "nothing runs after that"


def test_what_takes_the_context_with_it_ends_the_process_and_not_the_race(tmp_path, monkeypatch):
    chosen, lost = gpu_targets.fusedrnn.use_strategy, []

    def use_strategy(name):
        if name == "persistent":
            lost.append(name)
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return chosen(name)

    def ends(status):
        lost.clear()
        raise SystemExit(status)

    monkeypatch.setattr(gpu_targets.fusedrnn, "use_strategy", use_strategy)
    monkeypatch.setattr(outcomes, "context_is_lost", lambda: bool(lost))
    monkeypatch.setattr(gpu_targets.os, "_exit", ends)
    for _ in range(gpu_targets.MOST_LOST):
        with pytest.raises(SystemExit) as ended:
            race(tmp_path)
        assert ended.value.code == outcomes.LOST
    rows = race(tmp_path)
    assert len(rows) == 6 and all(row["ratio"] > 0 for row in rows), "torch.nn and the other strategies ran everywhere"
    of_row = lambda row: row["contenders"].get("fusedrnn persistent", {}).get("failed") or row["refused"]["persistent"]
    said = [of_row(row) for row in rows]
    assert ["illegal memory access" in each for each in said] == [True] * 2 + [False] * 4
    assert said[2:] == ["left out: it has taken 2 processes with it"] * 4


def test_torch_nn_is_timed_first_and_what_hangs_in_its_place_keeps_ours_from_nothing(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = race(tmp_path)
    first = path.read_text().splitlines()[0]
    assert json.loads(first)["rival"] == "torch.nn" and json.loads(first)["outcome"] == "begun"
    path.write_text(first + "\n")  # the process ended there
    again, *others = race(tmp_path)
    assert "it hung" in again["contenders"]["torch.nn"]["failed"] and again["ratio"] is None
    assert again["contenders"]["fusedrnn auto"]["right"]
    assert [row["case"] for row in others] == [row["case"] for row in rows[1:]]


HANGS = """
import json, sys, time
path = sys.argv[1]
begun = {json.loads(line)["test"] for line in open(path)}
for name in "abc":
    if name not in begun:
        for outcome in ("begun", "passed"):
            with open(path, "a") as file:
                print(json.dumps({"test": name, "outcome": outcome}), file=file)
            if name == "b":
                time.sleep(600)
"""


def test_what_hangs_is_killed_and_what_comes_after_it_runs(tmp_path, monkeypatch, not_stopped):
    written = tmp_path / "outcomes.jsonl"
    monkeypatch.setitem(gpu_check.STALLED, "benchmark", 2)
    command = lambda left: [sys.executable, "-c", HANGS, str(written)]
    found, status, _, runs = gpu_check.to_its_end("benchmark", command, written, 60)
    assert {name: record["outcome"] for name, record in found.items()} == {"a": "passed", "b": "begun", "c": "passed"}
    assert status == 0 and runs == 2


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
