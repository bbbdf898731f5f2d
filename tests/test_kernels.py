"""The kernels at the edges of their blocks: on the CPU for every instruction set here, at any number of threads."""

import os
import threading

import pytest
import torch
from helpers import LAYERS, doubled, layer_arguments, make, mapped, outcome, random, states
from tolerances import assert_all_close
from torch.nn.utils.rnn import pack_padded_sequence

import fusedrnn
from fusedrnn import _ops, plan


@pytest.fixture
def flushing():
    """torch.set_flush_denormal, taken back in the end: a library that was loaded may have set it before."""
    tiny = torch.tensor([2.0**-140])
    before = (tiny * 1).item() == 0
    yield torch.set_flush_denormal
    torch.set_flush_denormal(before)


# rows around the register block (6, 10 or 12), units around a vector, a panel and a chunk (64)
EDGES = [(1, 1), (2, 8), (3, 15), (5, 17), (6, 31), (7, 33), (10, 40), (11, 63), (12, 64), (13, 65), (25, 130)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("B, H", EDGES)
@pytest.mark.parametrize("kind", LAYERS)
def test_every_block_edge(kind, B, H, dtype, kernels):
    ours, torchs, truth = make(kind, 5, H, dtype=dtype, device=kernels, bidirectional=True)
    x = random(4, B, 5, dtype=dtype, device=kernels)
    assert_all_close(outcome(ours, x), outcome(torchs, x), outcome(truth, x.double()))


# The errors of csrc/core/math.h over all that a gate may be given, in units of half of epsilon, the rounding of a number just below
# 1: of tanh and of the logistic function themselves and, of tanh everywhere, in relation to the value.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_activations_over_the_whole_range(dtype, kernels):
    largest = 87 if dtype == torch.float32 else 700
    wide, small = torch.linspace(-largest, largest, 100_001), torch.logspace(-30, 0.5, 20_001)
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e30, -1e30])
    x = torch.cat((wide, torch.linspace(-9, 9, 100_001), small, -small, special)).to(kernels, dtype).view(1, -1, 1)
    rnn, lstm = (cell(1, 1, device=kernels, dtype=dtype) for cell in (fusedrnn.RNN, fusedrnn.LSTM))
    with torch.no_grad():
        for p in (*rnn.parameters(), *lstm.parameters()):
            p.zero_()
        rnn.weight_ih_l0[0] = 1
        lstm.weight_ih_l0[0], lstm.bias_ih_l0[2] = 1, 30  # c = i · tanh(30) = i
        tanh, logistic = rnn(x)[0].flatten().double(), lstm(x)[1][1].flatten().double()
    x = x.flatten().double()
    true_tanh, true_logistic = x.tanh(), x.sigmoid()
    assert torch.equal(tanh[x.isinf()], x[x.isinf()].sign())  # of the LSTM's other gates, 0 · inf
    assert tanh[x.isnan()].isnan().all() and logistic[x.isnan()].isnan().all()
    error = lambda ours, true: (ours - true).abs() / (torch.finfo(dtype).eps / 2)
    finite, near = x.isfinite(), x.abs() < 20
    assert error(tanh, true_tanh)[finite].max() < 3.5 and error(logistic, true_logistic)[finite].max() < 2.5
    assert (error(tanh, true_tanh) / true_tanh.abs())[finite & (x != 0)].max() < 6
    rounds_products = kernels.type == "cpu" and _ops.build_info()["cpu kernels"] == "portable"  # before they are added
    assert (error(logistic, true_logistic) / true_logistic)[near].max() < (24 if rounds_products else 10)


@pytest.fixture(params=[32, 48], ids="first cache of {} KB".format)
def first_cache(request):
    before = _ops._C.pretend_first_cache(request.param << 10)
    yield request.param << 10
    _ops._C.pretend_first_cache(before)


