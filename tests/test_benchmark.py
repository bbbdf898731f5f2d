"""The benchmark measures, writes well-formed JSON, and refuses to time what computes something else."""

import itertools
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import fusedrnn

pytest.importorskip("rich", reason="the benchmark prints through rich")
pytest.importorskip("matplotlib", reason="the benchmark draws through matplotlib")

from benchmarks import __main__ as program  # noqa: E402
from benchmarks import apart, cases, machine, peers, profile, runner, suites, timing  # noqa: E402

ROOT = Path(__file__).parents[1]
TINY = ["--batch", "3", "--seq-len", "5", "--hidden", "7", "--rounds", "2"]
CEILINGS = {"threads": 2, "flops": 1e9, "read": {1024: 1e9, 1048576: 1e8}, "meeting_s": 1e-6}


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Run the program in this process, with imagined ceilings and without pictures; return (exit status, what it wrote)."""
    monkeypatch.setattr(runner, "APART", ())
    monkeypatch.setattr(timing, "waited", lambda: 0)  # as if nobody else used this machine
    monkeypatch.setattr(machine, "ceilings", lambda dtype, device: CEILINGS)
    monkeypatch.setattr(program.pictures, "draw", lambda *_: {})

    def run(*options):
        status = program.main([*map(str, options), "--output", str(tmp_path)])
        return status, json.loads(next(tmp_path.glob("*.json")).read_text(), parse_constant=pytest.fail)

    return run


def test_benchmark_runs_as_a_program_and_writes_everything(tmp_path):
    command = [sys.executable, "-m", "benchmarks", *TINY, "--ragged", "--threads", "1", "--cells", "gru,rnn"]
    command += ["--passes", "infer,step", "--budget", "10", "--output", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "torch.nn: geometric mean of 8 ratios" in run.stdout and "losses: " in run.stdout
    written = json.loads(next(tmp_path.glob("*.json")).read_text(), parse_constant=pytest.fail)
    facts = written["environment"]
    assert {"date", "commit", "device", "cpu", "MHz", "torch", "oneDNN", "MKL", "build", "load"} <= facts.keys()
    assert facts["threads"] == 1 and facts["command"].startswith("python -m benchmarks --batch 3")
    assert str(tmp_path) not in facts["command"]
    assert written["complete"]
    rows = itertools.product(("gru", "rnn"), ("packed", "lengths"), ("infer", "step"))
    assert [(r["cell"], r["ragged"], r["pass"]) for r in written["results"]] == list(rows)
    for record in written["results"]:
        assert record["ratios"].keys() == {"torch.nn"}
        for result in record["contenders"].values():
            assert result["right"] and result["rounds"] == 2 and result["peak_bytes"] > 0
            assert 0 < result["p10_s"] <= result["median_s"] <= result["p90_s"]
    assert written["ceilings"]["flops"] > 1e8 and written["ceilings"]["meeting_s"] == 0, "one thread meets nobody"
    assert next(tmp_path.glob("*.html")).stat().st_size > 1000
    said = {line for line in run.stdout.splitlines() if "written" in line}
    assert said == {f"written to {file}" for file in tmp_path.iterdir()}


@pytest.mark.parametrize("fault", [1.001, float("nan")])
def test_a_wrong_contender_is_refused_and_never_timed(fault, bench, monkeypatch, capsys):
    calls = []

    def wrong(self, input):
        calls.append(1)
        y, states = super(fusedrnn.GRU, self).forward(input)
        return y * fault, states

    monkeypatch.setattr(fusedrnn.GRU, "forward", wrong)
    status, written = bench(*TINY, "--cells", "gru", "--passes", "step", "infer")
    assert status == 1
    assert len(calls) == 2, "once a pass, to be verified"
    assert "fusedrnn is not timed: WRONG" in capsys.readouterr().out
    for record in written["results"]:
        ours = record["contenders"]["fusedrnn"]
        assert not ours["right"] and "median_s" not in ours and record["ratios"] == {}
        assert ours["error"] is None if fault != fault else ours["error"] > 5e-4


@pytest.mark.parametrize("mode", ["step", "backward"])
def test_a_wrong_gradient_is_refused_too(mode, bench, monkeypatch, capsys):
    class Doubled(fusedrnn.GRU):
        def forward(self, input):
            y, h_n = super().forward(input)
            return 2 * y - y.detach(), h_n

    monkeypatch.setattr(fusedrnn, "convert", lambda module, report: setattr(module, "__class__", Doubled) or module)
    assert bench(*TINY, "--cells", "gru", "--passes", mode)[0] == 1
    assert "WRONG" in capsys.readouterr().out


def test_a_contender_that_fails_is_a_row_with_its_error(bench, monkeypatch, capsys):
    def fails(self, input):
        raise torch.OutOfMemoryError("no room\nand more")

    monkeypatch.setattr(fusedrnn.RNN, "forward", fails)
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    status, written = bench(*TINY, "--cells", "rnn,gru", "--passes", "infer", "--contenders", "fusedrnn,haste")
    failed, fine = (record["contenders"] for record in written["results"])
    assert status == 1 and written["complete"]
    assert failed["fusedrnn"] == {"right": False, "error": None, "failed": "OutOfMemoryError: no room"}
    assert failed["torch.nn"]["right"] and fine["fusedrnn"]["right"]
    assert fine["haste"]["skipped"] == "haste_pytorch is not installed"
    printed = capsys.readouterr().out
    assert "rnn B=3 T=5 H=7 infer: fusedrnn is not timed: OutOfMemoryError: no room" in printed
    assert "haste skipped in 2 rows: haste_pytorch is not installed" in printed


def test_what_fails_while_it_is_timed_leaves_the_race():
    calls = itertools.count()

    def fails():
        if next(calls) > 3:
            raise RuntimeError("worn out")

    clock = lambda run, repeats: run() or (1.0, 1.0)
    samples, failures, _ = timing.time_in_turns({"a": fails, "b": lambda: None}, 0, 4, clock)
    assert str(failures["a"]) == "worn out" and samples == {"b": [1.0] * 4}


def test_a_contender_apart_computes_the_same_and_its_errors_come_back():
    case, names = cases.Case("lstm", 3, 5, 7, dtype="bfloat16"), ("torch.nn", "fusedrnn")
    here = cases.contenders(case, names=names)[0]
    there = {name: apart.Apart(case, names, name) for name in names}
    for mode, name in itertools.product(("step", "infer", "backward"), names):
        found = there[name].run(mode)
        for theirs, ours in zip(found(), timing.prepare(here[name].run(mode))(), strict=True):
            assert theirs.dtype == torch.bfloat16 and torch.equal(theirs, ours)
        seconds, share = found.clock(2)
        assert seconds > 0 and 0 < share <= 1 and found.peak() > 0
    with pytest.raises(RuntimeError) as raised:
        there["fusedrnn"].run("nonsense")()
    assert timing.said_of(raised.value) == "KeyError: 'nonsense'"
    assert there["fusedrnn"].run("infer").clock(1)[0] > 0, "and it goes on"


def test_a_contender_apart_that_dies_is_a_failure_and_leaves_the_others():
    case, names = cases.Case("gru", 3, 5, 7), ("torch.nn", "fusedrnn")
    there = {name: apart.Apart(case, names, name) for name in names}
    passes = {name: each.run("infer") for name, each in there.items()}
    dying = itertools.count()

    def clock(run, repeats):
        if run is passes["fusedrnn"] and next(dying) == 3:
            there["fusedrnn"].process.kill()
        return run.clock(repeats)

    samples, failures, _ = timing.time_in_turns(passes, 0, 6, clock)
    assert timing.said_of(failures["fusedrnn"]).startswith("Died: the contender's process ended with status -9")
    assert len(samples["torch.nn"]) == 6 and "fusedrnn" not in samples


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_processes_apart_stand_still_while_one_is_timed_and_end_with_their_objects():
    case, names = cases.Case("gru", 3, 5, 7), ("torch.nn", "fusedrnn")
    state = lambda each: Path(f"/proc/{each.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
    one, other = (apart.Apart(case, names, name) for name in names)
    for each in (one, other):
        each.run("infer")()
    with apart.stopped(besides=one):
        deadline = time.perf_counter() + 10
        while state(other) != "T" and time.perf_counter() < deadline:
            time.sleep(0.01)
        assert state(other) == "T" and state(one) != "T" and one.run("infer").clock(1)[0] > 0
    assert other.run("infer").clock(1)[0] > 0, "it goes on afterwards"
    process = other.process
    del each, other
    process.join(10)
    assert process.exitcode == 0


def test_an_interrupted_run_keeps_what_it_has(bench, monkeypatch, capsys):
    measure, done = runner.measure, []

    def interrupted(*arguments):
        if done:
            raise KeyboardInterrupt
        done.append(1)
        return measure(*arguments)

    monkeypatch.setattr(runner, "measure", interrupted)
    status, written = bench(*TINY, "--passes", "infer,step")
    assert status == 130 and not written["complete"] and len(written["results"]) == 1
    printed = capsys.readouterr().out
    assert "interrupted after 1 of 6 rows" in printed and "torch.nn: geometric mean of 1 ratios" in printed


def test_rows_in_which_others_used_the_machine_are_measured_again(bench, monkeypatch):
    during = [1.0, 2.0, 3.0, 1.04]  # what arithmetic takes in each of two rows, and in the second when it is tried again, twice
    between = [2.0, 1.0, 1.0]  # others are still there; then they are not
    measure, measured, now = runner.measure, [], []

    def measured_with(*given):
        measured.append(given[1])
        now.append(during.pop(0))
        row = measure(*given)
        now.clear()
        return row

    monkeypatch.setattr(machine, "ceilings", lambda dtype, device: CEILINGS | {"work_s": 1.0})
    monkeypatch.setattr(machine, "working_time", lambda ceilings: now[0] if now else between.pop(0))
    monkeypatch.setattr(runner, "PAUSE", 0)
    monkeypatch.setattr(runner, "measure", measured_with)
    status, written = bench(*TINY, "--cells", "gru", "--passes", "infer,step")
    assert status == 0 and written["complete"] and not during and not between
    assert measured == ["infer", "step", "step", "step"]
    assert [row["pass"] for row in written["results"]] == ["infer", "step"]
    assert [row["undisturbed"] for row in written["results"]] == [1.0, pytest.approx(1 / 1.04)]
    assert "again" not in written["results"][0] and written["results"][1]["again"] == 2


def test_rounds_in_which_others_used_the_machine_do_not_count():
    seconds, speeds = iter(range(1, 100)), iter([1.0, 1.0, 0.5, 0.5, 0.97, 1.0, 1.0, 0.96, 0.99, 1.0])
    passes, truth = {timing.OURS: lambda: [torch.zeros(1)]}, [torch.zeros(1)]
    clock = lambda run, repeats: (float(next(seconds)), 1.0)  # one to warm up, then 2 to 10
    (found,) = timing.measure(passes, truth, 1e-7, 1, 9, clock, lambda: next(speeds)).values()
    # Before and after: rounds 2 to 4 have less than the machine's speed.
    assert found["rounds"] == 6 and found["rounds_left_out"] == 3
    assert found["median_s"] == 7.5 and found["speed"] == pytest.approx(0.98), "of 2 and 6 to 10"


def test_where_others_always_use_the_machine_the_best_rounds_count():
    assert timing.calm_rounds([0.5, 0.6, 0.9, 0.6, 0.7, 0.8, 0.55]) == [1, 2, 3, 4, 5]
    assert timing.calm_rounds([1.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0.96]) == [0, 2, 3, 4, 5, 6]
    assert timing.calm_rounds([0.5, 0.6]) == [0, 1]


def test_rounds_in_which_a_contender_waited_for_a_processor_do_not_count():
    shares = [1.0, *[1.0] * 4, 0.3, 0.9, 1.0, 0.6, 1.0]  # to warm up, and in nine rounds
    taken = iter([(1 / share, share) for share in shares])
    passes, truth = {timing.OURS: lambda: [torch.zeros(1)]}, [torch.zeros(1)]
    (found,) = timing.measure(passes, truth, 1e-7, 1, 9, lambda run, repeats: next(taken)).values()
    assert found["p10_s"] == found["median_s"] == 1.0 and found["p90_s"] < 1.2 and found["rounds"] == 7
    assert found["rounds_left_out"] == 2 and found["speed"] == 1.0


def test_a_clock_that_is_watched_tells_what_part_of_the_machine_was_there(monkeypatch):
    waited, now = iter([7.0, 7.0, 9.0, 12.0]), iter([0.0, 2.0, 5.0, 6.0])
    monkeypatch.setattr(timing, "waited", lambda: next(waited))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(now))
    clock = timing.watched(lambda run, repeats: 1.5)
    assert [clock(None, 1) for _ in range(2)] == [(1.5, 1.0), (1.5, 0.25)]


BESIDE = """
import os, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
while True:
    pass
