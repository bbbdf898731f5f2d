"""Without autograd a cell takes a shorter way to its kernel than with it: the same numbers, and every other way is open."""

import pytest
import torch
from helpers import CELLS, DTYPES, flat, make, outcome, random, states
from simt.extension import host_executor
from tolerances import assert_all_close
from torch.autograd import forward_ad

B, I, H = 5, 3, 7


def given(kind, dtype=torch.float64, device="cpu"):
    cell = make(kind, I, H, table=CELLS, dtype=dtype, device=device)[0]
    return cell, random(B, I, dtype=dtype, device=device), states(kind, B, H, dtype=dtype, device=device)


def assert_equal(found, expected):
    for a, b in zip(flat(found), flat(expected), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", CELLS)
def test_both_ways_give_the_same_bits(kind, dtype, device):
    cell, x, hx = given(kind, dtype, device)
    for arguments in [(x, hx), (x,), (x.T.contiguous().T, hx)]:
        found = cell.requires_grad_(True)(*arguments)
        assert flat(found)[0].requires_grad
        with torch.no_grad():
            assert_equal(cell(*arguments), found)
        assert_equal(cell.requires_grad_(False)(*arguments), found)


@pytest.mark.parametrize("kind", CELLS)
def test_the_cuda_path_too(kind):
    cell, x, hx = given(kind, torch.float32)
    with host_executor("A100"):
        found = cell(x, hx)
        with torch.no_grad():
            assert_equal(cell(x, hx), found)


@pytest.mark.parametrize("kind", CELLS)
def test_derivatives_forward_need_no_gradients(kind, device):
    cell, x, hx = given(kind, device=device)
    tangent = random(B, I, device=device)
    with torch.no_grad(), forward_ad.dual_level():
        primal, slope = forward_ad.unpack_dual(flat(cell(forward_ad.make_dual(x, tangent), hx))[0])
    step = 1e-6
    with torch.no_grad():
        above, below = (flat(cell(x + sign * step * tangent, hx))[0] for sign in (1, -1))
    torch.testing.assert_close(slope, (above - below) / (2 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", CELLS)
def test_vmap_and_fake_tensors_without_gradients(kind, device):
    cell, x, hx = given(kind, device=device)
    with torch.no_grad():
        many = torch.stack([x, 2 * x])
        found = torch.func.vmap(lambda x_: flat(cell(x_, hx))[0])(many)
        torch.testing.assert_close(found, torch.stack([flat(cell(x_, hx))[0] for x_ in many]))
        states = [torch.stack([t, t.neg()]) for t in ((hx,) if isinstance(hx, torch.Tensor) else hx)]
        of = lambda states: states if kind == "lstm" else states[0]
        found = torch.func.vmap(lambda *s: flat(cell(x, of(s))))(*states)
        alone = [flat(cell(x, of(s))) for s in zip(*states)]
        for each, expected in zip(found, zip(*alone), strict=True):
            torch.testing.assert_close(each, torch.stack(expected))
        weights = {name: torch.stack([w, 2 * w]) for name, w in cell.named_parameters()}
        found = torch.func.vmap(lambda w: flat(torch.func.functional_call(cell, w, (x, hx)))[0])(weights)
        alone = [{name: w[i] for name, w in weights.items()} for i in range(2)]
        expected = torch.stack([flat(torch.func.functional_call(cell, w, (x, hx)))[0] for w in alone])
        torch.testing.assert_close(found, expected)
        shapes = [t.shape for t in flat(cell.to("meta")(x.to("meta")))]
    assert shapes == [(B, H)] * (2 if kind == "lstm" else 1)


@pytest.mark.parametrize("kind", CELLS)
def test_the_operator_keeps_its_contract(kind, device):
    cell, x, hx = given(kind, torch.float32, device)
    h_0, c_0 = hx if kind == "lstm" else (hx, None)
    arguments = (x, h_0, c_0, *(weight.detach() for weight in cell.parameters()), kind)
    torch.library.opcheck(torch.ops.fusedrnn.cell.default, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("bias", ["bias_ih", "bias_hh"])
@pytest.mark.parametrize("kind", CELLS)
def test_either_bias_may_be_taken_away(kind, bias, device):
    ours, torchs, truth = make(kind, I, H, table=CELLS, device=device)
    for cell in (ours, torchs, truth):
        setattr(cell, bias, None)
    x = random(B, I, device=device)
    assert_all_close(outcome(ours, x), outcome(torchs, x), outcome(truth, x))


def test_what_does_not_fit_is_named():
    op = torch.ops.fusedrnn.cell.default
    x, w_ih, w_hh = torch.zeros(B, I), torch.zeros(3 * H, I), torch.zeros(3 * H, H)
    with torch.no_grad():
        with pytest.raises(ValueError, match=r"x must be \(B, I\); got 3-D"):
            op(x[None], None, None, w_ih, w_hh, None, None, "gru")
        with pytest.raises(RuntimeError, match=r"h_0 must be \(B, H\) = \[5, 7\]; got \[4, 7\]"):
            op(x, torch.zeros(4, H), None, w_ih, w_hh, None, None, "gru")
        with pytest.raises(RuntimeError, match=r"w_ih must be \(G\*H, I\) = \[21, 3\]; got \[21, 2\]"):
            op(x, None, None, w_ih[:, :2], w_hh, None, None, "gru")
