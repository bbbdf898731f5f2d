"""Tools that know torch.nn's classes, not ours, are told so with the way around; and that way works."""

import copy

import pytest
import torch
from helpers import CELLS, LAYERS, flat, make, random

import fusedrnn

ALL = [(table, kind) for table in (LAYERS, CELLS) for kind in LAYERS]


def model_and_input(table, kind, device):
    module = make(kind, 4, 6, table=table, dtype=torch.float32, device=device)[0]
    shape = (3, 4) if table is CELLS else (5, 3, 4)
    return torch.nn.Sequential(module), random(*shape, dtype=torch.float32, device=device)


TOOLS = {
    "script": (lambda model, x: torch.jit.script(model), "torch.jit.script cannot follow"),
    "trace": (lambda model, x: torch.jit.trace(model, x), "torch.jit.trace.* cannot follow"),
    "legacy ONNX": (
        lambda model, x: torch.onnx.export(model, (x,), "/dev/null", dynamo=False), "dynamo=True.* cannot follow"
    ),
    "fx": (lambda model, x: torch.fx.symbolic_trace(model), "symbolic_trace cannot follow"),
}  # fmt: skip
# These tools are old, and torch says so; torch.nn's own checks are frozen into a trace, and torch says that too.
IGNORED = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning"
)


@pytest.fixture
def cache_of_autocast():
    """torch's old ONNX export turns it off, and where it raises it leaves it so to the tests that follow."""
    yield
    torch.set_autocast_cache_enabled(True)


@IGNORED
@pytest.mark.usefixtures("cache_of_autocast")
@pytest.mark.parametrize("root", [False, True], ids=["inside a model", "root"])
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("table, kind", ALL, ids=lambda value: value if isinstance(value, str) else "")
def test_they_are_refused_with_the_way_around(table, kind, tool, root, device):
    model, x = model_and_input(table, kind, device)
    run, message = TOOLS[tool]
    with pytest.raises(NotImplementedError, match=message + r".*fusedrnn.revert\(model\) first"):
        run(model[0] if root else model, x)
    assert type(model[0]).__module__.startswith("fusedrnn")  # and left as it was


@IGNORED
@pytest.mark.parametrize("tool", ["script", "trace", "fx"])
@pytest.mark.parametrize("kind", LAYERS)
def test_reverted_models_pass(kind, tool, device):
    model, x = model_and_input(LAYERS, kind, device)
    expected = flat(model(x))
    passed = TOOLS[tool][0](fusedrnn.revert(copy.deepcopy(model), report=None), x)
    for theirs, ours in zip(flat(passed(x)), expected, strict=True):
        torch.testing.assert_close(theirs, ours)


class Leaves(torch.fx.Tracer):
    def is_leaf_module(self, module, name):
        return type(module).__module__.startswith("fusedrnn") or super().is_leaf_module(module, name)


@pytest.mark.parametrize("table, kind", ALL, ids=lambda value: value if isinstance(value, str) else "")
def test_an_fx_tracer_that_takes_us_as_leaves(table, kind, device):
    model, x = model_and_input(table, kind, device)
    traced = torch.fx.GraphModule(model, Leaves().trace(model))
    for theirs, ours in zip(flat(traced(x)), flat(model(x)), strict=True):
        assert torch.equal(theirs, ours)


@IGNORED
def test_quantize_dynamic_takes_reverted_layers_and_leaves_ours():
    model = torch.nn.Sequential(fusedrnn.LSTM(4, 6))
    quantize = torch.ao.quantization.quantize_dynamic
    assert type(quantize(model)[0]) is fusedrnn.LSTM
    assert "quantized" in type(quantize(fusedrnn.revert(model, report=None))[0]).__module__
