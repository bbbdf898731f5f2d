"""The short way from Python to the operators does what the general one does, and leaves to it what Python may override."""

import pytest
import torch
from helpers import CELLS, LAYERS, random, states
from test_operators import OPTIONS, B, H, I, arguments
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import fusedrnn
from fusedrnn import functional
from fusedrnn.modules import base, cells

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
        watched[3] = [*given[3][:-1], given[3][-1].as_subclass(Watched)]
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
    "a list of no tensors": ("layer", 3, [1]),
    "a list of no booleans": ("layer", 8, ["no"]),
    "no boolean": ("layer", 9, "no"),
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


# --- modules ---

MODULES = {  # what a module is made with, beside its sizes
    "plain": {},
    "no bias": {"bias": False},
    "batch first": {"batch_first": True},
    "both directions": {"bidirectional": True},
    "three layers": {"num_layers": 3, "bidirectional": True, "dropout": 0.5},
    "recompute": {"recompute": True},
    "projection": {"proj_size": 3, "num_layers": 2},
}


def module(kind, option, device="cpu"):
    name, extra = LAYERS[kind]
    return getattr(fusedrnn, name)(I, H, **extra, **MODULES[option]).to(device, torch.float64)


def first_states(layer, kind, batch=B, **where):
    return states(kind, layer.num_layers * (1 + layer.bidirectional), batch, H, P=layer.proj_size, **where)


@pytest.fixture
def calls(monkeypatch):
    """What the short way of modules returned, call by call."""
    returned = []
    for place in (base, cells):
        short = place._call
        monkeypatch.setattr(place, "_call", lambda *given, short=short: returned.append(short(*given)) or returned[-1])
    return returned


def flat(outputs):
    return [t for output in outputs for t in (output if isinstance(output, tuple) else [output])]


@pytest.mark.parametrize("hx", [False, True])
@pytest.mark.parametrize(
    "kind, option", [(kind, option) for kind in LAYERS for option in MODULES if kind == "lstm" or option != "projection"]
)
def test_a_module_is_what_python_makes_of_it(kind, option, hx, device, calls, monkeypatch):
    layer = module(kind, option, device)
    x = random(*(B, 4) if layer.batch_first else (4, B), I, device=device).requires_grad_()
    first = first_states(layer, kind, device=device) if hx else None
    leaves = [x, *layer.parameters()]

    def run():
        torch.manual_seed(5)  # dropout's
        outputs = flat(layer(x, first))
        return [*outputs, *torch.autograd.grad(sum(t.square().sum() for t in outputs), leaves)]

    short = run()
    assert [result is not None for result in calls] == [True]
    monkeypatch.setattr(base, "_call", lambda *_: None)
    for a, b in zip(short, run(), strict=True):
        assert torch.equal(a, b)


GIVEN = {  # beside the input and the first states: (layer, leading sizes of the input) -> arguments
    "lengths": lambda sizes, device: {"lengths": torch.tensor([4, 0, 3, 1][:B], device=device)},
    "small lengths": lambda sizes, device: {"lengths": torch.tensor([2, 4, 3, 1][:B], dtype=torch.int16, device=device)},
    "resets": lambda sizes, device: {"reset": random(*sizes, device=device) > 0.3},
    "resets to hx": lambda sizes, device: {"reset": random(*sizes, device=device) > 0.3, "reset_to": "hx"},
    "lengths and resets": lambda sizes, device: GIVEN["lengths"](sizes, device) | GIVEN["resets"](sizes, device),
    "cell states": lambda sizes, device: {"return_cell_states": True},
}


@pytest.mark.parametrize(
    "kind, option, given",
    [("lstm", option, given) for option in ("plain", "batch first", "three layers", "projection") for given in GIVEN]
    + [(kind, "batch first", given) for kind in LAYERS if kind != "lstm" for given in GIVEN if given != "cell states"],
)
def test_lengths_resets_and_cell_states_go_the_short_way(kind, option, given, device, calls, monkeypatch):
    layer = module(kind, option, device)
    sizes = (B, 4) if layer.batch_first else (4, B)
    x, more = random(*sizes, I, device=device).requires_grad_(), GIVEN[given](sizes, device)
    first = first_states(layer, kind, device=device)
    leaves = [x, *layer.parameters()]

    def run():
        torch.manual_seed(5)  # dropout's
        outputs = flat(layer(x, first, **more))
        return [*outputs, *torch.autograd.grad(sum(t.square().sum() for t in outputs), leaves)]

    short = run()
    assert [result is not None for result in calls] == [True]
    monkeypatch.setattr(base, "_call", lambda *_: None)
    for a, b in zip(short, run(), strict=True):
        assert a.shape == b.shape and torch.equal(a, b)


