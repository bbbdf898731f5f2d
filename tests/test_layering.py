"""Who may include whom in csrc/: core nothing but itself, kernels core, and torch in ops alone."""

import re
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[1] / "csrc"
MAY_INCLUDE = {
    "core": {"core"},
    "cpu": {"core", "cpu"},
    "cuda": {"core", "cuda"},
    "ops": {"core", "cpu", "cuda", "ops"},
}
FOREIGN = re.compile(r"^(ATen|torch|c10|pybind11|Python\.h|cuda|cublas|omp\.h)")
MAY_USE = {"core": (), "cpu": ("omp.h",), "cuda": ("cuda",), "ops": ("ATen", "torch", "c10", "pybind11", "cuda")}
SOURCES = sorted(p for p in CSRC.rglob("*") if p.suffix in (".h", ".inc", ".cpp", ".cu", ".cuh"))


def includes(source):
    return re.findall(r'^\s*#include\s+([<"])([^>"]+)[>"]', source.read_text(), re.MULTILINE)


def violations(source):
    layer = source.relative_to(CSRC).parts[0]
    for kind, name in includes(source):
        if kind == '"':
            target = (source.parent / name).resolve()
            if not target.exists():
                yield f"{name} does not exist"
            elif target.relative_to(CSRC).parts[0] not in MAY_INCLUDE[layer]:
                yield f"{layer}/ may not include {target.relative_to(CSRC)}"
        elif FOREIGN.match(name) and not name.startswith(MAY_USE[layer] or ("\0",)):
            yield f"{layer}/ may not use <{name}>"


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: str(s.relative_to(CSRC)))
def test_each_source_includes_only_what_its_layer_may(source):
    assert list(violations(source)) == []


def test_the_check_finds_a_torch_include_in_a_kernel(tmp_path, monkeypatch):
    monkeypatch.setattr("test_layering.CSRC", tmp_path)
    (tmp_path / "cpu").mkdir()
    source = tmp_path / "cpu" / "kernel.h"
    source.write_text("#include <ATen/ATen.h>\n")
    assert list(violations(source)) == ["cpu/ may not use <ATen/ATen.h>"]


def test_every_layer_is_there():
    assert {s.relative_to(CSRC).parts[0] for s in SOURCES} <= set(MAY_INCLUDE)
    assert {"core", "cpu", "ops"} <= {s.relative_to(CSRC).parts[0] for s in SOURCES}
