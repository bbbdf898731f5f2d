"""What programs written for torch.nn rely on, beside the numbers: names, copies, reparametrisation, shared weights."""

import copy
import inspect
import io
import pickle
import re
import sys
import typing

import pytest
import torch
from helpers import CELLS, LAYERS, doubled, flat, make, moved, outcome, random, states
from tolerances import assert_all_close, assert_close
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import pack_padded_sequence

import fusedrnn

CLASSES = ["RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"]
ARGUMENTS = [
    *((name, {}) for name in CLASSES),
    *((name, {"bias": False}) for name in CLASSES),
    *((name, {"num_layers": 2, "bidirectional": True, "batch_first": True, "dropout": 0.5}) for name in CLASSES[:3]),
    ("RNN", {"nonlinearity": "relu"}),
    ("RNNCell", {"nonlinearity": "relu"}),
    ("LSTM", {"proj_size": 3, "num_layers": 2, "bidirectional": True}),
]


def both(name, kwargs, seed=3, device="cpu"):
    """Ours and torch.nn's, each constructed from the same seed."""
    pair = []
    for library in (fusedrnn, torch.nn):
        torch.manual_seed(seed)
        pair.append(getattr(library, name)(4, 7, **kwargs).to(device))
    return pair


def step(module, x, hx=None):
    return flat(module(x, hx))[0]


def an_input(name, dtype=torch.float32, device="cpu"):
    return random(*((3, 4) if name.endswith("Cell") else (5, 3, 4)), dtype=dtype, device=device)


@pytest.mark.parametrize("name", CLASSES)
def test_modules_are_torchs_by_isinstance(name):
    ours, _ = both(name, {})
    assert isinstance(ours, getattr(torch.nn, name))
    assert type(ours) is getattr(fusedrnn, name)
    assert type(ours).__doc__ and ours.forward.__doc__


@pytest.mark.parametrize("name", CLASSES)
def test_forward_takes_torchs_arguments_first(name):
    mine, theirs = (list(inspect.signature(type(m).forward).parameters.values()) for m in both(name, {}))
    assert [p.name for p in mine[: len(theirs)]] == [p.name for p in theirs]
    assert all(p.kind is p.KEYWORD_ONLY for p in mine[len(theirs) :])


@pytest.mark.parametrize("name", CLASSES)
def test_the_docstring_lists_the_constructors_arguments_and_forward_says_what_it_returns(name):
    ours, theirs = getattr(fusedrnn, name), getattr(torch.nn, name)
    base = theirs if name.endswith("Cell") else torch.nn.RNNBase  # torch.nn's layers take (*args, **kwargs)
    taken = set(inspect.signature(base).parameters) - {"mode", "proj_size"}
    taken |= {"nonlinearity"} if name.startswith("RNN") else {"proj_size"} if name == "LSTM" else set()
    listed = ours.__doc__.split(": torch.nn's\n")[0].rpartition("\n")[2]
    assert set(listed.strip().split(", ")) == taken
    assert ("\nrecompute: " in inspect.getdoc(ours)) == issubclass(ours, torch.nn.RNNBase)
    assert inspect.signature(ours.forward).return_annotation is not inspect.Signature.empty


@pytest.mark.parametrize("name", CLASSES)
def test_the_constructor_shows_the_arguments_that_torch_takes(name):
    theirs = dict(inspect.signature(getattr(torch.nn, name) if name.endswith("Cell") else torch.nn.RNNBase).parameters)
    shown = dict(inspect.signature(getattr(fusedrnn, name)).parameters)
    if not name.endswith("Cell"):
        del theirs["mode"]
        recompute = shown.pop("recompute")
        assert recompute.kind is inspect.Parameter.KEYWORD_ONLY and recompute.default is False
    if name in ("RNN", "GRU"):
        del theirs["proj_size"]  # which still stands before device and dtype
        assert all(shown[key].kind is inspect.Parameter.KEYWORD_ONLY for key in ("device", "dtype"))
    order = list(shown)
    if name == "RNN":
        assert order.index("nonlinearity") == 3 and shown.pop("nonlinearity").default == "tanh"
    assert [(p.name, p.default) for p in shown.values()] == [(p.name, p.default) for p in theirs.values()]
    given = [4, 7, False] if name.endswith("Cell") else [4, 7, 2, *["relu"] * (name == "RNN"), False]
    ours, torchs = (getattr(library, name)(*given) for library in (fusedrnn, torch.nn))
    assert repr(ours) == repr(torchs)
    with pytest.raises(TypeError) as said:
        getattr(torch.nn, name)(4, 7, hidden=3)
    with pytest.raises(TypeError, match=re.escape(str(said.value))):
        getattr(fusedrnn, name)(4, 7, hidden=3)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="needs typing.get_overloads")
