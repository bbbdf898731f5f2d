"""The command line says what is installed and what it was built with."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fusedrnn
from fusedrnn import _ops
from fusedrnn.__main__ import main


def test_info_shows_versions_build_and_machine(capsys):
    main(["info"])
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if "running" not in line)
    assert lines["fusedrnn"] == fusedrnn.__version__
    assert lines["location"] == str(Path(fusedrnn.__file__).parent)
    assert lines["threads"] == str(torch.get_num_threads())
    main(["info"])
    printed = capsys.readouterr().out
    assert torch.__version__ in printed
    for name, value in _ops.build_info().items():
        assert name in printed and value in printed


def test_info_survives_a_driver_that_is_too_old_for_torch(capsys, monkeypatch):
    def refuse(index):
        raise RuntimeError("The NVIDIA driver on your system is too old")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", refuse)
    main(["info"])
    assert "2, which torch" in next(line for line in capsys.readouterr().out.splitlines() if line.startswith("cuda devices"))


def test_info_is_aligned(capsys):
    main(["info"])
    lines = capsys.readouterr().out.splitlines()
    column = lines[0].index(fusedrnn.__version__)
    assert all(line[column - 1] == " " != line[column] for line in lines)


def test_the_version_is_an_option(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == f"fusedrnn {fusedrnn.__version__}\n"


def test_help_is_what_there_is_without_a_command(capsys):
    main([])
    out = capsys.readouterr().out
    assert out.startswith("usage: python -m fusedrnn") and "print version, location" in out


def test_unknown_commands_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["build"])
    assert "invalid choice: 'build'" in capsys.readouterr().err


def test_module_runs_as_a_program():
    run = subprocess.run([sys.executable, "-m", "fusedrnn", "info"], capture_output=True, text=True, check=True)
    assert fusedrnn.__version__ in run.stdout