# Every number of vectors that one block of rows may be multiplied with at once, and what is left of more of them: four gates
# of 4, 8, ... units. T=3 takes the panels in both orders, from the first and from the last.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.cpu
def test_blocks_of_every_height_and_width(dtype, kernels, first_cache, batch_invariant):
    for H in [*range(2, 20, 2), *range(20, 72, 4), 100, 116, 130]:
        ours, torchs, truth = make("lstm", H, H, dtype=dtype)
        x, d_y = random(3, 12, H, dtype=dtype), random(3, 12, H, dtype=dtype)
        assert_all_close(outcome(ours, x), outcome(torchs, x), outcome(truth, x.double()))

        def run(rows):
            leaf = x[:, :rows].clone().requires_grad_()
            y = ours(leaf)[0]
            return y, torch.autograd.grad(y, leaf, d_y[:, :rows])[0]

        whole = run(12)
        for rows in range(1, 12):
            for some, all_rows in zip(run(rows), whole):
                assert torch.equal(some, all_rows[:, :rows]), (H, rows)


# Both products of a step at once (may_join) for more and fewer rows than a block has, inputs of one chain and of two, and states of one,
# two and four; in float64 512 of them lie whole pages apart. Three rows at a time are multiplied by one product after the other.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["lstm", "rnn_tanh"])
@pytest.mark.cpu
def test_two_products_at_once(kind, dtype, kernels, batch_invariant):
    for I, H in [(1, 16), (16, 7), (50, 50), (128, 33), (130, 64), (64, 130), (257, 40), (20, 512)]:
        ours, torchs, truth = make(kind, I, H, dtype=dtype)
        x = random(3, 30, I, dtype=dtype)
        assert_all_close(outcome(ours, x), outcome(torchs, x), outcome(truth, x.double()))
        with torch.no_grad():
            threes = torch.cat([ours(some)[0] for some in x.split(3, dim=1)], dim=1)
            for rows in (4, 5, 6, 7, 11, 12, 13, 16, 17, 25, 30):
                assert torch.equal(ours(x[:, :rows].contiguous())[0], threes[:, :rows]), (I, H, rows)


# One row whose weights stand as one stream (kBesideWeights), with every number of vectors in its last group, in both orders; two
# rows do not.
@pytest.mark.parametrize(
    "kind, H, dtype",
    [("lstm", range(170, 202, 2), torch.float32), ("lstm", range(122, 138, 2), torch.float64)]
    + [("gru", range(198, 218, 4), torch.float32), ("rnn_tanh", range(340, 400, 8), torch.float32)]
    + [("lstm", range(242, 274, 4), torch.bfloat16), ("lstm", range(242, 258, 4), torch.float16)],
    ids=str,
)
@pytest.mark.cpu
def test_one_row_of_weights_in_one_stream(kind, H, dtype, kernels, batch_invariant):
    for size in H:
        assert "one stream" in plan(kind, 3, 1, size, dtype=dtype, threads=1).reason
        ours, torchs, truth = make(kind, 5, size, dtype=dtype)
        x = random(3, 2, 5, dtype=dtype)
        assert_all_close(outcome(ours, x), outcome(torchs, x), outcome(truth, x.double()))
        with torch.no_grad():
            together = ours(x)[0]
            for b in range(2):
                assert torch.equal(ours(x[:, b : b + 1].contiguous())[0], together[:, b : b + 1]), size


# One row, whose chains are cut into parts (kMostParts) where they are few or long, with what is left beyond equal parts: units
# that fill one vector, several and part of one, weights that 41 steps pack, 21 in the forward alone and 13 not at all, read forth
# and back.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("T", [13, 21, 41])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.cpu
def test_one_row_in_parts(kind, T, dtype, kernels):
    for H in [*range(1, 36, 3), 16, 32, 48, 50, 64, 72, 96, 100, 130, 144]:
        ours, torchs, truth = make(kind, 5, H, dtype=dtype)
        x = random(T, 1, 5, dtype=dtype)
        assert_all_close(outcome(ours, x), outcome(torchs, x), outcome(truth, x.double()))


