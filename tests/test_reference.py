"""The oracle itself against torch.nn, in float64: what the other tests lean on must stand first."""

import pytest
import torch
from helpers import LAYERS, layer_arguments, loss, make, random, states
from tolerances import assert_close
from torch.nn.utils.rnn import pack_padded_sequence

from fusedrnn import reference

ROLES = {"w_ih": "weight_ih", "w_hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh", "w_hr": "weight_hr"}


def weights(module):
    """A torch.nn layer's parameters as the op's lists."""
    suffixes = ["_l0", "_l0_reverse"] if module.bidirectional else ["_l0"]
    present = dict(module.named_parameters())
    return {
        role: [present[name + suffix] for suffix in suffixes] for role, name in ROLES.items() if f"{name}_l0" in present
    }


def run(module, kind, x, hx, **given):
    h_0, c_0 = hx if kind == "lstm" else (hx, None)
    reverse = [False, True] if module.bidirectional else [False]
    arguments = layer_arguments(x=x, h_0=h_0, c_0=c_0, cell=kind, reverse=reverse, **weights(module), **given)
    return reference.layer(*arguments)


def assert_same(mine, theirs, sources):
    """Assert equal outputs, and equal gradients of the sources."""
    for name, m, t in zip(("y", "h_n", "c_n"), mine, theirs):
        assert_close(m, t, t, name)
    grads = [torch.autograd.grad(loss(dict(enumerate(outputs))), sources) for outputs in (mine, theirs)]
    for i, (m, t) in enumerate(zip(*grads)):
        assert_close(m, t, t, f"gradient {i}")


def sources(module, x, hx):
    return [x, *(hx if isinstance(hx, tuple) else (hx,)), *module.parameters()]


def leaves(kind, P, *shape, device):
    hx = states(kind, *shape, P=P, device=device)
    return tuple(s.requires_grad_() for s in hx) if kind == "lstm" else hx.requires_grad_()


def flat(outputs):
    y, last = outputs
    return (y, *last) if isinstance(last, tuple) else (y, last)


CASES = [(kind, P) for kind in LAYERS for P in (0,)] + [("lstm", 3)]


@pytest.mark.parametrize("T, B, I, H", [(5, 3, 4, 7), (1, 1, 1, 4)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind, P", CASES)
def test_reference_agrees_with_torch(kind, P, bidirectional, bias, T, B, I, H, device):
    extra = {"proj_size": P} if P else {}
    _, module, _ = make(kind, I, H, bidirectional=bidirectional, bias=bias, device=device, **extra)
    x, hx = random(T, B, I, device=device).requires_grad_(), leaves(kind, P, 1 + bidirectional, B, H, device=device)
    assert_same(run(module, kind, x, hx), flat(module(x, hx)), sources(module, x, hx))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind, P", CASES)
def test_reference_agrees_with_torch_on_packed_rows(kind, P, bidirectional, device):
    extra = {"proj_size": P} if P else {}
    _, module, _ = make(kind, 4, 7, bidirectional=bidirectional, device=device, **extra)
    packed = pack_padded_sequence(random(5, 3, 4, device=device), torch.tensor([5, 3, 1]))
    x, hx = packed.data.requires_grad_(), leaves(kind, P, 1 + bidirectional, 3, 7, device=device)
    y, *last = flat(module(packed._replace(data=x), hx))
    mine = run(module, kind, x, hx, batch_sizes=packed.batch_sizes)
    assert_same(mine, (y.data, *last), sources(module, x, hx))


@pytest.mark.parametrize("kind, P", CASES)
def test_reference_starts_from_zeros_without_states(kind, P, device):
    extra = {"proj_size": P} if P else {}
    _, module, _ = make(kind, 4, 7, bidirectional=True, device=device, **extra)
    x = random(5, 3, 4, device=device).requires_grad_()
    assert_same(run(module, kind, x, (None, None) if kind == "lstm" else None), flat(module(x)), [x])


def test_reference_returns_the_cell_state_of_every_step(device):
    _, module, _ = make("lstm", 4, 7, device=device)
    x = random(5, 3, 4, device=device)
    c = run(module, "lstm", x, (None, None), cell_states=True)[3]
    for t in range(5):
        c_t = module(x[: t + 1])[1][1][0]
        assert_close(c[t], c_t, c_t, f"c[{t}]")


@pytest.mark.parametrize("kind", LAYERS)
def test_reference_sums_in_float32_for_low_precision(kind, device):
    _, module, _ = make(kind, 4, 7, device=device)
    module = module.to(torch.bfloat16)
    x, none = random(5, 3, 4, dtype=torch.bfloat16, device=device), (None, None) if kind == "lstm" else None
    y = run(module, kind, x, none)[0]
    y_float = run(module.float(), kind, x.float(), none)[0]
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, y_float.to(torch.bfloat16))
