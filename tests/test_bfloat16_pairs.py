"""Products of bfloat16 pairs, summed in float32: every instruction set that has them, and the one that imitates them."""

import os

import pytest
import torch
from helpers import LAYERS, doubled, flat, loss, make, mapped, outcome, random, states
from tolerances import assert_all_close, assert_close

import fusedrnn
from fusedrnn import _ops, plan

LOW = torch.bfloat16
ISAS = [isa for isa in _ops._C.available_isas() if isa.endswith("_bf16")]
pytestmark = pytest.mark.cpu


@pytest.fixture(params=ISAS)
def pairs(request):
    """Every such set of kernels, in use; its name."""
    before = _ops.build_info()["cpu kernels"]
    _ops._C.use_isa(request.param)
    yield request.param
    _ops._C.use_isa(before)


def test_the_plan_says_so(pairs):
    assert plan("gru", 9, 4, 16, dtype=LOW).isa == pairs
    assert "products of bfloat16" in plan("gru", 9, 4, 16, dtype=LOW).reason
    for dtype in (torch.float32, torch.float16):
        assert "bfloat16" not in plan("gru", 9, 4, 16, dtype=dtype).reason


@pytest.mark.skipif(not os.path.exists("/proc/cpuinfo"), reason="needs /proc/cpuinfo")
def test_a_processor_that_has_them_uses_them():
    with open("/proc/cpuinfo") as file:
        assert ("avx512_bf16" in file.read()) == (_ops._C.available_isas()[0] == "avx512_bf16")


# rows and units around the blocks, odd depths, which end in half a pair
@pytest.mark.parametrize("B, H", [(1, 1), (2, 8), (3, 15), (6, 31), (7, 33), (11, 63), (12, 64), (13, 65), (25, 130)])
@pytest.mark.parametrize("kind", LAYERS)
def test_every_block_edge(kind, B, H, pairs):
    ours, torchs, truth = make(kind, 5, H, dtype=LOW, bidirectional=True)
    x, hx = random(4, B, 5, dtype=LOW), states(kind, 2, B, H, dtype=LOW)
    assert_all_close(outcome(ours, x, hx), outcome(torchs, x, hx), outcome(truth, x.double(), doubled(hx)))


# deeper than a slice (1024 terms), more rows than a piece (96), inputs at once, and a slice of gradients (256 rows)
@pytest.mark.parametrize("T, B, I, H", [(3, 4, 1501, 40), (2, 120, 7, 300), (3, 60, 3000, 140), (37, 9, 19, 90)])
@pytest.mark.parametrize("kind", LAYERS)
def test_beyond_pieces_and_slices(kind, T, B, I, H, pairs):
    ours, torchs, truth = make(kind, I, H, dtype=LOW)
    x = random(T, B, I, dtype=LOW)
    assert_all_close(outcome(ours, x), outcome(torchs, x), outcome(truth, x.double()))


# Columns beyond whole vectors, an odd number of rows in two slices.
def test_gradients_of_weights_of_every_width(pairs):
    for I in [*range(1, 19), 33, 40]:
        ours, torchs, truth = make("rnn_tanh", I, 37, dtype=LOW)
        x = random(101, 3, I, dtype=LOW)
        assert_all_close(outcome(ours, x), outcome(torchs, x), outcome(truth, x.double()))


@pytest.mark.parametrize("T", [1, 4])
@pytest.mark.parametrize("H, P", [(9, 1), (33, 8), (130, 65), (300, 263)])
def test_projections(H, P, T, pairs):
    ours, torchs, truth = make("lstm", 5, H, dtype=LOW, proj_size=P)
    x, hx = random(T, 7, 5, dtype=LOW), states("lstm", 1, 7, H, P=P, dtype=LOW)
    assert_all_close(outcome(ours, x, hx), outcome(torchs, x, hx), outcome(truth, x.double(), doubled(hx)))


# What is multiplied in a first step is bfloat16 as it comes, so only float32's sums are rounded: that shows in c, which is
# float32. With products that are packed at once or a slice at a time, and with dot products, of few rows or of one step.
@pytest.mark.parametrize("B, I, H", [(1, 1, 1), (3, 7, 17), (14, 33, 65), (1, 263, 300), (5, 300, 263), (2, 1025, 40)])
@pytest.mark.parametrize("T", [1, 2])
def test_products_are_exact_but_for_float32_sums(B, I, H, T, pairs, either_way):
    draw = lambda *shape: random(*shape, dtype=LOW)
    x, h_0, c_0 = draw(T, B, I), draw(1, B, H), draw(1, B, H)
    w_ih, w_hh, b_ih, b_hh = draw(4 * H, I) / 8, draw(4 * H, H) / 8, draw(4 * H), draw(4 * H)
    arguments = [x, h_0, c_0, [w_ih, w_hh, b_ih, b_hh], None, None, None, "lstm", [False], False]
    y, _, _, c, saved = torch.ops.fusedrnn.layer_forward(*arguments, True, False)
    x, h_0, c_0, w_ih, w_hh, b_ih, b_hh = (doubled(t) for t in (x[0], h_0[0], c_0[0], w_ih, w_hh, b_ih, b_hh))
    i, f, g, o = (x @ w_ih.T + h_0 @ w_hh.T + b_ih + b_hh).view(B, 4, H).unbind(1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    c_1 = f * c_0 + i * g
    assert c.dtype == torch.float32
    torch.testing.assert_close(c[0].double(), c_1, rtol=1e-5, atol=1e-6 * (I + H) ** 0.5)
    for found, exact in ((saved.view(T, B, 4, H)[0], torch.stack([i, f, g, o], 1)), (y[0], o * c_1.tanh())):
        assert found.dtype == LOW
        torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-6 * (I + H) ** 0.5)