# Sums of many terms are made of shorter chains (kChain), whichever way: of many rows, of a few that are multiplied with weights as
# they are, and of one, from end to end or in one stream.
@pytest.mark.parametrize("T, B", [(60, 1), (24, 1), (4, 20), (2, 3), (1, 30)])
@pytest.mark.parametrize("kind, H", [("lstm", 512), ("gru", 500), ("rnn_tanh", 1500)])
@pytest.mark.cpu
def test_long_sums_are_as_exact_as_torchs(kind, H, T, B, kernels, either_way):
    ours, torchs, truth = make(kind, H, H, dtype=torch.float32)
    x = random(T, B, H, dtype=torch.float32)
    assert_all_close(outcome(ours, x), outcome(torchs, x), outcome(truth, x.double()))


# Weights of 16 bits are widened as they are read, which is exact: so everything has float32's bits, rounded once.
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("T", [1, 4])
@pytest.mark.parametrize("B, H", [(1, 1), (2, 15), (7, 33), (13, 65)])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.cpu
def test_narrow_weights_give_the_bits_of_wide_ones(kind, B, H, T, dtype, kernels):
    G, P = _ops.CELLS[kind]["gates"], H // 2 if kind == "lstm" and H > 1 else H
    draw = lambda *shape: [random(*shape, dtype=dtype, device=kernels) for _ in range(2)]
    given = layer_arguments(
        x=draw(T, B, 5)[0], h_0=random(2, B, P, dtype=dtype), w_ih=draw(G * H, 5), w_hh=draw(G * H, P),
        b_ih=draw(G * H), b_hh=draw(G * H), w_hr=draw(P, H) if P < H else [], cell=kind, reverse=[False, True],
    )[:-1]  # fmt: skip
    widened = [mapped(torch.Tensor.float, value) for value in given[:4]] + given[4:]
    found, expected = (torch.ops.fusedrnn.layer_forward(*arguments, True, False) for arguments in (given, widened))
    y, h_n, _, c, saved = found
    d_y, d_h_n = torch.randn_like(y), torch.randn_like(h_n)
    found += tuple(torch.ops.fusedrnn.layer_backward(d_y, d_h_n, None, None, *given, y, c, saved, [True] * 8))
    d_y, d_h_n, y = d_y.float(), d_h_n.float(), y.float()
    expected += tuple(torch.ops.fusedrnn.layer_backward(d_y, d_h_n, None, None, *widened, y, c, saved, [True] * 8))
    assert len(found) == len(expected)
    for value, wide in zip(found, expected):
        assert torch.equal(value, wide.to(value.dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("T", [1, 3])
@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.cpu
def test_narrow_weights_of_every_kind_of_number(T, flush, dtype, kernels, flushing):
    flushing(flush)  # float16 has denormals where float32 has none: that must not matter to them
    special = [0.0, -0.0, 1.0, -2.5, float("inf"), float("-inf"), float("nan")]
    special += [sign * torch.finfo(dtype).smallest_normal * part for sign in (1, -1) for part in (1, 0.5, 0.25, 0.0078125)]
    w = torch.tensor(special, dtype=dtype).repeat(2)[:20].unsqueeze(1)
    rows = torch.ones(T, 2, 1, dtype=dtype) * 8192
    given = lambda weights, x: (x, None, None, [weights, torch.zeros(20, 20, dtype=x.dtype)])
    run = lambda weights, x: torch.ops.fusedrnn.layer(*given(weights, x), None, None, None, "rnn_relu", [False], False, False)
    y, expected = run(w, rows)[0], run(w.float(), rows.float())[0].to(dtype)
    torch.testing.assert_close(y[0], expected[0], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("H, P", [(9, 1), (33, 8), (130, 65)])
def test_projection_edges(H, P, kernels):
    ours, torchs, truth = make("lstm", 5, H, dtype=torch.float32, device=kernels, proj_size=P, bidirectional=True)
    x = random(4, 7, 5, dtype=torch.float32, device=kernels)
    assert_all_close(outcome(ours, x), outcome(torchs, x), outcome(truth, x.double()))


# products that are packed a slice at a time, below a depth of 64 or of many rows, and dot products
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("B, H", [(1, 1), (3, 7), (5, 33), (2, 63), (1, 300), (2, 263), (7, 280), (64, 200)])
@pytest.mark.parametrize("kind", LAYERS)
def test_single_steps_small_and_large(kind, B, H, dtype, kernels, either_way):
    ours, torchs, truth = make(kind, 9, H, dtype=dtype, device=kernels, bidirectional=True)
    x, hx = random(1, B, 9, dtype=dtype, device=kernels), states(kind, 2, B, H, dtype=dtype, device=kernels)
    assert_all_close(outcome(ours, x, hx), outcome(torchs, x, hx), outcome(truth, x.double(), doubled(hx)))


# Dot products whose last terms fill 0, 1, ... of the lanes, of 1 to 9 rows: blocks of every height, with the bits of any other.
# Of three steps, which take the weights in both orders, no more than there are for the depth.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("T", [1, 3])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.cpu
def test_dot_products_of_every_depth_and_height(kind, T, dtype, kernels):
    for H in [*range(64, 98), 130, 270]:
        B = min(9, H // 6 // T)
        reason = plan(kind, T, B, H).reason
        assert "forward takes w_ih as it is" in reason and "forward takes w_hh as it is" in reason
        ours, torchs, truth = make(kind, H, H, dtype=dtype)
        x, hx = random(T, B, H, dtype=dtype), states(kind, 1, B, H, dtype=dtype)
        with torch.no_grad():
            whole = ours(x, hx)[0]
            assert_all_close({"y": whole}, {"y": torchs(x, hx)[0]}, {"y": truth(x.double(), doubled(hx))[0]})
            for rows in range(1, B):
                some = tuple(s[:, :rows].contiguous() for s in hx) if kind == "lstm" else hx[:, :rows].contiguous()
                assert torch.equal(ours(x[:, :rows].contiguous(), some)[0], whole[:, :rows]), (H, rows)


# deeper than the slice of the product that stays in the first-level cache (256), of more rows than have dot products
@pytest.mark.parametrize("kind", LAYERS)
def test_deep_products(kind, kernels):
    ours, torchs, truth = make(kind, 5, 300, dtype=torch.float32, device=kernels)
    x = random(3, 14, 5, dtype=torch.float32, device=kernels)
    assert_all_close(outcome(ours, x), outcome(torchs, x), outcome(truth, x.double()))


# more rows than a slice of the weights' gradients has (256), and more outputs than a thread packs at once (at most 528)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("option", ["plain", "packed"])
@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_of_weights_over_many_rows(kind, option, dtype, kernels, threads):
    threads(1)
    T, B, I, H = 18, 24, 19, {"lstm": 140, "gru": 270}.get(kind, 540)
    ours, torchs, truth = make(kind, I, H, dtype=dtype, device=kernels)
    x = random(T, B, I, dtype=dtype, device=kernels)
    if option == "packed":
        x = pack_padded_sequence(x, [18 - b // 2 for b in range(B)])
    assert_all_close(outcome(ours, x), outcome(torchs, x), outcome(truth, doubled(x)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_gradients_of_weights_in_blocks_of_every_height(dtype, kernels):
    for outputs in range(1, 26):  # one block, two, and the first sizes that want three
        ours, torchs, truth = make("rnn_tanh", 9, outputs, dtype=dtype, device=kernels)
        x = random(3, 100, 9, dtype=dtype, device=kernels)  # two slices of rows
        assert_all_close(outcome(ours, x), outcome(torchs, x), outcome(truth, x.double()))


# Columns of every number beyond whole vectors, which are summed with outputs in the vectors or not, for outputs that fill panels or
# not; an odd number of rows in two slices, shared by two threads.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("H", [5, 37])
def test_gradients_of_weights_of_every_width(H, dtype, kernels, threads):
    threads(2)
    for I in range(1, 35):
        ours, torchs, truth = make("rnn_tanh", I, H, dtype=dtype, device=kernels)
        x = random(101, 3, I, dtype=dtype, device=kernels)
        assert_all_close(outcome(ours, x), outcome(torchs, x), outcome(truth, x.double()))


# Sums of 2 MB and more, of at most a slice's rows (256), are written past the caches where their rows are whole cache lines;
# others, of more rows or of 741 or 730 columns, are not.
@pytest.mark.parametrize("B, I, H", [(7, 736, 720), (2, 720, 741), (90, 730, 720)])
def test_large_gradients_of_weights(B, I, H, kernels, threads):
    ours, torchs, truth = make("rnn_tanh", I, H, dtype=torch.float32, device=kernels)
    x = random(3, B, I, dtype=torch.float32, device=kernels)
    theirs, true = outcome(torchs, x), outcome(truth, x.double())
    for count in (1, 2):
        threads(count)
        assert_all_close(outcome(ours, x), theirs, true)


# A sum of 8192 products in one chain would be several times as wrong.
@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_of_weights_are_summed_with_care(kind, kernels):
    T, B, H = 128, 64, 24
    ours, torchs, truth = make(kind, H, H, dtype=torch.float32, device=kernels)
    x = random(T, B, H, dtype=torch.float32, device=kernels)
    found, theirs, true = outcome(ours, x), outcome(torchs, x), outcome(truth, x.double())
    for name in ("d_weight_ih_l0", "d_weight_hh_l0", "d_bias_ih_l0", "d_bias_hh_l0"):
        error, their_error = ((t[name].double() - true[name]).norm() / true[name].norm() for t in (found, theirs))
        assert error < max(2 * their_error, 1.5e-7), (name, error, their_error)


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_of_weights_across_a_reset(kind, kernels):
    T, B, I, H, cut = 30, 20, 19, 40, 17
    ours = make(kind, I, H, device=kernels)[0]
    x, d_y = random(T, B, I, device=kernels), random(T, B, H, device=kernels)

    def gradients(x, d_y, **given):
        return torch.autograd.grad(ours(x, **given)[0], ours.parameters(), d_y)

    reset = (torch.arange(T, device=kernels) == cut)[:, None].expand(T, B)
    halves = zip(gradients(x[:cut], d_y[:cut]), gradients(x[cut:], d_y[cut:]))
    for found, (before, after) in zip(gradients(x, d_y, reset=reset), halves):
        torch.testing.assert_close(found, before + after, rtol=1e-10, atol=1e-10)


def test_no_more_threads_than_cores_are_used_of_those_that_may_be(threads):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(cores + 3)
    assert fusedrnn.plan("lstm", 10, 256, 256).threads == cores
    threads(cores + 3)
    assert fusedrnn.plan("lstm", 10, 256, 256).threads == cores + 3


# A few steps of more rows than a product takes at once, with large weights of the inputs.
@pytest.mark.parametrize("kind", LAYERS)
def test_inputs_at_once_of_many_rows(kind, threads, device):
    threads(1)
    T, B, (I, H) = 2, 120, {"lstm": (500, 400), "gru": (600, 450)}.get(kind, (800, 1000))  # 3 MB of w_ih
    ours, torchs, truth = make(kind, I, H, dtype=torch.float32, device=device)
    x = random(T, B, I, dtype=torch.float32, device=device)
    assert_all_close(outcome(ours, x), outcome(torchs, x), outcome(truth, x.double()))


def test_python_threads_do_not_disturb_each_other(device):
    ours = fusedrnn.GRU(6, 96).to(device)
    xs = [random(20, 3, 6, dtype=torch.float32, device=device) for _ in range(4)]
    with torch.no_grad():
        expected = [ours(x)[0] for x in xs]
    results = [None] * 4

    def run(i):
        with torch.no_grad():
            for _ in range(5):
                results[i] = ours(xs[i])[0]

    workers = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(results, expected))


class Encoded(torch.utils.data.Dataset):
    """A data set whose items a recurrent layer makes, so that worker processes run our kernels."""

    def __init__(self, layer):
        self.layer = layer

    def __len__(self):
        return 4

    def __getitem__(self, i):
        with torch.no_grad():
            return self.layer(torch.full((5, 2, 3), float(i)))[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_forked_workers_run_after_the_parent_did():
    data = Encoded(fusedrnn.LSTM(3, 64))
    expected = torch.stack([data[i] for i in range(4)])  # the parent has used its threads by now
    loader = torch.utils.data.DataLoader(data, batch_size=4, num_workers=1, timeout=60)
    (batch,) = list(loader)
    torch.testing.assert_close(batch, expected)


@pytest.mark.parametrize("kind", LAYERS)
def test_infinities_and_nans_come_through(kind, device):
    ours, torchs, _ = make(kind, 3, 5, dtype=torch.float32)
    x = torch.randn(4, 3, 3)
    x[1, 0, 0], x[1, 1, 0], x[1, 2, 0] = float("nan"), float("inf"), float("-inf")
    ours, torchs = ours.to(device)(x.to(device))[0].cpu(), torchs(x)[0]  # cuDNN's ReLU may lose a NaN
    assert torch.equal(ours.isnan(), torchs.isnan())
    torch.testing.assert_close(ours, torchs, equal_nan=True)


# The least number in place of 0 would pass: times infinity, as infinity.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_gate_that_is_shut_lets_nothing_pass(dtype, kernels):
    lstm, _, _ = make("lstm", 3, 17, dtype=dtype, device=kernels)
    with torch.no_grad():
        lstm.bias_ih_l0[:17] = -1e4
    shut = outcome(lstm, random(4, 2, 3, dtype=dtype, device=kernels))
    assert not shut["c_n"].any() and not shut["d_weight_ih_l0"].any()

    gru, torchs, _ = make("gru", 3, 17, dtype=dtype)
    x, h_0 = random(4, 2, 3, dtype=dtype), random(1, 2, 17, dtype=dtype)
    h_0[0, 0, 5] = torch.inf
    expected = torchs(x, h_0)[0]
    assert torch.equal(gru.to(kernels)(x.to(kernels), h_0.to(kernels))[0].cpu().isnan(), expected.isnan())


@pytest.mark.parametrize("H", [1, 17])
def test_gradients_pass_a_relu_of_no_number_as_torchs_do(H, kernels):
    ours, torchs, _ = make("rnn_relu", 3, H, dtype=torch.float32)
    x = random(3, 2, 3, dtype=torch.float32)
    x[1, 0] = torch.nan
    mine, expected = outcome(ours.to(kernels), x.to(kernels)), outcome(torchs, x)  # cuDNN's ReLU may lose a NaN
    assert expected["d_weight_ih_l0"].isnan().any()
    for name in expected:
        torch.testing.assert_close(mine[name].cpu(), expected[name], equal_nan=True, msg=name)


def test_tiny_values_keep_their_relative_accuracy(device):
    ours, _, truth = make("lstm", 3, 5, dtype=torch.float32, device=device, bias=False)
    x = random(4, 3, 3, dtype=torch.float32, device=device) * 1e-12
    torch.testing.assert_close(ours(x)[0].double(), truth(x.double())[0], rtol=1e-5, atol=0)


def test_an_unknown_instruction_set_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=f"{_ops._C.available_isas()[-1]}.*got 'sse9'"):
        _ops._C.use_isa("sse9")
