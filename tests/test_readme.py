"""The README's Python code runs as printed, in order, as one reader's session; the commands it names exist."""

import re
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
