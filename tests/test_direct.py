"""The short way from Python to the operators does what the general one does, and leaves to it what Python may override."""

import pytest
import torch
from helpers import CELLS, random
from test_operators import OPTIONS, B, H, I, arguments
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from fusedrnn import functional

GATES = {"lstm": 4, "gru": 3}


def cell_arguments(kind, device="cpu", grad=True):
    leaf = lambda *shape: random(*shape, device=device).requires_grad_(grad)
    rows = GATES.get(kind, 1) * H
    c_0 = leaf(B, H) if kind == "lstm" else None
    return [leaf(B, I), leaf(B, H), c_0, leaf(rows, I), leaf(rows, H), leaf(rows), leaf(rows), kind]


def leaves_of(given):
    flat = [t for value in given for t in (value if isinstance(value, list) else [value])]
    return [t for t in flat if isinstance(t, torch.Tensor) and t.requires_grad]


def same(run, expected, given):
    """Outputs and gradients to the bit."""
    results = []
    for call in (run, expected):
        outputs = call(*given)
        total = sum(t.square().sum() for t in outputs if t.requires_grad)
        results.append((*outputs, *torch.autograd.grad(total, leaves_of(given))))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("option", OPTIONS)
def test_a_layer_is_the_operators(option, device):
    same(functional._layer, functional._layer_op, [*arguments("lstm", option, device), False])


@pytest.mark.parametrize("kind", CELLS)
def test_a_cell_is_the_operators(kind, device):
    same(functional._cell, functional._cell_op, cell_arguments(kind, device))


class Watched(torch.Tensor):
    seen = []

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        cls.seen.append(function)
        return super().__torch_function__(function, types, args, kwargs or {})


@pytest.mark.parametrize("place", ["x", "a weight", "a weight in a list"])
def test_subclasses_see_the_operator(place):
    in_list = place == "a weight in a list"
    given = [*arguments("gru", "plain", "cpu"), False] if in_list else cell_arguments("gru")
    call, op = (functional._layer, functional._layer_op) if in_list else (functional._cell, functional._cell_op)
    expected = op(*given)
    watched = list(given)
    if in_list:
        watched[4] = [t.as_subclass(Watched) for t in given[4]]
    else:
        at = 0 if place == "x" else 3
        watched[at] = given[at].as_subclass(Watched)
    Watched.seen.clear()
    found = call(*watched)
    assert op in Watched.seen and isinstance(found[0], Watched)
    assert torch.equal(found[0].as_subclass(torch.Tensor), expected[0])


def test_modes_see_the_operator():
    class Functions(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    class Dispatches(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    given = [*arguments("gru", "plain", "cpu", grad=False), False]
    for mode, op in ((Functions, functional._layer_op), (Dispatches, torch.ops.fusedrnn.layer.default)):
        seen = []
        with mode():
            functional._layer(*given)
        assert op in seen


def test_dynamo_sees_the_operator():
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph

    given = cell_arguments("gru")
    torch.compile(lambda *a: functional.run_cell(a[-1], *a[:-1]), backend=keep, fullgraph=True)(*given)
    assert functional._cell_op in [node.target for node in graphs[0].graph.nodes]


WRONG = {  # which argument of the cell or the layer is replaced, and by what
    "too few": ("cell", slice(-1, None), []),
    "too many": ("cell", slice(8, None), [None]),
    "no x": ("cell", 0, None),
    "a list for x": ("cell", 0, [[1.0]]),
    "a number for a weight": ("cell", 3, 5),
    "a number for a name": ("cell", 7, 7),
    "no text": ("cell", 7, "\ud800"),
    "an unknown cell": ("cell", 7, "nonsense"),
    "another shape": ("cell", 1, torch.zeros(3)),
    "no list of weights": ("layer", 3, None),
    "a weight for a list": ("layer", 3, torch.zeros(3)),
    "a list of no tensors": ("layer", 5, [1]),
    "a list of no booleans": ("layer", 12, ["no"]),
    "no boolean": ("layer", 13, "no"),
}


@pytest.mark.parametrize("what", WRONG)
def test_errors_are_the_operators(what):
    name, at, value = WRONG[what]
    given = cell_arguments("gru") if name == "cell" else [*arguments("gru", "plain", "cpu"), False]
    given[at] = value
    raised = []
    for run in (getattr(functional, f"_{name}"), getattr(functional, f"_{name}_op")):
        with pytest.raises(Exception) as error:
            run(*given)
        raised.append((error.type, str(error.value).splitlines()[0]))
    assert raised[0] == raised[1]