OUT_OF_THE_ORDINARY = {  # what is done to a call: (layer, x) -> another call
    "no batch": lambda layer, x: layer(x[:, 0]),
    "a list of lengths": lambda layer, x: layer(x, lengths=[2] * B),
    "a subclass for lengths": lambda layer, x: layer(x, lengths=torch.full((B,), 2).as_subclass(Watched)),
    "packed": lambda layer, x: layer(torch.nn.utils.rnn.pack_sequence([x[:, 0]])),
    "a list of states": lambda layer, x: layer(x, list(first_states(layer, "lstm"))),
    "a subclass": lambda layer, x: layer(x.as_subclass(Watched)),
    "a subclass for a state": lambda layer, x: layer(x, tuple(t.as_subclass(Watched) for t in first_states(layer, "lstm"))),
    "a parametrized weight": lambda layer, x: torch.nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")(x),
    "autocast": lambda layer, x: torch.autocast("cpu", torch.bfloat16)(lambda: layer.float()(x.float()))(),
    "a function mode": lambda layer, x: _under(torch.device("cpu"), layer, x),
}
REFUSED = {
    "another width": lambda layer, x: layer(x[..., 1:]),
    "another dtype": lambda layer, x: layer(x.float()),
    "four dimensions": lambda layer, x: layer(x[None]),
    "one state": lambda layer, x: layer(x, first_states(layer, "gru")),
    "three states": lambda layer, x: layer(x, (*first_states(layer, "lstm"), x)),
    "states of another batch": lambda layer, x: layer(x, first_states(layer, "lstm", batch=B + 1)),
    "no tensor": lambda layer, x: layer(x.tolist()),
    "an unknown reset_to": lambda layer, x: layer(x, reset_to="nonsense"),
    "lengths that are no integers": lambda layer, x: layer(x, lengths=torch.ones(B)),
    "true and false for lengths": lambda layer, x: layer(x, lengths=torch.ones(B, dtype=torch.bool)),
    "lengths of another batch": lambda layer, x: layer(x, lengths=torch.ones(B + 1, dtype=torch.long)),
    "resets of another shape": lambda layer, x: layer(x, reset=torch.ones(1, B, dtype=torch.bool)),
    "resets that are numbers": lambda layer, x: layer(x, reset=torch.ones(x.shape[:2])),
    "a trace": lambda layer, x: torch.jit.trace(layer, x),
}


def _under(mode, layer, x):
    with mode:
        return layer(x)


