"""What the benchmark makes of its figures: the limit, the gate, tables, pictures, the page, and bytes of memory."""

import contextlib
import copy
import json
import re
import shutil
import subprocess
from dataclasses import asdict

import pytest
import torch

from fusedrnn import _C

pytest.importorskip("rich", reason="the benchmark prints through rich")
pytest.importorskip("matplotlib", reason="the benchmark draws through matplotlib")

from benchmarks import __main__ as program  # noqa: E402
from benchmarks import gate, machine, memory, page, pictures, profile, readme, runner, tables, timing  # noqa: E402
from benchmarks.cases import LAYERS, Case, contenders, packing  # noqa: E402

CEILINGS = {"threads": 2, "flops": 1e9, "read": {1024: 4e9, 1048576: 1e8}, "meeting_s": 1e-6}


def figures(seconds, size):
    found = {"right": True, "error": 1e-7, "median_s": seconds, "p10_s": 0.9 * seconds, "p90_s": 1.1 * seconds}
    return {**found, "rounds": 9, "peak_bytes": size}


def row(case, mode, theirs, ours):
    found = {"torch.nn": figures(theirs, 2000 * case.T), "fusedrnn": figures(ours, 1000 * case.T)}
    more = {"ratios": {"torch.nn": theirs / ours}, "limit_s": ours / 2, "flops": runner.flops(case, mode)}
    return {"case": str(case), "pass": mode, **asdict(case), "contenders": found, **more}


def imagined():
    """A result of a grid in which ours is twice as fast, but for one loss, one failure and one peer that is missing."""
    grid = [Case(cell, B, T, 256) for cell in LAYERS for B in (1, 16) for T in (10, 128, 512)]
    grid += [Case(cell, 1, 128, H) for cell in LAYERS for H in (16, 64)]
    rows = [row(case, mode, 2e-3, 1e-3) for case in grid for mode in ("infer", "step")]
    rows[0] = row(grid[0], "infer", 1e-3, 4e-3)
    rows[1]["contenders"]["compiled"] = {"right": False, "error": None, "failed": "RuntimeError: <no compiler>"}
    rows[1]["contenders"]["haste"] = {"right": False, "error": None, "skipped": "haste_pytorch is not installed"}
    facts = {"device": "cpu", "cpu": "Imagined 1", "cores": 2, "threads": 2, "torch": "2.99", "date": "2030-01-01"}
    return {"environment": facts, "suite": "full", "ceilings": CEILINGS, "complete": True, "results": rows}


def test_products():
    assert Case("lstm", 2, 3, 5).products() == (2 * 6 * 20 * 5, 2 * 6 * 20 * 5)
    inputs, recurrences = Case("gru", 2, 3, 5, layers=2, bidirectional=True).products()
    assert inputs == 2 * 6 * 15 * (5 + 10) * 2 and recurrences == 2 * 6 * 15 * 5 * 2 * 2
    ragged, whole = Case("rnn", 50, 20, 8, ragged="packed"), Case("rnn", 50, 20, 8)
    assert ragged.products()[0] == 2 * int(ragged.sequence_lengths().sum()) * 8 * 8 < whole.products()[0]


def test_the_limit_is_that_of_products_where_there_are_many():
    case = Case("rnn", 64, 10, 16)  # weights of 1 KB at 4 GB/s: 0.26 µs; a step's products 32.8 µs
    inputs, recurrences = case.products()
    assert machine.limit(case, "infer", CEILINGS) == pytest.approx((inputs + recurrences) / 1e9)
    assert machine.limit(case, "backward", CEILINGS) == pytest.approx(2 * (inputs + recurrences) / 1e9)
    assert machine.limit(case, "step", CEILINGS) == pytest.approx(3 * (inputs + recurrences) / 1e9)