@pytest.mark.parametrize("function", [fusedrnn.LSTM.forward, fusedrnn.functional.lstm], ids=["LSTM", "lstm"])
def test_what_type_checkers_are_told_of_cell_states(function):
    told, taken = typing.get_overloads(function), list(inspect.signature(function).parameters)
    assert all(list(inspect.signature(each).parameters) == taken for each in told)
    hints = [typing.get_type_hints(each) for each in told]
    assert [hint["return_cell_states"] for hint in hints] == [typing.Literal[False], typing.Literal[True], bool]
    two, three, either = (hint["return"] for hint in hints)
    assert (len(typing.get_args(two)), len(typing.get_args(three))) == (2, 3)
    assert either == two | three == typing.get_type_hints(function)["return"]


@pytest.mark.parametrize(
    "function",
    [
        *(getattr(getattr(fusedrnn, name), method) for name in CLASSES for method in ("__init__", "forward")),
        *(getattr(fusedrnn.functional, name) for name in fusedrnn.functional.__all__ if name != "Weights"),
    ],
    ids=lambda function: function.__qualname__,
)
def test_every_signature_is_typed(function):
    hints, names = typing.get_type_hints(function), inspect.signature(function).parameters.keys() - {"self"}
    untyped = {"device", "dtype"} if "Cell.__init__" in function.__qualname__ else set()  # they are torch.nn's
    assert names - hints.keys() <= untyped and "return" in hints


@pytest.mark.parametrize("name", CLASSES[:3])
def test_forward_says_all_by_itself(name):
    forward = getattr(fusedrnn, name).forward
    said, (_, *taken) = inspect.getdoc(forward), inspect.signature(forward).parameters
    assert all(f"\n{each}: " in said for each in taken)
    assert "Raises " in said and "RNN.forward" not in said


@pytest.mark.parametrize("name, kwargs", ARGUMENTS, ids=str)
def test_construction_draws_names_and_prints_what_torch_does(name, kwargs):
    ours, torchs = both(name, kwargs)
    mine, theirs = ours.state_dict(), torchs.state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    assert repr(ours) == repr(torchs)
    assert vars(ours).keys() == vars(torchs).keys()  # convert swaps classes on the strength of this


@pytest.mark.parametrize("name, kwargs", ARGUMENTS, ids=str)
def test_state_dict_loads_both_ways(name, kwargs, device):
    ours, torchs = both(name, kwargs, device=device)[0], both(name, kwargs, seed=4, device=device)[1]
    x = an_input(name, device=device)
    ours.eval(), torchs.eval()
    assert not torch.allclose(step(ours, x), step(torchs, x))
    torchs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(step(ours, x), step(torchs, x))
    other = both(name, kwargs, seed=5, device=device)[0].eval()
    other.load_state_dict(torchs.state_dict())
    assert torch.equal(step(other, x), step(ours, x))


@pytest.mark.parametrize("name, kwargs", [item for item in ARGUMENTS if "Cell" not in item[0]], ids=str)
def test_all_weights_lists_the_parameters_as_torch_does(name, kwargs):
    ours, torchs = both(name, kwargs)
    assert [[tuple(w.shape) for w in layer] for layer in ours.all_weights] == [
        [tuple(w.shape) for w in layer] for layer in torchs.all_weights
    ]
    listed = [id(w) for layer in ours.all_weights for w in layer]
    assert listed == [id(w) for w in ours.parameters()]


