"""The README's Python code runs as printed, in order, as one reader's session; the commands it names exist."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_layering import MAY_INCLUDE

from benchmarks.readme import TEXTS, filled

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_python_blocks_run_in_order(capsys):
    assert BLOCKS
    session = {}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"README.md, block {number}", "exec"), session)
    printed = capsys.readouterr().out
    for promise in re.findall(r'# prints "(.*)"', README):
        assert promise in printed.splitlines()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake (\w+)", README))))
def test_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_help_lists_every_target_and_make_alone_is_the_demo():
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    run = lambda *arguments: subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line.split()[:2] for line in run("--no-print-directory", "help").splitlines()] == [["make", name] for name in targets]
    assert run("--dry-run", "--always-make") == run("--dry-run", "--always-make", "demo")


def test_what_a_build_needs_is_the_same_everywhere():
    needed = "setuptools wheel ninja"
    assert f"\npip install {needed}\n" in README
    assert all(needed in (ROOT / place).read_text(encoding="utf-8") for place in ("setup.py", "Makefile"))


def test_every_set_of_kernels_has_a_name_that_the_readme_lists():
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "csrc" / "cpu").glob("isa_*.cpp"))
    names = set(re.findall(r'FUSEDRNN_KERNELS\w*\("(\w+)"\)', sources))
    row = next(line for line in README.splitlines() if line.startswith("| `FUSEDRNN_ISA"))
    assert "avx2" in names and all(f"{name}`" in row for name in names)


def test_pytest_finds_the_benchmarks_by_itself():
    """-I: without the folder that `python -m pytest` adds, and `pytest` does not."""
    command = [sys.executable, "-I", "-m", "pytest", "--collect-only", "-q", "tests/test_readme.py"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^):#]+)\)", README))))
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists()


def test_layout_names_every_folder_of_the_sources():
    folders = {path.name for path in (ROOT / "csrc").iterdir() if path.is_dir()}
    assert {name for name in MAY_INCLUDE if f"csrc/{name}/ " in README} == folders


@pytest.mark.parametrize("text", TEXTS)
def test_the_tables_are_those_of_the_committed_results(text):
    content = (ROOT / text).read_text(encoding="utf-8")
    assert filled(text, content) == content