@pytest.mark.parametrize("what", OUT_OF_THE_ORDINARY)
def test_the_rest_is_pythons(what, calls, monkeypatch):
    outputs = []
    for _ in range(2):
        torch.manual_seed(5)
        layer, x = module("lstm", "plain"), random(4, B, I)
        outputs.append([t for t in flat(OUT_OF_THE_ORDINARY[what](layer, x)) if t is not None])
        monkeypatch.setattr(base, "_call", lambda *_: None)
    assert all(result is None for result in calls)
    for a, b in zip(*outputs, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("what", REFUSED)
def test_python_says_what_is_wrong(what, calls, monkeypatch):
    layer, x = module("lstm", "plain"), random(4, B, I)
    said = []
    for _ in range(2):
        with pytest.raises(Exception) as error:
            REFUSED[what](layer, x)
        said.append((error.type, str(error.value)))
        monkeypatch.setattr(base, "_call", lambda *_: None)
    assert all(result is None for result in calls) and said[0] == said[1]


def test_lengths_beyond_the_steps_are_refused_alike(calls, monkeypatch):
    layer, x, said = module("lstm", "plain"), random(4, B, I), []
    for _ in range(2):
        with pytest.raises(ValueError, match=r"lengths must lie in 0..T = 0..4; got 5 at 0") as error:
            layer(x, lengths=torch.full((B,), 5))
        said.append(str(error.value))
        monkeypatch.setattr(base, "_call", lambda *_: None)
    assert said[0] == said[1]


def test_attributes_are_read_at_every_call(calls):
    layer, x = module("lstm", "three layers"), random(4, B, I)
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
    layer.train()
    assert not torch.equal(layer(x)[0], layer(x)[0])  # dropout
    with torch.no_grad():
        layer.eval().weight_hh_l2.mul_(2)
    before = layer(x)[0]
    layer.weight_hh_l2 = torch.nn.Parameter(layer.weight_hh_l2 / 2)
    assert not torch.equal(layer(x)[0], before)
    assert all(result is not None for result in calls) and len(calls) == 6


@pytest.mark.parametrize("check, hx", [("check_input", False), ("check_forward_args", True)])
def test_a_subclass_checks_every_call(check, hx, calls):
    checked = []

    def own(self, *args):
        checked.append(check)
        return getattr(fusedrnn.GRU, check)(self, *args)

    layer = type("Checked", (fusedrnn.GRU,), {check: own})(I, H).double()
    for child in (layer, type("Child", (type(layer),), {})(I, H).double()):
        child(random(4, B, I), first_states(child, "gru") if hx else None)
    assert checked == [check] * 2 and not calls


def test_dynamo_sees_a_modules_operators():
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph

    torch.compile(module("gru", "plain"), backend=keep, fullgraph=True)(random(4, B, I))
    assert functional._layer_op in [node.target for node in graphs[0].graph.nodes]


@pytest.mark.parametrize("hx", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", CELLS)
def test_a_cell_module_is_what_python_makes_of_it(kind, bias, hx, device, calls, monkeypatch):
    name, extra = CELLS[kind]
    cell = getattr(fusedrnn, name)(I, H, bias=bias, **extra).to(device, torch.float64)
    x = random(B, I, device=device).requires_grad_()
    first = states(kind, B, H, device=device) if hx else None

    def run():
        outputs = flat([cell(x, first)])
        return [*outputs, *torch.autograd.grad(sum(t.square().sum() for t in outputs), [x, *cell.parameters()], allow_unused=True)]

    short = run()
    assert [result is not None for result in calls] == [True]
    monkeypatch.setattr(cells, "_call", lambda *_: None)
    for a, b in zip(short, run(), strict=True):
        assert a is b is None or torch.equal(a, b)


CELL_CALLS = {  # of an LSTM's cell, for Python to do or to refuse
    "no batch": lambda cell, x: cell(x[0]),
    "a subclass": lambda cell, x: cell(x.as_subclass(Watched)),
    "a function mode": lambda cell, x: _under(torch.device("cpu"), cell, x),
    "autocast": lambda cell, x: torch.autocast("cpu", torch.bfloat16)(lambda: cell.float()(x.float()))(),
    "a parametrized weight": lambda cell, x: torch.nn.utils.parametrizations.weight_norm(cell, "weight_hh")(x),
    "another width": lambda cell, x: cell(x[:, 1:]),
    "a state of another batch": lambda cell, x: cell(x, (random(B + 1, H), random(B + 1, H))),
    "a state of another width": lambda cell, x: cell(x, (random(B, H), random(B, H + 1))),
    "no tensor": lambda cell, x: cell(x.tolist()),
    "a trace": lambda cell, x: torch.jit.trace(cell, x),
}


@pytest.mark.parametrize("what", CELL_CALLS)
def test_other_calls_of_a_cell_are_pythons(what, calls, monkeypatch):
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        cell, x = fusedrnn.LSTMCell(I, H).double(), random(B, I)
        try:
            results.append([t.tolist() for t in flat([CELL_CALLS[what](cell, x)])])
        except Exception as error:
            results.append((type(error), str(error)))
        monkeypatch.setattr(cells, "_call", lambda *_: None)
    assert all(result is None for result in calls) and results[0] == results[1]
