"""Every module against torch.nn: outputs, last states and every gradient, for each dtype and option."""

import copy
from contextlib import nullcontext

import pytest
import torch
from helpers import (
    CELLS, DTYPES, LAYERS, doubled, flat, loss, make, mapped, named, outcome, random, states, without_cudnn,
)  # fmt: skip
from tolerances import assert_all_close, assert_close

# name → sizes (T, B, I, H), constructor's arguments, how it is called
OPTIONS = {
    "plain": ((5, 3, 4, 8), {}, {}),
    "one step": ((1, 3, 4, 8), {}, {"hx"}),
    "one row": ((5, 1, 7, 33), {}, {}),
    "one unit": ((5, 3, 1, 1), {}, {"hx"}),
    "ragged": ((7, 3, 33, 7), {}, {"hx"}),
    "wide": ((33, 2, 7, 33), {}, {}),
    "no bias": ((5, 3, 4, 7), {"bias": False}, {}),
    "bidirectional": ((5, 3, 4, 7), {"bidirectional": True}, {"hx"}),
    "stacked": ((5, 3, 4, 7), {"num_layers": 3}, {"hx"}),
    "stacked bidirectional": ((5, 3, 4, 7), {"num_layers": 2, "bidirectional": True, "bias": False}, {"hx"}),
    "dropout": ((5, 3, 4, 7), {"num_layers": 3, "bidirectional": True, "dropout": 0.4}, {"hx"}),
    "all dropped": ((5, 3, 4, 7), {"num_layers": 2, "dropout": 1.0}, {}),
    "batch first": ((5, 3, 4, 7), {"batch_first": True}, {"hx"}),
    "unbatched": ((5, None, 4, 7), {"bidirectional": True}, {}),
    "unbatched states": ((5, None, 4, 7), {"num_layers": 2, "batch_first": True}, {"hx"}),
    "strided": ((5, 3, 4, 7), {"bidirectional": True}, {"hx", "strided"}),
}  # fmt: skip
PROJECTIONS = {
    "projection": ((5, 3, 4, 7), {"proj_size": 3}, {}),
    "projection to one": ((5, 3, 4, 7), {"proj_size": 1, "bias": False}, {"hx"}),
    "projection stacked": ((5, 3, 4, 7), {"proj_size": 3, "num_layers": 2, "bidirectional": True}, {"hx"}),
}
CASES = [(kind, option) for kind in LAYERS for option in OPTIONS] + [("lstm", option) for option in PROJECTIONS]


def strided(value):
    """The same values, laid out with gaps and with the last dimension not innermost."""
    if isinstance(value, tuple):
        return tuple(map(strided, value))
    gaps = value.new_zeros(*value.shape[:-1], 2 * value.shape[-1])
    gaps[..., ::2] = value
    return gaps[..., ::2].transpose(-1, -2).contiguous().transpose(-1, -2) if value.size(0) % 2 else gaps[..., ::2]


