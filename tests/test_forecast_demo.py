"""The demo runs, its two contenders learn alike, its forecasts beat the naive ones, and it refuses nonsense clearly."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

for library in ("matplotlib", "rich", "statsmodels"):
    pytest.importorskip(library)

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "forecast_demo.py"


def demo(folder, *options):
    """Run the demo as a user would, in a process and a folder of its own, and return what it printed."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", "COLUMNS": "100"}
    command = [sys.executable, str(SCRIPT), *map(str, options)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def load(monkeypatch):
    """Import the demo, here and now; dataclasses look their module up by name."""
    spec = importlib.util.spec_from_file_location("forecast_demo", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "forecast_demo", module)
    spec.loader.exec_module(module)
    return module


def figure(text, label):
    """The first number after a label that stands in one line of the printed tables."""
    [line] = [line for line in text.splitlines() if label in line]
    return float(re.search(r"\d+(\.\d+)?(e[+-]?\d+)?", line.split(label)[1])[0])


def test_demo_contenders_agree_and_beat_the_naive_forecasts(tmp_path):
    out = demo(tmp_path, "--series", "co2", "--hidden", 32, "--epochs", 12, "--output", "out.png")
    first, last = re.search(r"first and last epoch\D+([\d.]+), ([\d.]+)", out).groups()
    assert float(last) < 0.5 * float(first)
    assert figure(out, "largest difference between the loss curves") < 1e-4
    assert figure(out, "ratio, above 1 fusedrnn is faster") > 0
    torchs, ours = figure(out, "  torch.nn "), figure(out, "  fusedrnn ")
    assert ours == pytest.approx(torchs, rel=0.02)
    assert ours < figure(out, "naive: one season ago ") < figure(out, "naive: the last value")
    picture = (tmp_path / "out.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n") and len(picture) > 20_000


def test_demo_draws_both_series_by_default(tmp_path):
    out = demo(tmp_path, "--cell", "gru", "--hidden", 8, "--epochs", 1)
    assert "Mauna Loa" in out and "Sunspot" in out
    assert (tmp_path / "forecast_demo.png").read_bytes().startswith(b"\x89PNG")


def test_demo_refuses_nonsense(monkeypatch, capsys):
    module = load(monkeypatch)
    for options, message in [
        (["--hidden", "0"], "must be a whole number above 0; got '0'"),
        (["--epochs", "many"], "must be a whole number above 0; got 'many'"),
        (["--series", "tides"], "invalid choice: 'tides'"),
        (["--output", "picture.txt"], "must end in .png; got 'picture.txt'"),
        (["--output", "nowhere/picture.png"], "there is no folder 'nowhere'"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            module.parse(options)
        assert stopped.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize("library", ["statsmodels.api", "matplotlib", "rich.console"])
def test_demo_says_what_to_install(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    with pytest.raises(SystemExit, match=f"needs {library}.*pip install statsmodels matplotlib rich"):
        load(monkeypatch)


def test_demo_forecasts_see_nothing_of_what_they_predict(monkeypatch):
    """Another tail after a forecast's start changes neither the history it reads nor the scaling."""
    module = load(monkeypatch)
    for make in module.SERIES.values():
        series = make()
        start = int(series.targets[0, 0])
        changed = series.values.clone()
        changed[start:] += 50
        other = module.Series(**{**{f: getattr(series, f) for f in series.__dataclass_fields__}, "values": changed})
        assert (series.mean, series.std) == (other.mean, other.std)
        assert series.training_windows().equal(other.training_windows())
        assert series.histories()[:, 0].equal(other.histories()[:, 0])
        assert not series.histories()[:, 1].equal(other.histories()[:, 1])