def test_the_limit_is_that_of_reading_where_weights_are_large_and_the_batch_small():
    case = Case("rnn", 1, 10, 512)  # weights of 1 MB at 0.1 GB/s: 10.5 ms a step; its products 0.5 ms
    assert machine.limit(case, "infer", CEILINGS) == pytest.approx(2**20 / 1e8 + 10 * (2**20 / 1e8 + 1e-6))
    assert machine.limit(case, "backward", CEILINGS) == pytest.approx(3 * 2**20 / 1e8 + 10 * (2**20 / 1e8 + 1e-6))
    slow = {**CEILINGS, "meeting_s": 1.0}  # one thread alone is better then
    assert machine.limit(case, "infer", slow) == pytest.approx(2 * (2**20 / 1e8 + 10 * 2**20 / 1e8))
    far = {**CEILINGS, "read": {**CEILINGS["read"], 2**21: 5e7}}  # the first time both matrices come from there
    assert machine.limit(case, "infer", far) == pytest.approx(2 * 2**20 / 5e7 + 9 * 2**20 / 1e8 + 10 * 1e-6)
    assert machine.limit(case, "infer", {**CEILINGS, "read": {}}) is None, "no compiler, no limit"


def test_the_limit_counts_the_functions_of_the_cells_and_the_call():
    case = Case("lstm", 4, 10, 16)
    plain = {mode: machine.limit(case, mode, CEILINGS) for mode in ("infer", "train-forward", "backward", "step")}
    calls = {"infer": 1.0, "train-forward": 2.0, "backward": 3.0, "step": 5.0}
    found = {**CEILINGS, "functions": 1e6, "call_s": calls}
    functions = 5 * 10 * 4 * 16 / 1e6
    for mode, limit in plain.items():
        expected = limit + calls[mode] + (0 if mode == "backward" else functions)
        assert machine.limit(case, mode, found) == pytest.approx(expected)
    double = Case("lstm", 4, 10, 16, dtype="float64")
    more = machine.limit(double, "infer", {**CEILINGS, "functions": 1e6}) - machine.limit(double, "infer", CEILINGS)
    assert more == pytest.approx(2 * functions), "half as many in a register"


def test_the_rate_of_reading_is_of_the_nearest_size_and_survives_json():
    read = json.loads(json.dumps({1000: 3.0, 100000: 5.0, 10000000: 1.0}))
    assert [machine.read_rate(read, size) for size in (500, 60000, 2000000, 10**9)] == [3.0, 5.0, 1.0, 1.0]


def test_ceilings_are_measured():
    found = machine.ceilings_cpu()
    assert found["threads"] == torch.get_num_threads()
    if found["read"]:
        assert all(1e8 < rate < 1e13 for rate in found["read"].values()) and found["meeting_s"] >= 0
        assert 0 < machine.working_time(found) < 1 and 1e7 < found["functions"] < 1e12
        assert 0 < found["call_s"]["infer"] < found["call_s"]["step"] < 0.1


def test_threads_beyond_the_processors_raise_no_ceiling():
    probes = machine.compiled_probes()
    if probes is None:
        pytest.skip("needs a compiler")
    cores, sum_ = len(machine.os.sched_getaffinity(0)), machine.ctypes.c_float()
    seconds = lambda threads: probes.function_seconds(1000, threads, machine.ctypes.byref(sum_))
    rate = lambda threads: threads / machine.fastest(lambda: seconds(threads))
    try:
        assert rate(8 * cores) < 1.5 * cores * rate(1)
    finally:
        probes.rest()


def test_ceilings_on_cuda_are_of_one_graph_and_not_of_pythons_launches(monkeypatch):
    calls, captured, replayed = [], [], []

    class Graph:
        def replay(self):
            replayed.append(captured[-1])

    @contextlib.contextmanager
    def capture(graph):
        before = len(calls)
        yield
        captured.append(len(calls) - before)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(timing, "cuda_clock", lambda run, repeats: run() or 5.0)
    assert machine.replay_of(lambda: calls.append(1), 100)() == 0.05
    assert captured == replayed == [100] and len(calls) == 101, "one to warm up"