def inputs(kind, option, dtype, device):
    (T, B, I, H), kwargs, call = {**OPTIONS, **PROJECTIONS}[option]
    rows = () if B is None else (B,)
    x = random(T, *rows, I, dtype=dtype, device=device)
    if kwargs.get("batch_first") and B is not None:
        x = x.transpose(0, 1).contiguous()
    LD = kwargs.get("num_layers", 1) * (1 + kwargs.get("bidirectional", False))
    hx = states(kind, LD, *rows, H, P=kwargs.get("proj_size"), dtype=dtype, device=device) if "hx" in call else None
    if "strided" in call:
        x, hx = strided(x), strided(hx)
        assert not x.is_contiguous()
    return x, hx, (I, H), kwargs


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind, option", CASES, ids=[f"{kind}-{option}" for kind, option in CASES])
def test_layer_agrees_with_torch(kind, option, dtype, device):
    x, hx, sizes, kwargs = inputs(kind, option, dtype, device)
    plain = mapped(torch.Tensor.contiguous, (x, hx))  # cuDNN takes no states with gaps
    given = [(x, hx), plain, doubled(plain)]
    runs = []
    with without_cudnn() if "dropout" in kwargs else nullcontext():
        for module, arguments in zip(make(kind, *sizes, dtype=dtype, device=device, **kwargs), given):
            torch.manual_seed(1)  # the same dropout in all three
            runs.append(outcome(module, *arguments))
    assert_all_close(*runs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("B, I, H", [(3, 4, 8), (1, 7, 33), (2, 1, 1), (None, 33, 7)])
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("kind", CELLS)
def test_cell_agrees_with_torch(kind, bias, given, B, I, H, dtype, device):
    rows = () if B is None else (B,)
    x = random(*rows, I, dtype=dtype, device=device)
    hx = states(kind, *rows, H, dtype=dtype, device=device) if given else None
    modules = make(kind, I, H, table=CELLS, bias=bias, dtype=dtype, device=device)
    assert_all_close(
        outcome(modules[0], x, hx), outcome(modules[1], x, hx), outcome(modules[2], doubled(x), doubled(hx))
    )


def test_cell_accepts_a_list_of_states(device):
    ours, torchs, _ = make("lstm", 4, 7, table=CELLS, device=device)
    x, hx = random(3, 4, device=device), list(states("lstm", 3, 7, device=device))
    for mine, theirs in zip(ours(x, hx), torchs(x, hx)):
        assert_close(mine, theirs, theirs, "state")


def test_layer_accepts_a_list_of_states(device):
    ours, torchs, _ = make("lstm", 4, 7, device=device)
    x, hx = random(5, 3, 4, device=device), list(states("lstm", 1, 3, 7, device=device))
    expected = torchs(x, hx)[0]
    assert_close(ours(x, hx)[0], expected, expected, "y")


@pytest.mark.parametrize("kind, used", [(kind, used) for kind in LAYERS for used in ("y", "h_n")] + [("lstm", "c_n")])
def test_gradients_when_only_one_output_is_used(kind, used, device):
    ours, torchs, _ = make(kind, 4, 7, num_layers=2, bidirectional=True, device=device)
    x, hx = random(5, 3, 4, device=device), states(kind, 4, 3, 7, device=device)
    expected = outcome(torchs, x, hx, used={used})
    assert_all_close(outcome(ours, x, hx, used={used}), expected, expected)


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_when_only_one_step_is_used(kind, device):
    ours, torchs, _ = make(kind, 4, 7, bidirectional=True, device=device)
    x = random(5, 3, 4, device=device)
    grads = [
        torch.autograd.grad(module(x)[0][2, 1].sum(), list(module.parameters())) for module in (ours, torchs)
    ]
    for mine, theirs in zip(*grads):
        assert_close(mine, theirs, theirs, "gradient")


@pytest.mark.parametrize("kind", LAYERS)
def test_output_that_is_broadcast_has_a_gradient_without_strides(kind, device):
    ours, torchs, _ = make(kind, 4, 7, device=device)
    x, one = random(5, 3, 4, device=device), torch.ones((), dtype=torch.float64, device=device)
    grads = []
    for module in (ours, torchs):
        y, _ = module(x)
        grads.append(torch.autograd.grad(y, list(module.parameters()), one.expand_as(y)))
    for mine, theirs in zip(*grads):
        assert_close(mine, theirs, theirs, "gradient")


@pytest.mark.parametrize("kind", LAYERS)
def test_a_retained_graph_gives_the_same_gradients_again(kind, device):
    ours, _, _ = make(kind, 4, 7, num_layers=2, device=device)
    outputs = named(ours(random(5, 3, 4, device=device)))
    total, parameters = loss(outputs), list(ours.parameters())
    first = torch.autograd.grad(total, parameters, retain_graph=True)
    again = torch.autograd.grad(total, parameters)
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert all(grad.abs().max() > 0 for grad in first)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(total, parameters)


@pytest.mark.parametrize("kind", LAYERS)
def test_backward_works_in_eval_mode_where_dropout_rests(kind, device):
    ours, torchs, _ = make(kind, 4, 7, num_layers=2, dropout=0.5, device=device)
    x = random(5, 3, 4, device=device)
    with without_cudnn():
        expected = outcome(torchs.eval(), x)
    assert_all_close(outcome(ours.eval(), x), expected, expected)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kind", LAYERS)
def test_output_is_the_same_with_and_without_a_graph(kind, training, device):
    ours, _, _ = make(kind, 4, 7, num_layers=2, bidirectional=True, device=device)
    ours.train(training)
    x = random(5, 3, 4, dtype=torch.float64, device=device)
    with_graph = named(ours(x))
    with torch.no_grad():
        without = named(ours(x))
    assert with_graph["y"].requires_grad and not without["y"].requires_grad
    for name in with_graph:
        assert torch.equal(with_graph[name], without[name]), name


@pytest.mark.parametrize("kind", LAYERS)
def test_frozen_weights_and_input_still_pass_gradients_to_the_rest(kind, device):
    ours, torchs, _ = make(kind, 4, 7, device=device)
    x = random(5, 3, 4, device=device)
    for module in (ours, torchs):
        module.weight_hh_l0.requires_grad_(False)
        module.bias_ih_l0.requires_grad_(False)
        loss(named(module(x))).backward()
        assert module.weight_hh_l0.grad is None and module.bias_ih_l0.grad is None
    for name in ("weight_ih_l0", "bias_hh_l0"):
        theirs = getattr(torchs, name).grad
        assert_close(getattr(ours, name).grad, theirs, theirs, name)


# Empty tensors: torch.nn runs on the CPU, for on CUDA its fused cells may refuse to start with nothing to do.


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_empty_batch(kind, bidirectional, device):
    ours, torchs, _ = make(kind, 4, 7, num_layers=2, bidirectional=bidirectional)
    x = random(5, 0, 4)
    mine, theirs = outcome(ours.to(device), x.to(device)), outcome(torchs, x)
    for name in theirs:
        assert mine[name].device.type == device.type and torch.equal(mine[name].cpu(), theirs[name]), name
    assert mine["y"].shape == (5, 0, 7 * (1 + bidirectional))


@pytest.mark.parametrize("kind", CELLS)
def test_empty_batch_of_a_cell(kind, device):
    ours, torchs, _ = make(kind, 4, 7, table=CELLS)
    x = random(0, 4)
    mine, theirs = named(ours.to(device)(x.to(device)), True), named(torchs(x), True)
    assert mine.keys() == theirs.keys() and all(mine[name].shape == (0, 7) for name in mine)


@pytest.mark.parametrize("kind", LAYERS)
def test_input_and_states_are_left_as_they_were(kind, device):
    ours, _, _ = make(kind, 4, 7, device=device)
    x, hx = random(5, 3, 4, device=device), states(kind, 1, 3, 7, device=device)
    before = copy.deepcopy((x, hx))
    outcome(ours, x, hx)
    assert torch.equal(x, before[0])
    pairs = zip(hx, before[1]) if kind == "lstm" else [(hx, before[1])]
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_repeated_runs_are_bitwise_equal(kind, dtype, device):
    ours, _, _ = make(kind, 17, 33, num_layers=2, bidirectional=True, dtype=dtype, device=device)
    x = random(9, 5, 17, dtype=dtype, device=device)
    first = outcome(ours, x)
    for _ in range(10):
        again = outcome(ours, x)
        assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("kind", CELLS)
def test_cells_of_no_units_give_no_units(kind, device):
    ours, torchs, _ = make(kind, 4, 0, table=CELLS)
    x = random(3, 4)
    for value, expected in zip(flat(ours.to(device)(x.to(device))), flat(torchs(x)), strict=True):
        assert value.shape == expected.shape == (3, 0)
