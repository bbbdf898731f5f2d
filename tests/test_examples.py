"""The example programs run, and what they print holds; small settings, one process each."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"


@pytest.fixture
def example(tmp_path):
    """Run an example outside the repository and return what it printed, of errors if it is to refuse."""

    def run(name, *options, launcher=(), refuses=False):
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, *launcher, str(ROOT / "examples" / f"{name}.py"), *map(str, options)],
            cwd=tmp_path,
            # One thread: sizes are small, and threads that wait for a busy core would take most of the time.
            env={**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            encoding="utf-8",
            timeout=120,
        )
        assert done.returncode == (2 if refuses else 0), done.stderr
        return done.stderr if refuses else done.stdout

    return run


def numbers(text, pattern):
    """The numbers in `text` that stand where `pattern` has a #."""
    found = re.findall(pattern.replace("#", f"({NUMBER})"), text)
    assert found, f"nothing like {pattern!r} in:\n{text}"
    return [float(number) for number in found]


def test_sine_forecast_learns(example):
    out = example("sine_forecast", "--steps", 60, "--horizon", 20)
    losses = numbers(out, r"loss +#")
    assert losses[-1] < 0.2 * losses[0]
    [error], [scale] = numbers(out, "RMS error #"), numbers(out, "for scale: #")
    assert error < 0.75 * scale


def test_step_cells_equal_the_layer(example):
    out = example("step_cells", "--steps", 20, "--hidden", 16)
    for what in ("output", "state", "gradients"):
        [difference] = numbers(out, f"  {what} +#")
        assert difference < 1e-6
    [difference] = numbers(out, "last state # from")
    assert difference < 1e-6


def test_truncated_bptt_needs_the_carried_state(example):
    out = example("truncated_bptt", "--steps", 120)
    losses = numbers(out.split("state zero")[0], r"loss +#")
    assert losses[-1] < 0.2 * losses[0]
    [carried], [fresh] = numbers(out, "# carried"), numbers(out, "# from zeros")
    assert carried < 0.5 * fresh


def test_char_lm_learns_and_writes(example):
    out = example("char_lm", "--steps", 30, "--hidden", 64)
    bits = numbers(out, "# bits per character")
    assert bits[-1] < 0.75 * bits[0]  # the last of them is the held-out text's
    assert len(out.split("sample:\n")[1]) == 300 + len("\n")


def test_char_lm_reads_a_file(example, tmp_path):
    (tmp_path / "text.txt").write_text("the same words again and again, " * 60, encoding="utf-8")
    bits = numbers(example("char_lm", "--steps", 20, "--hidden", 32, "--text", "text.txt"), "# bits per character")
    assert bits[-1] < 0.75 * bits[0]


def test_episode_resets_equal_the_loop(example):
    out = example("episode_resets", "--steps", 20, "--envs", 8, "--hidden", 16)
    [starts] = numbers(out, "# episode starts")
    assert starts > 0
    for what in ("outputs", "gradients"):
        [difference] = numbers(out, f"  {what} +#")
        assert difference < 1e-5


def test_variable_lengths_equal_packing(example):
    out = example("variable_lengths", "--steps", 12, "--batch", 6, "--hidden", 16)
    for what in ("output", "states", "gradients"):
        [difference] = numbers(out, f"  {what} +#")
        assert difference < 1e-5
    assert "length 0: output and state are zero: True" in out


def test_convert_model_trains_on_as_before(example):
    out = example("convert_model", "--steps", 5)
    assert "rnn: torch.nn.GRU -> fusedrnn.GRU" in out and "rnn: fusedrnn.GRU -> torch.nn.GRU" in out
    ours, twins = numbers(out, "  loss #"), numbers(out, ", # with the torch.nn twin")
    assert len(ours) == len(twins) == 3 and ours == pytest.approx(twins, abs=1e-5)
    assert "same objects throughout: True" in out
    [apart] = numbers(out, "twin's parameters: #")
    assert apart < 1e-5


def test_train_distributed_learns_alone_and_goes_on_from_its_checkpoint(example):
    first = example("train_distributed", "--steps", 60, "--save", "checkpoint")
    assert "1 process(es)" in first and "checkpoint written" in first
    losses = numbers(first, "loss #")
    [further] = numbers(example("train_distributed", "--steps", 1, "--load", "checkpoint"), "loss #")
    assert losses[-1] < 0.5 * losses[0] and further < 0.5 * losses[0]


def test_train_distributed_takes_no_empty_batch(example):
    assert "above 0; got 0" in example("train_distributed", "--batch", 0, refuses=True)


@pytest.mark.slow
def test_any_number_of_processes_trains_the_same(example):
    steps = ("--steps", 20, "--batch", 16, "--hidden", 8)
    alone = example("train_distributed", *steps)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    sharded = example("train_distributed", *steps, "--shard", launcher=launcher)
    assert "1 process(es)" in alone and "2 process(es)" in sharded and "FSDP2" in sharded
    assert numbers(sharded, "loss #") == pytest.approx(numbers(alone, "loss #"), abs=2e-5)


def test_every_example_is_listed_and_tested():
    """One line in the README with the command for each program; forecast_demo has its own tests."""
    readme = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    mine = Path(__file__).read_text(encoding="utf-8")
    for program in (ROOT / "examples").glob("*.py"):
        assert f"`python examples/{program.name}`" in readme
        assert f'example("{program.stem}"' in mine or program.stem == "forecast_demo"