"""


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="needs a Linux that counts how long threads wait")
def test_another_process_on_the_same_processor_is_seen():
    code = f"import subprocess, sys, time; other = subprocess.Popen([sys.executable, '-c', {BESIDE!r}]); import os; "
    code += "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); time.sleep(1); from benchmarks import timing\n"
    code += "end = time.perf_counter() + 1\nwhile time.perf_counter() < end: pass\nprint(timing.waited())\nother.kill()"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert float(run.stdout) > 0.2, run.stderr


def test_means_that_hold_disturbed_rows_say_so(bench, monkeypatch, capsys):
    waited = itertools.count(step=100)
    monkeypatch.setattr(timing, "waited", lambda: next(waited))
    status, written = bench(*TINY, "--cells", "gru", "--passes", "infer", "--budget", "1")
    assert status == 0 and written["results"][0]["undisturbed"] < 0.01
    said = "1 of 1 rows, in which others used the machine to the end (gru B=3 T=5 H=7 infer)"
    assert said in capsys.readouterr().out


def test_a_row_that_cannot_be_set_up_is_recorded_and_the_others_run(bench, monkeypatch, capsys):
    true_step = runner.true_step

    def no_room(case, device):
        if case.cell == "gru":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes\nmore")
        return true_step(case, device)

    monkeypatch.setattr(runner, "true_step", no_room)
    runner.whole_truth.cache_clear()
    status, written = bench(*TINY, "--cells", "gru,rnn", "--passes", "infer")
    failed, fine = (record["contenders"] for record in written["results"])
    assert status == 1 and written["complete"] and fine["fusedrnn"]["right"]
    assert all("can't allocate memory" in figures["failed"] for figures in failed.values()) and len(failed) == 2
    assert "gru B=3 T=5 H=7 infer: fusedrnn is not timed: RuntimeError: Default" in capsys.readouterr().out


def run_as_on_cuda(monkeypatch, path, rows, measure, lost=lambda: False):
    """What the runner makes of rows on a GPU that is not there."""
    options = program.parse([])
    options.device = "cuda"
    monkeypatch.setattr(runner, "measure", measure)
    monkeypatch.setattr(runner.outcomes, "context_is_lost", lost)
    monkeypatch.setattr(machine, "ceilings", lambda dtype, device: CEILINGS)
    return runner.run(rows, 60, {}, CEILINGS, path, options)


def measured(case, mode, names, *_):
    return runner.blank(case, mode) | {"contenders": {name: {"right": True} for name in names}}


def test_a_cuda_context_that_is_lost_ends_the_run_with_what_was_measured(tmp_path, monkeypatch):
    rows = [(cases.Case(cell, 3, 5, 7), "infer", ("torch.nn", timing.OURS)) for cell in ("rnn", "gru", "lstm")]
    done = []

    def measure(case, mode, names, *more):
        done.append(case)
        if case.cell == "gru":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return measured(case, mode, names)

    monkeypatch.setattr(runner, "count_launches", lambda *_: pytest.fail("nothing runs on the GPU any more"))
    result = run_as_on_cuda(monkeypatch, tmp_path / "run.json", rows, measure, lambda: len(done) == 2)
    assert len(done) == 2 and not result["complete"]
    assert json.loads((tmp_path / "run.json").read_text())["ended"] == result["ended"]
    assert result["ended"] == "gru B=3 T=5 H=7 infer took the CUDA context with it, after 2 of 3 rows"
    assert "illegal memory access" in result["results"][1]["contenders"]["fusedrnn"]["failed"]
    assert not program.sound(result)


def test_launches_are_counted_after_everything_is_timed(tmp_path, monkeypatch):
    rows = [(cases.Case(cell, 3, 5, 7), "infer", ("torch.nn", timing.OURS)) for cell in ("rnn", "gru")]
    order = []
    company = lambda case, device, names: (cases.contenders(case, names=names)[0], {})
    company.cache_clear = lambda: None
    monkeypatch.setattr(runner, "company", company)
    monkeypatch.setattr(runner.memory, "launches", lambda run: order.append("count") or run() and 10)
    measure = lambda *given: order.append("time") or measured(*given)
    result = run_as_on_cuda(monkeypatch, tmp_path / "run.json", rows, measure)
    assert order == ["time"] * 2 + ["count"] * 4 and result["complete"]
    assert all(figures["launches_per_step"] == 2 for row in result["results"] for figures in row["contenders"].values())


def test_on_cuda_float32_torch_nn_also_runs_as_by_default(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(program, "facts", lambda: {"cuda": "13.0"})
    rows = lambda *given: suites.select(program.parse(["--device", "cuda", *given]))[0]
    names = lambda *given: {name for *_, names in rows(*given) for name in names}
    assert timing.TF32 in names() and timing.TF32 in names("--suite", "costs")
    for others in (["--tf32"], ["--dtype", "float16"], ["--suite", "memory"]):
        assert timing.TF32 not in names(*others)


def test_who_runs_as_by_default_is_allowed_tf32_forward_and_backward_and_held_to_it(monkeypatch):
    monkeypatch.setattr(runner, "APART", ())
    seen, forward, grad = [], torch.nn.GRU.forward, torch.autograd.grad
    allowed = lambda: seen.append(torch.backends.cudnn.allow_tf32)
    slightly_off = lambda layer, x: allowed() or [forward(layer, x)[0] * (1.01 if seen[-1] else 1)]
    monkeypatch.setattr(torch.nn.GRU, "forward", slightly_off)
    monkeypatch.setattr(torch.autograd, "grad", lambda *given: allowed() or grad(*given))
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        row = runner.measure(cases.Case("gru", 3, 5, 7), "step", ("torch.nn", timing.TF32), 0)
        assert not torch.backends.cudnn.allow_tf32
    assert all(figures["right"] for figures in row["contenders"].values())
    assert seen[::2] == seen[1::2] and set(seen) == {False, True}, "the others are not, forward or backward"


def test_where_others_use_the_machine_more_rounds_are_made(monkeypatch):
    now = itertools.count()  # a second passes whenever the time is asked for
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(now))
    clock = lambda *_: (1.0, 1.0)
    rounds = lambda speed, count=None: len(timing.time_in_turns({"a": int}, 20, count, clock, lambda: speed)[2])
    calm, disturbed = rounds(1.0), rounds(0.5)
    assert calm > timing.LEAST_ROUNDS and disturbed == calm + 20 * (timing.PATIENCE - 1)
    assert rounds(0.5, 7) == 7


def test_a_budget_that_is_used_up_ends_the_run(bench, capsys):
    status, written = bench(*TINY, "--budget", "1e-9")
    assert status == 0 and written["results"] == [] and not written["complete"]
    assert "was used up after 0 of" in capsys.readouterr().out


def test_the_suite_for_memory_times_nothing(bench, capsys):
    status, written = bench(*TINY, "--suite", "memory", "--cells", "lstm")
    (record,) = written["results"]
    assert status == 0 and record["ratios"] == {}
    assert all("median_s" not in found and found["peak_bytes"] > 0 for found in record["contenders"].values())
    printed = capsys.readouterr().out
    assert "peak MB of forward and backward" in printed and "torch.nn: geometric mean of 1 ratios" in printed


COSTS = [
    *(cases.Case(cell, 3, 1, 7, form="cell") for cell in cases.LAYERS),
    *(cases.Case(cell, 3, 9, 7, form="reset") for cell in cases.LAYERS),
    *(cases.Case(cell, 3, 9, 7, ragged="lengths") for cell in cases.LAYERS),
]


@pytest.mark.parametrize("mode", ["infer", "step"])
@pytest.mark.parametrize("case", COSTS, ids=str)
def test_cells_resets_and_whole_rows_are_verified_and_timed(case, mode, monkeypatch):
    monkeypatch.setattr(runner, "APART", ())
    monkeypatch.setattr(cases, "RESETS", 0.3)
    row = runner.measure(case, mode, ("torch.nn", timing.OURS, timing.WHOLE), 1e-3, rounds=2)
    assert all(figures["right"] for figures in row["contenders"].values()), row["contenders"]
    assert row["ratios"].keys() == {"torch.nn", timing.WHOLE}


@pytest.mark.parametrize("left_out", ["reset", "lengths"])
def test_who_leaves_out_resets_or_lengths_is_wrong(left_out, monkeypatch):
    monkeypatch.setattr(runner, "APART", ())
    monkeypatch.setattr(cases, "RESETS", 0.3)
    run = fusedrnn.RNN.forward
    monkeypatch.setattr(fusedrnn.RNN, "forward", lambda layer, *x, **more: run(layer, *x, **{**more, left_out: None}))
    case = cases.Case("rnn", 3, 9, 7, **{"form": "reset"} if left_out == "reset" else {"ragged": "lengths"})
    row = runner.measure(case, "infer", ("torch.nn", timing.OURS, timing.WHOLE), 0)
    right = {name: figures["right"] for name, figures in row["contenders"].items()}
    assert right == {"torch.nn": True, timing.OURS: False, timing.WHOLE: True}


def test_contenders_take_turns():
    order = []
    clock = lambda run, repeats: order.append(run) or (1.0, 1.0)
    timing.time_in_turns({"a": "A", "b": "B"}, 0, 3, clock)
    assert order == ["A", "B", *"BA", *"AB", *"BA"], "after one call of each to warm up"


def test_the_ratio_is_that_of_the_rounds():
    """Ours takes 1 or 2 as the machine is quick or slow, theirs 1.5 or 3; the medians alone would say 2 and 1.5."""
    seconds = {"ours": [1, 1, 2, 2, 2], "theirs": [1.5, 1.5, 3, 3, 1.5]}
    turns = {name: iter([*each[:1], *each]) for name, each in seconds.items()}  # one more to warm up
    clock = lambda run, repeats: (next(turns[run]), 1.0)
    passes = {"torch.nn": "theirs", timing.OURS: "ours"}
    assert timing.time_in_turns(passes, 0, 5, clock)[0] == {"torch.nn": seconds["theirs"], timing.OURS: seconds["ours"]}
    assert timing.paired_ratio(seconds["theirs"], seconds["ours"]) == 1.5


def test_what_a_pass_prepares_is_not_counted():
    done = []

    class Run:
        prepare = staticmethod(lambda: done.append("prepare"))
        __call__ = staticmethod(lambda: done.append("run"))

    run = Run()
    timing.wall_clock(run, 2)
    assert done == ["prepare", "run", "prepare", "run"]


def test_statistics():
    found = timing.figures([float(i) for i in range(11)])
    assert found == {"median_s": 5.0, "p10_s": 1.0, "p90_s": 9.0}
    assert timing.figures([2.0]) == {"median_s": 2.0, "p10_s": 2.0, "p90_s": 2.0}
    assert timing.verdict({"a": 4.0, "b": 0.25}) == ["geometric mean of 2 ratios: 1.00", "losses: b (0.25)"]
    assert timing.verdict({"a": 0.95, "b": 1.0})[1] == "losses: a (0.95)"
    assert timing.verdict({"a": 1.0})[1] == "losses: none" and timing.verdict({}) == []


def test_ours_may_be_three_times_as_far_off_as_torchs_and_no_more():
    eps, truth = torch.finfo(torch.float32).eps, [torch.ones(1, dtype=torch.float64)]
    off = lambda by: lambda: [truth[0] + by * eps]

    def right(by):
        found = timing.measure({"torch.nn": off(100), timing.OURS: off(by)}, truth, eps, 0)
        return found[timing.OURS]["right"]

    assert right(100) and right(310) and not right(330), "and a few roundings"


def test_the_step_loop_that_is_compiled_computes_the_same():
    for cell in cases.LAYERS:
        layer = getattr(torch.nn, cases.LAYERS[cell])(7, 7)
        x = torch.randn(5, 3, 7)
        torch.testing.assert_close(peers.Loop(cases.Case(cell, 3, 5, 7), layer)(x), layer(x)[0])
    with pytest.raises(peers.Unsupported, match="T = 100 is too long to unroll"):
        peers.build("compiled", cases.Case("gru", 3, 100, 7), layer)


def test_the_options_choose_a_suite_or_a_grid():
    quick = suites.select(program.parse([]))[0]
    assert {case for case, _, _ in quick} == set(suites.QUICK)
    options = program.parse("--cells lstm --batch 1,4 --layers 2 --dtype float64 --passes step".split())
    rows, seconds = suites.select(options)
    assert [f"{case} {mode}" for case, mode, _ in rows] == [f"lstm B={B} T=128 H=256 L=2 float64 step" for B in (1, 4)]
    full, seconds = suites.select(program.parse(["--suite", "full"]))
    assert {case for case, _, _ in full} >= set(suites.TELLING) and seconds < 600
    assert {len(names) for _, _, names in full} == {2, 5, 6}, "ragged and deep; peers; the compiled loop too"
    costs = suites.select(program.parse(["--suite", "costs"]))[0]
    assert {case.form or case.ragged for case, _, _ in costs} == {"", "cell", "reset", "lengths"}
    assert all((timing.WHOLE in names) == (case != case.whole()) for case, _, names in costs)
    for name, sizes in (("B", suites.BATCHES), ("T", suites.STEPS), ("H", suites.WIDTHS)):
        assert {getattr(case, name) for case, _, _ in full} >= set(sizes)


@pytest.mark.parametrize(
    "options, says",
    [
        ("--batch 0", "argument --batch: must be a whole number above 0; got '0'"),
        ("--cells lstm,lstn", "argument --cells: knows lstm, gru, rnn; got 'lstn'"),
        ("--batch ²", "argument --batch: must be a whole number above 0; got '²'"),
        ("--hidden 1000000", "sizes too large: lstm B=32 T=128 H=1000000 takes more than 8 GB in float64"),
        ("--hidden 1 --layers 900000", "sizes too large: lstm B=32 T=128 H=1 L=900000 takes more than 8 GB in float64"),
        ("--output README.md/foo", "README.md/foo cannot be written to: Not a directory"),
        ("--budget nan", "argument --budget: must be a number of seconds above 0; got 'nan'"),
        ("--passes graph", "the pass graph needs --device cuda"),
        ("--colour red", "unrecognized arguments: --colour red"),
        ("--output README.md", "--output must be a folder; README.md is a file"),
        ("--compare nowhere.json", "nowhere.json cannot be read: No such file or directory"),
        ("--compare README.md", "README.md is no result of this benchmark"),
    ],
)
def test_nonsense_is_refused_in_one_line(options, says, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    try:
        status = program.main(options.split())
    except SystemExit as error:
        status = error.code
    assert status == 2 and capsys.readouterr().err == f"python -m benchmarks: {says}\n"


@pytest.mark.parametrize("main", [program.main, profile.main], ids=["benchmarks", "profile"])
def test_every_option_has_a_help(main, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit):
        main(["--help"])
    _, _, options = capsys.readouterr().out.partition("options:")
    listed = re.findall(r"^  (--[\w-]+)(.*(?:\n {10,}.*)?)", options, re.MULTILINE)
    assert len(listed) > 7 and all(re.search(r"(  +|\n +)\w", rest) for _, rest in listed), listed


@pytest.mark.parametrize("module", ["benchmarks", "benchmarks.profile"])
def test_a_build_for_another_torch_is_said_in_one_line(module):
    code = "import runpy, sys, torch; torch.__version__ = '9.9'; sys.argv[1:] = ['--help']; "
    code += f"runpy.run_module({module!r}, run_name='__main__')"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2 and run.stdout == "" and run.stderr.count("\n") == 1, run.stderr
    assert run.stderr.startswith(f"python -m {module}: fusedrnn's compiled extension was built against torch ")


@pytest.mark.parametrize("package", ["rich", "matplotlib", "torch"])
def test_a_missing_package_is_named_with_how_to_get_it_even_by_help(package):
    code = f"import runpy, sys; sys.modules[{package!r}] = None; runpy.run_module('benchmarks', run_name='__main__')"
    run = subprocess.run([sys.executable, "-c", code, "--help"], cwd=ROOT, capture_output=True, text=True)
    expected = f'python -m benchmarks needs {package}: pip install --no-build-isolation -e ".[bench]"\n'
    assert (run.returncode, run.stdout, run.stderr) == (2, "", expected)
