"""A backward of many rows that may not write over what was saved takes its steps a stretch at a time, and sums between."""

import pytest
import torch
from helpers import LAYERS, doubled, make, outcome, random, states
from tolerances import assert_all_close
from torch.nn.utils.rnn import pack_padded_sequence

import fusedrnn
from benchmarks.memory import peak

T, B, I, H = 64, 45, 5, 9  # 2880 rows, of which a stretch has 765: 17 steps
SHORT = [1 + (7 * b) % T for b in range(B)]  # so many steps that stretches of the two directions end at different ones


def given(option, device):
    reset = (torch.rand(T, B, generator=torch.Generator().manual_seed(3)) < 0.05).to(device)
    if option == "lengths":
        return {"lengths": SHORT}
    if option == "reset":
        return {"reset": reset, "lengths": SHORT}
    return {"reset": reset, "reset_to": "hx"} if option == "reset to hx" else {}


CASES = [(kind, option) for kind in LAYERS for option in ("plain", "packed", "lengths", "reset", "reset to hx")]
CASES += [("lstm", "projection"), ("lstm", "projection, lengths")]


def case(kind, option, device, dtype=torch.float64):
    projection = {"proj_size": 4} if option.startswith("projection") else {}
    layers = make(kind, I, H, dtype=dtype, device=device, bidirectional=True, **projection)
    x = random(T, B, I, dtype=dtype, device=device)
    hx = states(kind, 2, B, H, P=projection.get("proj_size"), dtype=dtype, device=device)
    if option == "packed":
        x = pack_padded_sequence(x, SHORT, enforce_sorted=False)
    return layers, x, hx, given(option.removeprefix("projection, "), device)


def gradients(layer, x, hx, ways, **given):
    """What a loss gives the layer's parameters and its input, each time that it is asked."""
    of = x.data if isinstance(x, torch.nn.utils.rnn.PackedSequence) else x
    of.requires_grad_()
    y = layer(x, hx, **given)[0]
    y = y.data if isinstance(y, torch.nn.utils.rnn.PackedSequence) else y
    loss = (y * torch.sin(torch.arange(y.numel(), dtype=y.dtype, device=y.device)).view(y.shape)).sum()
    return [torch.autograd.grad(loss, [of, *layer.parameters()], retain_graph=keep) for keep in ways]


@pytest.mark.parametrize("kind, option", CASES)
def test_gradients_are_those_of_all_steps_at_once(kind, option, kernels, threads):
    (layer, _, _), x, hx, options = case(kind, option, kernels)
    for count in (1, 4):
        threads(count)
        kept, last = gradients(layer, x, hx, (True, False), **options)
        layer.recompute = True
        (again,) = gradients(layer, x, hx, (False,), **options)
        layer.recompute = False
        for whole, *others in zip(last, kept, again, strict=True):
            for other in others:
                torch.testing.assert_close(other, whole, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("kind", LAYERS)
def test_bits_do_not_depend_on_the_threads(kind, kernels, threads):
    (layer, _, _), x, hx, options = case(kind, "lengths", kernels, torch.float32)
    found = []
    for count in (1, 2, 4):
        threads(count)
        found += gradients(layer, x, hx, (True,), **options)
    for first, *others in zip(*found, strict=True):
        assert all(torch.equal(first, other) for other in others)


# An RNN saves nothing that could be written over.
@pytest.mark.parametrize("kind", ["rnn_tanh", "rnn_relu"])
@pytest.mark.parametrize("option", ["plain", "packed"])
def test_an_rnn_is_as_near_to_the_truth_as_torchs(kind, option, kernels):
    (ours, torchs, truth), x, hx, _ = case(kind, option, kernels, torch.float32)
    exact = x._replace(data=x.data.double()) if option == "packed" else x.double()
    assert_all_close(outcome(ours, x, hx), outcome(torchs, x, hx), outcome(truth, exact, doubled(hx)))


def test_memory_does_not_grow_with_the_steps_beyond_input_and_output():
    def bytes_of_a_step(T):
        x = random(T, 8, 64, dtype=torch.float32).requires_grad_()
        d_y = random(T, 8, 64, dtype=torch.float32)
        return peak(lambda: torch.autograd.grad(layer(x)[0], [x, *layer.parameters()], d_y))

    layer = fusedrnn.RNN(64, 64)
    row = 8 * 64 * 4  # bytes of a step's y, and of its d_x
    assert bytes_of_a_step(2000) - bytes_of_a_step(1000) == pytest.approx(1000 * 2 * row, rel=0.01)
