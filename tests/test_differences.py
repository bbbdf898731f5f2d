"""docs/differences.md holds what a fresh run of its probes gives, and the README links to it."""

import importlib.util
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def differences():
    """The module of docs/make_differences.py."""
    spec = importlib.util.spec_from_file_location("make_differences", ROOT / "docs" / "make_differences.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def committed(differences):
    """The rows of the committed table: feature → torch.nn's and our outcome."""
    rows = [line.strip("| \n").split(" | ") for line in differences.PAGE.read_text(encoding="utf-8").splitlines()]
    return {row[0]: tuple(row[1:]) for row in rows if len(row) == 3 and row[0] != "feature"}


def test_every_probe_has_its_line(differences):
    assert list(committed(differences)) == list(differences.PROBES)


def test_the_readme_leads_to_the_table():
    assert "(docs/differences.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


# The probes of exporters take seconds each, and have tests of their own.
SLOWLY = ("torch.export", "torch.compile", "torch.onnx")


@pytest.mark.parametrize("slow", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["at once", "exporters"])
def test_the_table_is_what_a_fresh_try_gives(slow, differences, monkeypatch):
    made_with = differences.PAGE.read_text(encoding="utf-8").split("(torch ")[1].split(",")[0]
    here = torch.__version__.split("+")[0]
    if made_with != here:
        pytest.skip(f"the table was made with torch {made_with}; this is {here}")
    chosen = {name: p for name, p in differences.PROBES.items() if slow == any(word in name for word in SLOWLY)}
    monkeypatch.setattr(differences, "PROBES", chosen)
    expected = {feature: row for feature, row in committed(differences).items() if feature in chosen}
    assert chosen and differences.outcomes() == expected