def test_a_machine_at_half_of_its_best_speed_is_said_to_be(monkeypatch):
    monkeypatch.setattr(machine, "working_times", lambda threads: [1.0, 2.0, 9.0])
    assert machine.working_time({"threads": 2, "work_s": 1.0}) == 2.0
    measured = {**row(Case("lstm", 4, 10, 16), "infer", 3.0, 1.5), "work_s": 2.0}
    judged = runner.judged(measured, {**CEILINGS, "work_s": 1.0})
    assert judged["undisturbed"] == 0.5 and judged["limit_s"] == machine.limit(Case("lstm", 4, 10, 16), "infer", CEILINGS)
    assert timing.of_limit(judged, "fusedrnn") == pytest.approx(judged["limit_s"] / (0.9 * 1.5)), "the fastest decile"
    assert runner.judged({**measured, "work_s": None}, None)["limit_s"] is None
    assert timing.of_limit(runner.judged({**measured, "work_s": None}, None), "fusedrnn") is None


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_limit_of_packed_rows_counts_torchs_packing(bidirectional):
    case = Case("gru", 3, 5, 7, bidirectional=bidirectional, ragged="packed")
    measured = {**row(case, "step", 3.0, 1.5), "work_s": None, "packing_s": 2.0}
    assert runner.judged(measured, CEILINGS)["limit_s"] == machine.limit(case, "step", CEILINGS) + 2.0
    passes = packing(case)
    rows, y = passes["infer"]()
    assert rows.shape == (case.sequence_lengths().sum(), 7) and y.shape == (5, 3, 14 if bidirectional else 7)
    passes["step"]()  # gradients of both have the right sizes, or this raises
    assert set(passes) == {"infer", "train-forward", "step"}


def test_of_two_measurements_of_the_ceilings_the_higher_counts():
    some = {"threads": 2, "flops": 3.0, "read": {1: 4.0, 2: 9.0}, "meeting_s": 1.0, "call_s": {"infer": 5.0, "step": 8.0}}
    others = {"threads": 2, "flops": 2.0, "read": {1: 5.0, 2: 1.0}, "meeting_s": 2.0, "call_s": {"infer": 6.0, "step": 7.0}}
    expected = {**some, "read": {1: 5.0, 2: 9.0}, "call_s": {"infer": 5.0, "step": 7.0}}
    assert machine.higher(some, others) == machine.higher(others, some) == expected
    assert machine.higher(None, some) == machine.higher(some, None) == some


def test_peak_memory_of_known_allocations():
    def one_after_the_other():
        for _ in range(3):
            torch.empty(1000, dtype=torch.float32)

    assert memory.peak(lambda: torch.empty(1000)) == 4000
    assert memory.peak(one_after_the_other) == 4000
    assert memory.peak(lambda: [torch.empty(1000) for _ in range(3)]) == 12000


def test_peak_memory_of_a_layer_holds_its_output_and_what_is_kept():
    run = contenders(Case("gru", 4, 16, 32))[0]["fusedrnn"]
    output = 4 * 4 * 16 * 32
    assert memory.peak(run.run("infer")) >= output
    assert memory.peak(run.run("step")) > memory.peak(run.run("infer"))


def test_the_gate_passes_the_same_and_stops_the_slower():
    old, new = imagined(), imagined()
    assert gate.passes(gate.compare(old, new)) and gate.compare(old, new)["paired"] == len(old["results"])
    new["results"][3] = row(Case("lstm", 1, 128, 256), "step", 2e-3, 1.3e-3)
    new["results"][5] = row(Case("lstm", 1, 512, 256), "step", 2e-3, 1.15e-3)  # 15 % more, but deciles overlap
    new["results"][7] = row(Case("lstm", 16, 10, 256), "step", 2e-3, 0.5e-3)
    verdict = gate.compare(old, new)
    assert [name for name, _ in verdict["slower"]] == ["lstm B=1 T=128 H=256 step"] and not gate.passes(verdict)
    assert [name for name, _ in verdict["faster"]] == ["lstm B=16 T=10 H=256 step"]
    assert "slower: lstm B=1 T=128 H=256 step, 1.30 of the old median" in gate.lines(verdict)


def test_the_gate_leaves_to_the_machine_what_slowed_down_everyone():
    old, new = imagined(), imagined()
    new["results"][3] = row(Case("lstm", 1, 128, 256), "step", 3e-3, 1.5e-3)
    assert gate.passes(gate.compare(old, new)), "torch.nn, which took turns with it, became as slow"
    new["results"][3] = row(Case("lstm", 1, 128, 256), "step", 3e-3, 2e-3)
    assert [name for name, _ in gate.compare(old, new)["slower"]] == ["lstm B=1 T=128 H=256 step"]