# GRU adds its state as it is, not as it was rounded: what little is added at each of many steps does not get lost.
def test_states_are_carried_in_float32(pairs):
    H, T = 20, 300
    cell = torch.nn.GRU(1, H)
    with torch.no_grad():
        for weight in cell.parameters():
            weight.zero_()
        cell.bias_ih_l0[H : 2 * H] = 6.0  # z: 0.9975, so n comes in by 1/405 a step, less than bfloat16 holds beside 1
        cell.bias_ih_l0[2 * H :] = 3.0
    ours = fusedrnn.GRU(1, H).to(LOW)
    ours.load_state_dict(cell.state_dict())
    x, h_0 = torch.zeros(T, 2, 1), torch.full((1, 2, H), 0.5)
    expected = cell.double()(x.double(), h_0.double())[0]
    found = ours(x.to(LOW), h_0.to(LOW))[0]
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize("T, I, H", [(1, 33, 40), (1, 300, 270), (5, 33, 41), (3, 301, 130), (3, 3001, 135)])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_row_gives_the_same_bits_in_any_batch_and_on_any_number_of_threads(kind, T, I, H, pairs, batch_invariant):
    ours = make(kind, I, H, dtype=LOW, bidirectional=True)[0]
    B = 101
    x, hx, d_y = random(T, B, I, dtype=LOW), states(kind, 2, B, H, dtype=LOW), random(T, B, 2 * H, dtype=LOW)

    def rows(chosen):
        inputs = [t[:, chosen].clone().requires_grad_() for t in (x, *flat(hx))]
        y = ours(inputs[0], tuple(inputs[1:]) if kind == "lstm" else inputs[1])[0]
        return [y, *torch.autograd.grad(y, inputs, d_y[:, chosen])]

    whole, before = rows(slice(None)), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for chosen in ([2], [2, 7, 60], list(range(2, 61)), slice(None)):
            for value, expected in zip(rows(chosen), whole):
                assert torch.equal(value, expected[:, chosen])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", LAYERS)
def test_step_by_step_gives_the_bits_of_a_sequence(kind, pairs):
    ours = make(kind, 19, 65, dtype=LOW)[0]
    x, hx = random(4, 14, 19, dtype=LOW), mapped(torch.zeros_like, states(kind, 1, 14, 65, dtype=LOW))
    whole, first = ours(x, hx)[0], ours(x[:1], hx)[0]
    assert torch.equal(first, whole[:1])


@pytest.mark.parametrize("option", ["reset", "lengths"])
@pytest.mark.parametrize("kind", LAYERS)
def test_resets_and_lengths(kind, option, pairs):
    ours = make(kind, 9, 33, dtype=LOW)[0]
    x = random(6, 5, 9, dtype=LOW)
    if option == "reset":
        reset = torch.zeros(6, 5, dtype=torch.bool)
        reset[2] = True
        found, expected = ours(x, reset=reset)[0][2:], ours(x[2:])[0]
    else:
        found, expected = ours(x, lengths=[2, 6, 0, 5, 6])[0][:, 1], ours(x[:, 1:2])[0][:, 0]
    assert torch.equal(found, expected)


def test_a_cell_is_a_step_of_a_layer(pairs):
    layer, cell = fusedrnn.GRU(9, 33).to(LOW), fusedrnn.GRUCell(9, 33).to(LOW)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
    x, h = random(1, 5, 9, dtype=LOW), random(1, 5, 33, dtype=LOW)
    assert torch.equal(cell(x[0], h[0]), layer(x, h)[0][0])


def test_infinities_and_nans_come_through_and_denormals_are_zeros_or_not(pairs):
    values = torch.tensor([0.0, -0.0, 1.0, -2.5, float("inf"), float("-inf"), float("nan"), 2.0**-120, 2.0**-130], dtype=LOW)
    w = values.unsqueeze(1)
    w_hh = torch.zeros(9, 9, dtype=LOW)
    x = torch.full((2, 3, 1), 2.0**100, dtype=LOW)
    given = lambda w, w_hh, x: (x, None, None, [w, w_hh], None, None, None, "rnn_relu", [False], False, False)
    y = torch.ops.fusedrnn.layer(*given(w, w_hh, x))[0][0]
    expected = (w.float() @ x[0].float().T).T.relu()
    if pairs == "avx512_bf16":  # as the processor has it
        expected[:, 8] = 0
    torch.testing.assert_close(y.float(), expected.to(LOW).float(), rtol=0, atol=0, equal_nan=True)


def test_traced_gradients_are_the_eager_ones(pairs):
    ours = make("lstm", 9, 33, dtype=LOW)[0]
    x = random(4, 5, 9, dtype=LOW)
    eager = outcome(ours, x)
    traced = outcome(torch.compile(ours, backend="aot_eager", fullgraph=True), x)
    for name, value in eager.items():
        assert torch.equal(traced[name.replace("d_", "d__orig_mod.") if name.startswith("d_") and name != "d_x" else name], value)


# The backward of kernels that keep float32 may come to what these kept, and the other way round.
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_gradients_from_what_other_kernels_kept(kind, pairs):
    ours, torchs, truth = make(kind, 9, 33, dtype=LOW)
    x = random(4, 5, 9, dtype=LOW)
    theirs, true = outcome(torchs, x, used=["y"]), outcome(truth, x.double(), used=["y"])
    for first, second in ((pairs, "portable"), ("portable", pairs)):
        _ops._C.use_isa(first)
        given = x.clone().requires_grad_()
        total = loss({"y": ours(given)[0]})
        _ops._C.use_isa(second)
        total.backward()
        assert_close(given.grad, theirs["d_x"], true["d_x"], f"{first}, then {second}")