@pytest.mark.parametrize("way", ["pickle", "torch.save", "deepcopy"])
@pytest.mark.parametrize("name, kwargs", ARGUMENTS, ids=str)
def test_copies_behave_and_are_independent(name, kwargs, way, device):
    ours, x = both(name, kwargs, device=device)[0].eval(), an_input(name, device=device)
    if way == "deepcopy":
        twin = copy.deepcopy(ours)
    elif way == "pickle":
        twin = pickle.loads(pickle.dumps(ours))
    else:
        file = io.BytesIO()
        torch.save(ours, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    assert type(twin) is type(ours)
    before = step(ours, x)
    assert torch.equal(step(twin, x), before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(2)
    assert torch.equal(step(ours, x), before) and not torch.equal(step(twin, x), before)


def scaled(module):
    """Give a parametrisation something to do: scale every magnitude it introduced."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith(("_g", "original0")):
                parameter.mul_(1.5)
    return module


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("norm", [torch.nn.utils.weight_norm, parametrizations.weight_norm], ids=["old", "new"])
@pytest.mark.parametrize("kind, is_cell", [("lstm", False), ("gru", True)], ids=["LSTM", "GRUCell"])
def test_weight_norm_is_respected(kind, is_cell, norm, device):
    ours, torchs, _ = make(kind, 4, 7, table=CELLS if is_cell else LAYERS, device=device)
    name = "weight_hh" if is_cell else "weight_hh_l0"
    x = random(*((3, 4) if is_cell else (5, 3, 4)), device=device)
    hx = random(3, 7, device=device) if is_cell else None
    plain = step(ours, x, hx).detach()
    ours, torchs = scaled(norm(ours, name)), scaled(norm(torchs, name))
    expected = outcome(torchs, x, hx)
    assert_all_close(outcome(ours, x, hx), expected, expected)
    assert not torch.allclose(step(ours, x, hx), plain)


class Symmetric(torch.nn.Module):
    def forward(self, w):
        return w.triu() + w.triu(1).t()


def test_parametrized_weights_are_recomputed_copied_and_removed(device):
    ours, torchs, _ = make("rnn_tanh", 4, 7, device=device)
    for module in (ours, torchs):
        parametrize.register_parametrization(module, "weight_hh_l0", Symmetric())
    x = random(5, 3, 4, device=device)
    expected = outcome(torchs, x)
    assert_all_close(outcome(ours, x), expected, expected)
    twin = copy.deepcopy(ours)
    assert torch.equal(step(twin, x), step(ours, x))
    before = step(ours, x)
    with torch.no_grad():
        ours.parametrizations.weight_hh_l0.original.add_(1)
    assert not torch.allclose(step(ours, x), before)
    parametrize.remove_parametrizations(twin, "weight_hh_l0")
    assert type(twin) is fusedrnn.RNN
    assert torch.equal(step(twin, x), before)


@pytest.mark.parametrize("kind, is_cell", [("lstm", False), ("gru", False), ("rnn_tanh", True)])
def test_functional_call_uses_the_weights_given(kind, is_cell, device):
    ours, torchs, _ = make(kind, 4, 7, table=CELLS if is_cell else LAYERS, device=device)
    x = random(*((3, 4) if is_cell else (5, 3, 4)), device=device)
    other = {name: (w + 0.5).detach().requires_grad_() for name, w in ours.named_parameters()}
    before = step(ours, x)
    mine, theirs = (flat(torch.func.functional_call(module, other, (x,)))[0] for module in (ours, torchs))
    assert_close(mine, theirs, theirs, "output")
    grads = [torch.autograd.grad(y.sum(), list(other.values())) for y in (mine, theirs)]
    for m, t in zip(*grads):
        assert_close(m, t, t, "gradient")
    assert torch.equal(step(ours, x), before)


def test_functional_call_may_change_the_dtype(device):
    ours = fusedrnn.GRU(4, 7).to(device)
    weights = {name: w.double() for name, w in ours.named_parameters()}
    y, _ = torch.func.functional_call(ours, weights, (random(5, 3, 4, device=device),))
    assert y.dtype == torch.float64


def test_replaced_and_changed_parameters_are_used(device):
    ours, torchs, _ = make("lstm", 4, 7, device=device)
    x = random(5, 3, 4, device=device)
    step(ours, x)
    for module in (ours, torchs):
        module.weight_hh_l0 = torch.nn.Parameter(torch.full_like(module.weight_hh_l0, 0.1))
        module.weight_ih_l0.data = torch.full_like(module.weight_ih_l0, 0.2)
        with torch.no_grad():
            module.bias_ih_l0.fill_(0.3)
    expected = outcome(torchs, x)
    assert_all_close(outcome(ours, x), expected, expected)


def test_tied_weights_collect_both_gradients(device):
    ours, torchs, _ = make("gru", 7, 7, num_layers=2, device=device)
    for module in (ours, torchs):
        module.weight_hh_l1 = module.weight_hh_l0
        module.weight_ih_l1 = module.weight_ih_l0
    x = random(5, 3, 7, device=device)
    expected = outcome(torchs, x)
    assert_all_close(outcome(ours, x), expected, expected)


def test_a_module_used_twice_collects_both_gradients(device):
    ours, torchs, _ = make("lstm", 7, 7, device=device)
    x = random(5, 3, 7, device=device)
    grads = []
    for module in (ours, torchs):
        y, _ = module(module(x)[0])
        grads.append(torch.autograd.grad(y.sum(), list(module.parameters())))
    for m, t in zip(*grads):
        assert_close(m, t, t, "gradient")


def test_flatten_parameters_leaves_the_weights_where_they_are(device):
    ours = fusedrnn.LSTM(4, 7, num_layers=2).to(device)
    before = [w.data_ptr() for w in ours.parameters()]
    assert ours.flatten_parameters() is None
    assert [w.data_ptr() for w in ours.parameters()] == before


def test_moving_to_another_dtype_moves_the_weights_in_use(device):
    ours, torchs, _ = make("gru", 4, 7, dtype=torch.float32, device=device)
    x = random(5, 3, 4, device=device)
    expected = outcome(torchs.double(), x)
    assert_all_close(outcome(ours.double(), x), expected, expected)


def test_construction_with_device_and_dtype(device):
    ours = fusedrnn.LSTM(4, 7, device=device, dtype=torch.float64)
    assert {(w.device.type, w.dtype) for w in ours.parameters()} == {(device.type, torch.float64)}
    assert all(w.is_meta for w in fusedrnn.GRUCell(4, 7, device="meta").parameters())


def test_initialisers_find_the_modules_by_isinstance():
    model = torch.nn.Sequential(fusedrnn.LSTM(4, 7), fusedrnn.GRUCell(4, 7))
    found = []
    model.apply(lambda m: found.append(type(m)) if isinstance(m, (torch.nn.LSTM, torch.nn.GRUCell)) else None)
    assert found == [fusedrnn.LSTM, fusedrnn.GRUCell]


class Residual(fusedrnn.GRU):
    """A user's subclass of one of ours."""

    def __init__(self, size):
        super().__init__(size, size)
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, input, hx=None):
        y, h_n = super().forward(input, hx)
        return input + self.scale * y, h_n


def test_our_classes_can_be_subclassed(device):
    module, x = Residual(4).double().to(device), random(5, 3, 4, device=device)
    plain = fusedrnn.GRU(4, 4).double().to(device)
    plain.load_state_dict({name: w for name, w in module.state_dict().items() if name != "scale"})
    assert torch.equal(module(x)[0], x + 2 * plain(x)[0])
    assert torch.equal(pickle.loads(pickle.dumps(module))(x)[0], module(x)[0])


@pytest.mark.parametrize("way", ["__getattr__", "property"])
@pytest.mark.parametrize("name", CLASSES)
def test_a_subclass_has_a_say_in_what_its_weights_are(name, way):
    """As Pyro's modules have, which draw or register what is read."""
    weight = "weight_hh" if name.endswith("Cell") else "weight_hh_l0"

    def halved(module):
        return module._parameters[weight] / 2

    def get(module, attribute):
        return halved(module) if attribute == weight else torch.nn.Module.__getattr__(module, attribute)

    ours, torchs = both(name, {})
    body = {"__getattr__": get} if way == "__getattr__" else {weight: property(halved)}
    for module in (ours, torchs):
        module.__class__ = type("Given", (type(module),), body)
    x = an_input(name)
    hx = states(name.removesuffix("Cell").lower(), *((3, 7) if name.endswith("Cell") else (1, 3, 7)), dtype=x.dtype)
    for found, expected in zip(flat(ours(x, hx)), flat(torchs(x, hx)), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", CLASSES)
def test_a_subclass_may_have_our_own_names_for_something_else(name):
    """It was written for torch.nn's classes, which have none of these."""
    cls, torchs = getattr(fusedrnn, name), getattr(torch.nn, name)
    own = {key for base in cls.__mro__ for key, value in vars(base).items() if callable(value)} - {"__prepare_scriptable__"}
    taken = {key: "theirs" for key in own if not hasattr(torchs, key)}
    assert any(key in taken for key in ("_run", "_step"))
    ours, torchs = both(name, {})
    ours.__class__ = type("Theirs", (cls,), taken)
    x = an_input(name)
    is_cell, packed = name.endswith("Cell"), lambda: pack_padded_sequence(x, [2, 5, 3], enforce_sorted=False)
    for input in (x, x[0]) if is_cell else (x, x[:, 0], packed()):
        for found, expected in zip(flat(ours(input)), flat(torchs(input)), strict=True):
            torch.testing.assert_close(found, expected)


class Checked:
    def check_input(self, input, batch_sizes):
        if input.isnan().any():
            raise ValueError("NaN in the input")
        super().check_input(input, batch_sizes)


class CheckedGRU(Checked, fusedrnn.GRU):
    pass


class OtherStates(fusedrnn.LSTM):
    def get_expected_hidden_size(self, input, batch_sizes):
        raise ValueError("of another size")


def test_checks_of_a_subclass_and_of_its_other_bases_are_made(device):
    x = random(5, 3, 4, device=device)
    with pytest.raises(ValueError, match="NaN in the input"):
        CheckedGRU(4, 7).double().to(device)(x * torch.nan)
    with pytest.raises(ValueError, match="of another size"):
        OtherStates(4, 7).double().to(device)(x, states("lstm", 1, 3, 7, device=device))
    for name in ("check_forward_args", "check_hidden_size", "get_expected_hidden_size"):
        for base, kwargs in ((fusedrnn.LSTM, {"proj_size": 3}), (fusedrnn.GRU, {"batch_first": True, "bidirectional": True})):
            seen = []

            def check(self, *args, name=name, base=base, seen=seen):
                seen.append(args)
                return getattr(super(cls, self), name)(*args)

            cls = type("Checks", (base,), {name: check})
            layer = cls(4, 7, num_layers=2, **kwargs).double().to(device)
            layer(x)
            layer(pack_padded_sequence(x, [5, 4, 2]))
            assert len(seen) >= 2, name


@pytest.mark.parametrize("kind", LAYERS)
def test_a_subclass_has_a_say_in_how_states_are_permuted(kind, device):
    ours = make(kind, 4, 7, dtype=torch.float64, device=device)[0]
    orders = []

    class Noting(type(ours)):
        def permute_hidden(self, hx, permutation):
            orders.append(permutation)
            return super().permute_hidden(hx, permutation)

    packed = pack_padded_sequence(random(5, 3, 4, dtype=torch.float64, device=device), [2, 5, 3], enforce_sorted=False)
    hx = states(kind, 1, 3, 7, dtype=torch.float64, device=device)
    expected = outcome(ours, packed, hx)
    ours.__class__ = Noting
    for name, value in outcome(ours, packed, hx).items():
        assert torch.equal(value, expected[name]), name
    assert orders[0] is packed.sorted_indices and orders[1] is packed.unsorted_indices


@pytest.mark.parametrize("grad_mode", [torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("weight_norm", [False, True], ids=["short way", "general way"])
@pytest.mark.parametrize("kind", LAYERS)
def test_what_a_frozen_encoder_returns_may_be_changed_in_place(kind, weight_norm, grad_mode, device):
    """Without gradients batch_first's outputs are no views, which autograd would not let be changed by what has some."""
    encoder = make(kind, 4, 7, dtype=torch.float64, device=device, batch_first=True)[0].requires_grad_(False)
    if weight_norm:
        parametrizations.weight_norm(encoder, "weight_hh_l0")
    x, position = random(3, 5, 4, dtype=torch.float64, device=device), torch.nn.Parameter(torch.ones(7, device=device).double())
    with grad_mode():
        y, before = encoder(x)[0], encoder(x)[0].detach().clone()
    y += position
    assert torch.equal(y, before + 1) and y.stride() == before.transpose(0, 1).contiguous().transpose(0, 1).stride()
    y.sum().backward()
    assert position.grad.eq(15).all()


@pytest.mark.parametrize("kind", LAYERS)
def test_meta_tensors_run_forward_and_backward(kind):
    layer = make(kind, 4, 7, device="meta", bidirectional=True)[0]
    x = torch.empty(5, 3, 4, dtype=torch.float64, device="meta", requires_grad=True)
    layer(x)[0].sum().backward()
    assert x.grad.shape == x.shape and all(p.grad.shape == p.shape for p in layer.parameters())
    packed = pack_padded_sequence(torch.empty(5, 3, 4, dtype=torch.float64), [5, 4, 2])
    y, h_n = layer(packed._replace(data=packed.data.to("meta")))
    assert y.data.shape == (11, 14) and flat(h_n)[0].shape == (2, 3, 7)


def test_lengths_are_numbers_whatever_the_default_device():
    layer, x = fusedrnn.GRU(4, 7), torch.randn(5, 3, 4)
    with torch.device("meta"):
        y = layer(x, lengths=[5, 0, 2])[0]
    assert torch.equal(y, layer(x, lengths=torch.tensor([5, 0, 2]))[0])


def test_hooks_fire(device):
    ours, calls = fusedrnn.LSTM(4, 7).to(device), []
    ours.register_forward_pre_hook(lambda module, args: calls.append("before"))
    ours.register_forward_hook(lambda module, args, output: calls.append("after"))
    ours.register_full_backward_hook(lambda module, d_in, d_out: calls.append("backward"))
    ours(random(5, 3, 4, dtype=torch.float32, device=device).requires_grad_())[0].sum().backward()
    assert calls == ["before", "after", "backward"]


@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CLASSES)
def test_autocast_runs_in_its_dtype_and_trains_the_float32_weights(name, given, device):
    ours = both(name, {}, device=device)[0]
    x, hx = an_input(name, given, device), None
    if name.endswith("Cell"):
        hx = states(name.removesuffix("Cell").lower(), 3, 7, dtype=given, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        y = step(ours, x, hx)
        y.float().sum().backward()  # inside, where PyTorch advises against it: nothing may change
    kept = name in ("LSTMCell", "GRUCell") and given == torch.float32 and device.type == "cpu"  # by torch.nn, too
    assert y.dtype == (torch.float32 if kept else torch.bfloat16)
    exact = copy.deepcopy(ours).double()
    truth = step(exact, x.double(), doubled(hx))
    assert (y - truth).abs().max() < 0.05
    truth.sum().backward()
    for (parameter_name, mine), theirs in zip(ours.named_parameters(), exact.parameters()):
        assert mine.grad.dtype == torch.float32
        assert (mine.grad - theirs.grad).abs().max() < 0.05 * theirs.grad.abs().max(), parameter_name


@pytest.mark.parametrize("table", [LAYERS, CELLS], ids=["layer", "cell"])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_nan_is_in_the_gradients_too(kind, table, device):
    """Where the loss is NaN, what looks for that in the gradients has to see it."""
    ours, torchs, _ = make(kind, 3, 20, table=table, dtype=torch.float32)
    ours = ours.to(device)
    x = torch.randn(*(() if table is CELLS else (4,)), 3, 3)
    x[..., 0, 0] = torch.nan
    hx = states(kind, *(() if table is CELLS else (1,)), 3, 20, dtype=torch.float32)
    for loss in (torch.sum, lambda h: h.square().sum()):
        found = []
        for module in (ours, torchs):
            own_x = x.to(next(module.parameters()).device, copy=True).requires_grad_()
            h = flat(module(own_x, moved(hx, own_x.device)))[0]
            gradients = torch.autograd.grad(loss(h), [own_x, *module.parameters()])
            found.append([gradient.cpu().isnan() for gradient in gradients])
        assert all(map(torch.equal, *found)) and any(gradient.any() for gradient in found[0])