def timed(theirs, ours):
    """A row's figures, with deciles of 0.9 and 1.1 of these medians."""
    return {"torch.nn": figures(theirs, 1000), "fusedrnn": figures(ours, 1000)}


@pytest.mark.parametrize(
    "theirs, ours, own, apart",
    [
        (1, 1.2, 1.2, False),
        (1, 1.3, 1.3, True),
        (0.5, 1.3, 1.3, True),  # what others gain is not held against ours
        (2, 2.6, 1.3, True),
        (2, 2.4, 1.2, False),  # but for others, even the fastest decile would lie above the old ones
        (2, 1.9, 1, False),
        (1, 0.8, 0.8, True),
        (1, 0.9, 0.9, False),
        (2, 0.8, 0.8, True),  # what others lose is not ours to gain
        (0.5, 0.4, 0.8, True),
        (0.5, 0.45, 0.9, False),
        (0.5, 0.6, 1, False),
    ],
)
def test_the_gate_takes_the_machines_share_from_medians_and_deciles(theirs, ours, own, apart):
    plain, without, deciles_apart = gate.change(timed(1, 1), timed(theirs, ours))
    assert (plain, without, deciles_apart) == (ours, pytest.approx(own), apart)


def test_the_gate_takes_rows_together_by_their_geometric_mean():
    old, new = imagined(), imagined()
    for record, change in zip(new["results"], [2, 0.5] * (len(new["results"]) // 2), strict=True):
        record["contenders"]["fusedrnn"] = figures(change * record["contenders"]["fusedrnn"]["median_s"], 1000)
    assert gate.compare(old, new)["together"] == pytest.approx(1)


def test_what_an_older_result_does_not_say_of_its_machine_does_not_differ():
    old = imagined()
    del old["environment"]["cpu"]
    assert gate.compare(old, imagined())["differs"] == []


def test_the_gate_stops_what_is_a_little_slower_everywhere():
    old, new = imagined(), imagined()
    for record in new["results"]:
        record["contenders"]["fusedrnn"] = figures(1.1 * record["contenders"]["fusedrnn"]["median_s"], 1000)
    verdict = gate.compare(old, new)
    assert not verdict["slower"] and not gate.passes(verdict) and verdict["together"] == pytest.approx(1.1)
    assert "all together 1.10 of the old time (at most 1.08)" in gate.lines(verdict)[-1]


def test_the_gate_stops_what_does_not_run_any_more_and_names_other_machines():
    old, new = imagined(), imagined()
    new["results"][2]["contenders"]["fusedrnn"] = {"right": False, "error": None, "failed": "RuntimeError: broken"}
    del new["results"][4]  # was not measured: says nothing
    new["environment"]["threads"] = 1
    verdict = gate.compare(old, new)
    assert verdict["lost"] == ["lstm B=1 T=128 H=256 infer"] and not gate.passes(verdict)
    assert "not the same machine or versions: threads: 2 then, 1 now" in gate.lines(verdict)


def test_the_gate_is_an_exit_status(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pictures, "draw", lambda *_: {})
    old, new = imagined(), imagined()
    new["results"][3] = row(Case("lstm", 1, 128, 256), "step", 2e-3, 2e-3)
    for name, result in (("old", old), ("new", new)):
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    run = lambda a, b: program.main(["--report", str(tmp_path / f"{a}.json"), "--compare", str(tmp_path / f"{b}.json")])
    assert (run("new", "new"), run("new", "old")) == (0, 1)
    (tmp_path / "other.json").write_text(json.dumps({**old, "results": []}))
    assert run("new", "other") == 2
    assert "slower: lstm B=1 T=128 H=256 step, 2.00 of the old median" in capsys.readouterr().out


@pytest.mark.parametrize("lacks", ["environment", "suite", "results", "cpu", "pass", "flops"])
def test_a_file_that_lacks_something_is_refused_before_anything_is_measured(lacks, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(program, "measured", lambda *_: pytest.fail("nothing may run"))
    result = imagined()
    for place in (result, result["environment"], result["results"][5]):
        place.pop(lacks, None)
    old = tmp_path / "old.json"
    old.write_text(json.dumps(result))
    for option in ("--compare", "--report"):
        assert program.main([option, str(old)]) == 2
        assert capsys.readouterr().err == f"python -m benchmarks: {old} is no result of this benchmark\n"


@pytest.mark.parametrize("path", sorted(readme.RESULTS.glob("z*.json")), ids=lambda path: path.stem)
def test_committed_results_are_read_and_make_a_report(path):
    result = gate.read(path)
    assert tables.rows(result) if result["suite"] != "memory" else tables.memory_rows(result)
    assert len(tables.verdicts(result)) >= 2


def test_the_tables_are_not_made_of_a_file_that_is_not_there(capsys):
    with pytest.raises(SystemExit) as ended:
        readme.main(["--machine", "zen9", "nofile.json"])
    assert ended.value.code == 2 and "nofile.json cannot be read: No such file or directory" in capsys.readouterr().err


def test_the_profile_refuses_sizes_that_are_too_large_and_says_what_ends_it(capsys, monkeypatch):
    monkeypatch.setattr(profile.shutil, "which", lambda name: name)
    with pytest.raises(SystemExit) as ended:
        profile.main(["--hidden", "1000000"])
    said = "sizes too large: lstm B=32 T=128 H=1000000 takes more than 8 GB in float64"
    assert ended.value.code == 2 and said in capsys.readouterr().err
    monkeypatch.setattr(profile.sys, "executable", "false")
    assert profile.main([]) == 1 and "ended before it began" in capsys.readouterr().err


def test_the_table_shows_what_others_did(capsys):
    result = imagined()
    record = result["results"][4]
    record["undisturbed"] = 0.97
    record["contenders"]["torch.nn"]["rounds_left_out"] = 3
    assert tables.rows(result)[6][0][-2:] == ["97 %", "3 of 12"], "a row before it has three rivals"
    assert tables.HEADER[-2:] == ("undisturbed", "left out")
    assert not timing.disturbed(record) and "not to be trusted" not in "".join(tables.verdicts(result))
    record["undisturbed"] = 0.8
    said = "rows, in which others used the machine to the end (lstm B=1 T=512 H=256 infer)"
    said = f"not to be trusted, means that hold them included: 1 of {len(result['results'])} {said}"
    assert tables.verdicts(result)[0] == said and said in page.page(result, {})


def test_a_report_lies_where_it_is_asked_for_or_beside_its_result_and_says_what_it_wrote(tmp_path, capsys):
    source, there = tmp_path / "old-memory.json", tmp_path / "there"
    source.write_text(json.dumps(imagined() | {"suite": "memory"}))
    for folder, options in ((there, ["--output", str(there)]), (tmp_path, [])):
        assert program.main(["--report", str(source), *options]) == 0
        lines = capsys.readouterr().out.splitlines()
        made = {folder / "old-memory.html", folder / "old-memory-peaks.png"}
        assert {line for line in lines if "written" in line} == {f"written to {file}" for file in made}
        assert set(folder.iterdir()) - {source, there} == made


def test_the_table_shows_losses_and_failures(capsys):
    tables.show(imagined(), tables.make_console())
    printed = capsys.readouterr().out
    assert "losses: lstm B=1 T=10 H=256 infer (0.25)" in printed
    assert "compiled is not timed: RuntimeError: <no compiler>" in printed
    assert "haste skipped in 1 rows" in printed and "products 1 GFLOP/s" in printed


def test_rows_that_others_disturbed_are_marked_and_named_above_the_means(capsys):
    result = imagined()
    tables.show(result, tables.make_console())
    printed = capsys.readouterr().out
    assert "not to be trusted" not in printed and "00*" not in printed
    result["results"][1]["undisturbed"] = 0.8
    tables.show(result, tables.make_console())
    printed = capsys.readouterr().out
    assert printed.count("2.00*") == printed.count("00*") == 1
    assert f"not to be trusted, means that hold them included: 1 of {len(result['results'])} rows" in " ".join(printed.split())


def test_the_glance_has_the_means_of_quick_grids_and_counts_losses():
    result = imagined() | {"machine": "zen9"}
    result["environment"] |= {"command": "python -m benchmarks", "build": {"cpu kernels": "avx2"}}
    full = {**result, "environment": {**result["environment"], "command": "python -m benchmarks --suite full"}}
    lines = readme.glance(result, full)
    [line] = (line for line in lines if line.startswith("| zen9"))
    assert line.startswith("| zen9, avx2, 2 threads | **2.00** (2.00) | **1.54** (0.25) | **2.00** (2.00) |")
    assert "was faster in 2, by at most 300.0 %" in " ".join(lines)


def test_the_table_of_costs_says_what_a_step_and_what_is_left_out_take():
    case = Case("rnn", 2, 50, 8, ragged="lengths")
    rows = [row(Case("rnn", 1, 1, 8, form="cell"), "step", 4e-6, 2e-6), row(case, "infer", 9e-4, 1e-4)]
    rows[1]["ratios"][timing.WHOLE] = 1.6
    facts = {"command": "python -m benchmarks --suite costs", "cores": 2, "threads": 1, "torch": "2.99", "date": "2030-01-01"}
    facts |= {"cpu": "Imagined 1", "build": {"cpu kernels": "avx2"}}
    lines = readme.costs({"environment": facts, "machine": "zen9", "results": rows})
    share = int(case.sequence_lengths().sum()) / 100
    assert "| rnn B=1 T=1 H=8 cell step | 4 | 2 | **2.00** | 2 |  |  |" in lines
    assert f"| rnn B=2 T=50 H=8 lengths infer | 900 | 100 | **9.00** | 2 | 0.62 | {share:.2f} |" in lines


def test_the_table_of_large_layers_names_those_that_stay_below():
    near, far, small = Case("gru", 64, 10, 128), Case("gru", 64, 20, 128), Case("gru", 1, 20, 128)
    rows = [row(case, "step", 4.0, 1.0) for case in (near, far, small)]
    rows[0]["limit_s"] = 0.8  # of 0.9 s, the fastest decile
    lines = readme.large({"environment": {"command": "python -m benchmarks --threads 1"}, "results": rows})
    assert "| gru step | 2 | 1 | 72 % | 56 % |" in lines
    assert lines[-1] == "| gru B=64 T=20 H=128 step | --threads 1 | 56 % |" and not any("B=1 " in line for line in lines)


def test_rows_that_fall_short_are_told_apart_by_what_the_machine_allows():
    beyond, near, far, good = (Case("gru", 4, T, 128) for T in (10, 20, 30, 40))
    rows = [row(case, "step", 4.8 if case != good else 5.2, 1.0) for case in (beyond, near, far, good)]
    for record, limit in zip(rows, (0.9, 0.78, 0.6, 0.6)):
        record["limit_s"] = limit  # of 0.9 s, the fastest decile
    lines = readme.short_of_goals({"environment": {"command": "python -m benchmarks"}, "results": rows})
    assert lines[0].startswith("3 of 4 measurements fall short of their goal. For 1 of them the goal lies beyond the")
    assert lines.index("1 reach at least 85 % of the limit:") < lines.index("The other 1:")
    found = [line for line in lines if line.startswith("| gru")]
    assert found == [
        "| gru B=4 T=10 H=128 step | quick | 4.80 | 5.0 | 4.80 | 100 % |",
        "| gru B=4 T=20 H=128 step | quick | 4.80 | 5.0 | 5.54 | 87 % |",
        "| gru B=4 T=30 H=128 step | quick | 4.80 | 5.0 | 7.20 | 67 % |",
    ]


def test_the_profile_tells_kinds_of_work_apart():
    of = "    {:.2f}%  python   {:<45}  [.] {}"
    ours, space = "_C.cpython-311-x86_64-linux-gnu.so", "fusedrnn::cpu::avx2::"
    report = [
        "# Overhead  Command  Shared Object  Symbol",
        of.format(40, ours, f"void {space}multiply_block<float, float, 11, 2, false>"),
        of.format(20, ours, f"void {space}add_block<float, float, 12, 2, false, {space}PanelToPack<float, float, float> >"),
        of.format(5, ours, f"{space}GradientWalk<float, float>::place_whole<{space}PackedPanel<float, float> >"),
        of.format(4, ours, f"{space}GradientWalk<float, float>::pack_some<8, true>"),
        of.format(3, ours, f"{space}BackwardWalk<fusedrnn::Rnn<false>, float, float>::rows_of_units"),
        of.format(2, ours, f"{space}BackwardWalk<fusedrnn::Rnn<false>, float, float>::step"),
        of.format(1, "libgomp.so.1", "0x000000000001e02a"),
        of.format(1, "libpython3.11.so.1.0", "_PyEval_EvalFrameDefault"),
    ]
    found = profile.shares("\n".join(report))
    assert found == {
        "products of the steps": 0.4,
        "products for the weights' gradients": 0.25,
        "packing for the weights' gradients": 0.04,
        "cells": 0.03,
        "steps around them": 0.02,
        "waiting for the other threads": 0.01,
        "Python, torch, system": 0.01,
    }


@pytest.mark.skipif(not shutil.which("nm"), reason="needs nm, which lists an extension's functions")
def test_the_profile_knows_every_kernel():
    listed = subprocess.run(["nm", "-C", "--defined-only", _C.__file__], capture_output=True, text=True, check=True)
    functions = re.findall(r" [tTwW] (.*cpu::(?:avx|portable|neon).*)", listed.stdout)
    assert functions, "the kernels are in the extension, with their names"
    # what begins a team of threads, and does nothing else
    strange = [name for name in functions if profile.kind_of(name, "_C.so") == profile.OTHER]
    assert [name for name in strange if not re.search(r"::(forward|backward|gradients)<", name)] == []


def test_pictures_and_page_are_made(tmp_path):
    result = imagined()
    made = pictures.draw(result, tmp_path, "run")
    assert {path.name for path in made.values()} == {
        f"run-{name}.png" for name in ("heatmap", "hidden", "roofline", "peaks")
    }
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10000 for path in made.values())
    text = page.page(result, made)
    assert text.count('src="data:image/png;base64,') == 4 and "http" not in text, "needs no other file"
    assert "geometric mean of" in text and '<tr class="loss"><td>lstm B=1 T=10 H=256 infer' in text
    assert "&lt;no compiler&gt;" in text and "backward = walk" in text and "Imagined 1" in text


def test_a_heat_map_holds_the_ratios_in_its_cells_and_names_its_axes():
    figure = pictures.heatmaps(imagined())
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert texts.count("0.25") == 1 and texts.count("2.00") == 35
    labels = {label for axis in figure.axes for label in (axis.get_xlabel(), axis.get_ylabel())}
    assert {"sequence length T, steps", "batch B, rows"} <= labels
    limits = figure.axes[0].images[0].norm
    assert limits.vmin * limits.vmax == pytest.approx(1), "1× lies in the middle of the colours"


def test_few_rows_make_few_pictures(tmp_path):
    result = copy.deepcopy(imagined())
    result["results"] = result["results"][:1]
    assert [path.name for path in pictures.draw(result, tmp_path, "one").values()] == ["one-roofline.png"]
    result["results"] = []
    assert pictures.draw(result, tmp_path, "none") == {}
    assert "No losses" in page.page(result, {})


def test_a_result_of_held_back_instruction_sets_says_so_and_holds_all_or_none(monkeypatch):
    monkeypatch.setattr(machine.os, "environ", {})
    assert machine.environment()["told"] is None
    variables = dict.fromkeys(machine.INSTRUCTION_SETS, "avx2")
    monkeypatch.setattr(machine.os, "environ", {**variables, "OTHER": "avx2"})
    assert machine.environment()["told"] == variables
    result = imagined()
    result["environment"] |= {"command": "python -m benchmarks", "cores": 2, "build": {"cpu kernels": "avx2"}, "told": variables}
    result["machine"] = "zen9"
    assert readme.committed(result, "zen9") == "zen9-avx2-2-cores"
    assert f"{machine.INSTRUCTION_SETS[0]}=avx2 " in readme.taken(result)
    assert "FUSEDRNN_ISA=avx2" in readme.held_back(result, result)[0] and len(readme.held_back(result, result)) == 2
    line, _ = readme.held_back(result, result, result | {"machine": "zen8"})
    assert line.startswith("zen9, avx2; zen8, avx2: all libraries restricted to an older instruction set than the processor's, with `")
    result["environment"]["told"] = {"FUSEDRNN_ISA": "avx2"}
    assert readme.committed(result, "zen9") is None, "the others had more"
    result["environment"]["told"] = None
    assert readme.committed(result, "zen9") == "zen9-avx2-2-cores" and readme.held_back(result) == []
