"""The benchmark measures, writes well-formed JSON, and refuses to time what computes something else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import fusedrnn

pytest.importorskip("rich", reason="the benchmark prints through rich")

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks import compare  # noqa: E402

TINY = ["--batch", "3", "--seq-len", "5", "--hidden", "7", "--rounds", "2"]


def test_benchmark_runs_as_a_program_and_writes_json(tmp_path):
    output = tmp_path / "result.json"
    command = [sys.executable, "-m", "benchmarks.compare", *TINY, "--ragged", "--threads", "1", "--output", str(output)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "geometric mean of 12 ratios" in run.stdout and "losses: " in run.stdout
    written = json.loads(output.read_text(), parse_constant=pytest.fail)
    assert {"date", "commit", "cpu", "threads", "torch", "build"} <= written["environment"].keys()
    assert written["environment"]["threads"] == 1 and written["complete"]
    assert [(r["cell"], r["pass"]) for r in written["results"]] == [
        (cell, name) for cell in ("lstm", "gru", "rnn") for name in ("train", "infer")
    ]
    for record in written["results"]:
        assert record["ratios"].keys() == {"torch.nn packed", "torch.nn padded"}
        for result in record["contenders"].values():
            assert result["right"] and result["rounds"] == 2
            assert 0 < result["p10_s"] <= result["median_s"] <= result["p90_s"]


@pytest.mark.parametrize("fault", [1.001, float("nan")])
def test_a_wrong_contender_is_refused_and_never_timed(fault, tmp_path, monkeypatch, capsys):
    calls = []

    def wrong(self, input):
        calls.append(1)
        y, states = super(fusedrnn.GRU, self).forward(input)
        return y * fault, states

    monkeypatch.setattr(fusedrnn.GRU, "forward", wrong)
    output = tmp_path / "result.json"
    with pytest.raises(SystemExit, match="wrong"):
        compare.main([*TINY, "--cells", "gru", "--passes", "train", "infer", "--output", str(output)])
    assert len(calls) == 2, "once a pass, to be verified"
    assert "WRONG" in capsys.readouterr().out
    for record in json.loads(output.read_text(), parse_constant=pytest.fail)["results"]:
        ours = record["contenders"]["fusedrnn"]
        assert not ours["right"] and "median_s" not in ours and record["ratios"] == {}
        assert ours["error"] is None if fault != fault else ours["error"] > 5e-4


def test_a_wrong_gradient_is_refused_too(monkeypatch, capsys):
    class Doubled(fusedrnn.GRU):
        def forward(self, input):
            y, h_n = super().forward(input)
            return 2 * y - y.detach(), h_n

    monkeypatch.setattr(fusedrnn, "convert", lambda module, report: setattr(module, "__class__", Doubled) or module)
    with pytest.raises(SystemExit, match="wrong"):
        compare.main([*TINY, "--cells", "gru", "--passes", "train"])
    assert "WRONG" in capsys.readouterr().out


def test_an_interrupted_run_keeps_what_it_has(tmp_path, monkeypatch, capsys):
    measure, done = compare.measure, []

    def interrupted(*arguments):
        if done:
            raise KeyboardInterrupt
        done.append(1)
        return measure(*arguments)

    monkeypatch.setattr(compare, "measure", interrupted)
    compare.main([*TINY, "--output", str(tmp_path / "result.json")])
    written = json.loads((tmp_path / "result.json").read_text())
    assert not written["complete"] and len(written["results"]) == 1
    assert "interrupted after 1 of 6 rows" in capsys.readouterr().out


def test_the_options_choose_cases_or_a_grid():
    assert compare.select(compare.parse([])) == compare.DEFAULT_CASES
    options = compare.parse(["--cells", "lstm", "--batch", "1", "4", "--layers", "2", "--dtype", "float64"])
    assert [str(case) for case in compare.select(options)] == [f"lstm B={B} T=128 H=256 L=2 float64" for B in (1, 4)]


def test_nonsense_is_refused(capsys):
    with pytest.raises(SystemExit):
        compare.parse(["--batch", "0"])
    assert "must be a whole number above 0; got '0'" in capsys.readouterr().err
