"""The bits of a row's results do not depend on the threads or the run, nor, where that is asked for, on the rest of its batch."""

import pytest
import torch
from helpers import LAYERS, flat, make, mapped, outcome, random, states

import fusedrnn


# more threads than any machine that runs this has cores to spare: the barriers must yield, not dead-lock
@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("case", ["rows", "units", "ragged", "projection"])
def test_the_number_of_threads_does_not_show(case, count, threads, either_way):
    kwargs = {"proj_size": 70} if case == "projection" else {}
    B = {"rows": 64, "units": 1, "ragged": 40, "projection": 4}[case]
    ours = fusedrnn.LSTM(8, 136, bidirectional=True, **kwargs)
    x = random(5, B, 8, dtype=torch.float32)
    given = {"lengths": (torch.arange(B) % 6).tolist()} if case == "ragged" else {}
    threads(1)
    alone = outcome(ours, x, **given)
    threads(count)
    together = outcome(ours, x, **given)
    for name in alone:
        assert torch.equal(together[name], alone[name]), name


# Weights of more than 1 MB are packed once for all threads that share rows. One that did not wait would find those of
# another layer in their place.
@pytest.mark.cpu
def test_threads_that_share_rows_wait_for_each_others_packed_weights(threads):
    x = random(4, 64, 40, dtype=torch.float32)
    for _ in range(6):
        ours, other, results = fusedrnn.RNN(40, 520), fusedrnn.RNN(40, 520), []
        for count in (1, 8):
            threads(count)
            plan = ours.plan(x)[0]
            assert count == 1 or (plan.batch_parts > 1 and "for itself" not in plan.reason)
            fusedrnn.release_scratch()
            results.append(outcome(ours, x))
            with torch.no_grad():
                other(x)
        alone, together = results
        for name in alone:
            assert torch.equal(together[name], alone[name]), name


LENGTHS = [(11 * b) % 31 for b in range(90)]  # 0 to 30
UNEQUAL = {  # what is given beside x and the states, and what the layer is made with
    "lengths": ({"lengths": LENGTHS}, {}),
    "both directions": ({"lengths": LENGTHS}, {"bidirectional": True}),
    "resets": ({"lengths": LENGTHS, "reset": torch.arange(30 * 90).view(30, 90) % 9 == 4, "reset_to": "hx"}, {}),
    "packed": ({}, {}),
    "projection": ({"lengths": LENGTHS}, {"proj_size": 16}),
}


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "kind, option", [(kind, option) for kind in LAYERS for option in UNEQUAL if kind == "lstm" or option != "projection"]
)
@pytest.mark.cpu
def test_how_threads_share_sequences_of_unequal_length_does_not_show(kind, option, dtype, count, threads):
    given, made = UNEQUAL[option]
    ours = make(kind, 5, 32, dtype=dtype, **made)[0]
    x = random(30, 90, 5, dtype=dtype)
    hx = states(kind, 1 + ours.bidirectional, 90, 32, P=ours.proj_size, dtype=dtype)
    if option == "packed":
        x = torch.nn.utils.rnn.pack_padded_sequence(x, [max(1, n) for n in LENGTHS], enforce_sorted=False)
    threads(1)
    alone = outcome(ours, x, hx, **given)
    threads(count)
    together = outcome(ours, x, hx, **given)
    for name in alone:
        assert torch.equal(together[name], alone[name]), name


FAR = {  # what is given beside x, and what the layer is made with
    "plain": ({}, {}),
    "both directions": ({}, {"bidirectional": True}),
    "reset": ({"reset": torch.arange(24 * 96).view(24, 96) % 5 == 3}, {}),
    "projection": ({}, {"proj_size": 24}),
    "widths of no whole vectors": ({}, {}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("option", FAR)
@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.cpu
def test_where_saved_values_are_written_does_not_show(kind, option, dtype, kernels, threads):
    """Past the caches from 4 MB on: of 24 · 96 rows of 4 · 128 values, not of an eighth of them."""
    given, made = FAR[option]
    if option == "projection" and kind != "lstm":
        pytest.skip("only LSTM has a projection")
    H = 90 if option == "widths of no whole vectors" else 128
    ours = make(kind, 16, H, dtype=dtype, **made)[0]
    x, d_y = (random(24, 96, width, dtype=dtype) for width in (16, (1 + ours.bidirectional) * (ours.proj_size or H)))
    threads(2)

    def run(batch, **given):
        leaf = x[:, batch].detach().requires_grad_()
        y = ours(leaf, **given)[0]
        return [y.detach(), *torch.autograd.grad(y, leaf, d_y[:, batch])]

    plan, few = ours.plan(x)[0], slice(0, 12)
    assert ("past the caches" in plan.reason) == (plan.isa == "avx512" and H == 128), "where vectors are whole cache lines"
    assert "past the caches" not in ours.plan(x[:, few])[0].reason
    far = run(slice(None), **given)
    near = run(few, **{name: value[:, few] for name, value in given.items()})
    for all_rows, some in zip(far, near):
        assert torch.equal(all_rows[:, few], some)


HELPED = {  # what is given beside x, and how wide x is
    "plain": ({}, 32),
    "lengths": ({"lengths": [240, 101, 0]}, 32),
    "reset": ({"reset": torch.arange(240 * 3).view(240, 3) % 7 == 3}, 32),
    "projection": ({}, 32),
    "one row": ({}, 40),
    "wide": ({}, 300),
}


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("option", HELPED)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_thread_that_helps_does_not_show(kind, option, directions, threads):
    if option == "projection" and kind != "lstm":
        pytest.skip("only LSTM has a projection")
    given, I = HELPED[option]
    more = {"proj_size": 20} if option == "projection" else {}
    H = 65 if kind.startswith("rnn") else 33
    ours = make(kind, I, H, bidirectional=directions == 2, dtype=torch.float32, **more)[0]
    x = random(240, 1 if option == "one row" else 3, I, dtype=torch.float32)

    def run():
        with torch.no_grad():
            inferred = ours(x, **given)[0]
        return outcome(ours, x, **given) | {"inferred": inferred}

    threads(1)
    assert not ours.plan(x)[0].helpers
    alone = run()
    threads(2 * directions)
    assert ours.plan(x)[0].helpers
    together = run()
    for name in alone:
        assert torch.equal(together[name], alone[name]), name


# What a row gives must not depend on which others share its batch: neither its outputs nor its gradients. The sizes
# are about the register block, the pieces of rows and the rows made ahead; with the last ones the gates' gradients of an
# LSTM's and a GRU's rows lie whole pages apart, as do rows of x in float64.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("option", [None, "reset", "lengths"])
@pytest.mark.parametrize("T, I, H", [(1, 33, 40), (1, 300, 130), (1, 33, 270), (5, 33, 40), (3, 300, 130), (3, 512, 128)])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.cpu
def test_a_row_gives_the_same_bits_in_any_batch(kind, T, I, H, option, dtype, kernels, batch_invariant):
    ours = make(kind, I, H, dtype=dtype, bidirectional=True, num_layers=2)[0]
    B = 101
    x, hx = random(T, B, I, dtype=dtype), states(kind, 4, B, H, dtype=dtype)
    reset, lengths = torch.rand(T, B) < 0.3, torch.randint(1, T + 1, (B,))
    lengths[[2, 60]] = T  # so that no part is shorter than the whole

    def rows(chosen):
        given = {"reset": reset[:, chosen]} if option == "reset" else {"lengths": lengths[chosen]} if option else {}
        inputs = [t[:, chosen].clone().requires_grad_() for t in (x, *flat(hx))]
        first = tuple(inputs[1:]) if kind == "lstm" else inputs[1]
        y, last = ours(inputs[0], first, **given)
        outputs = [y, *flat(last)]
        weights = [torch.linspace(-1, 1, t.size(-1), dtype=dtype).expand_as(t) for t in outputs]
        return outputs + list(torch.autograd.grad(outputs, inputs, weights))

    whole = rows(slice(None))
    for chosen in ([2], [60], [2, 7, 60], list(range(2, 61))):
        for i, value in enumerate(rows(chosen)):
            assert torch.equal(value, whole[i][:, chosen]), (i, len(chosen))


# Weights that are packed a slice at a time, as a single step's are below a depth of 64, give the bits of those packed at once.
@pytest.mark.parametrize("B, H", [(1, 7), (3, 33), (14, 50)])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.cpu
def test_step_by_step_gives_the_bits_of_a_sequence(kind, B, H, kernels, batch_invariant):
    ours = make(kind, 19, H, dtype=torch.float32)[0]
    x, hx = random(4, B, 19, dtype=torch.float32), states(kind, 1, B, H, dtype=torch.float32)
    whole, last = ours(x, hx)
    steps, state = [], hx
    for x_t in x:
        y, state = ours(x_t[None], state)
        steps.append(y)
    assert torch.equal(torch.cat(steps), whole)
    for found, expected in zip(flat(state), flat(last)):
        assert torch.equal(found, expected)


# The products with a state of zeros are left out where none is given.
@pytest.mark.parametrize("option", [None, "lengths", "reset"])
@pytest.mark.parametrize("T", [1, 4])
@pytest.mark.parametrize("kind", LAYERS)
def test_no_state_is_a_state_of_zeros(kind, T, option, kernels, either_way):
    ours = make(kind, 5, 33, dtype=torch.float32, device=kernels, bidirectional=True)[0]
    x = random(T, 7, 5, dtype=torch.float32, device=kernels)
    zeros = mapped(torch.zeros_like, states(kind, 2, 7, 33, dtype=torch.float32, device=kernels))
    reset = torch.zeros(T, 7, dtype=torch.bool, device=kernels)
    reset[T - 1] = True  # of all rows, so that a later step starts from zeros as well
    given = {"lengths": [T, T, 1, 1, 1, 1, 1]} if option == "lengths" else {"reset": reset} if option else {}
    without, with_zeros = outcome(ours, x, **given), outcome(ours, x, zeros, **given)
    for name, value in without.items():
        torch.testing.assert_close(value, with_zeros[name], rtol=0, atol=0)


# Large weights of the inputs are packed a slice at a time if there are few rows: the same bits as with many.
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind, H", [("rnn_tanh", 540), ("gru", 180), ("lstm", 135)])
@pytest.mark.cpu
def test_inputs_at_once_give_the_bits_of_inputs_in_turn(kind, H, dtype, kernels, batch_invariant):
    T, B, I = 3, 101, 1500 if dtype == torch.float32 else 3000
    ours = make(kind, I, H, dtype=dtype, bidirectional=True)[0]
    x, d_y = random(T, B, I, dtype=dtype), random(T, B, 2 * H, dtype=dtype)

    def rows(chosen):
        own = x[:, chosen].clone().requires_grad_()
        y = ours(own)[0]
        return y, torch.autograd.grad(y, own, d_y[:, chosen])[0]

    for whole, few in zip(rows(slice(None)), rows([2, 60, 61])):
        assert torch.equal(few, whole[:, [2, 60, 61]])


# One thread packs 2 MB of weights and more past the caches, two of whom each has the half do not: the same bits, whether
# rows fill whole cache lines or not, and whatever weights are stored as.
@pytest.mark.parametrize("dtype, H", [(torch.float32, 736), (torch.float32, 731), (torch.float64, 523), (torch.bfloat16, 1040)])
@pytest.mark.cpu
def test_weights_packed_past_the_caches_give_the_same_bits(dtype, H, kernels, threads, batch_invariant):
    ours = make("rnn_tanh", 24, H, dtype=dtype)[0]
    x = random(3, 2, 24, dtype=dtype)
    threads(1)
    assert ours.plan(x)[0].unit_parts == 1 and 2 << 20 <= ours.weight_hh_l0.nbytes < 4 << 20
    alone = outcome(ours, x)
    threads(2)
    assert ours.plan(x)[0].unit_parts == 2
    together = outcome(ours, x)
    for name in alone:
        assert torch.equal(together[name], alone[name]), name


# The backward takes weights as they are where there are few rows in all, or but one sequence: the same bits as with many, for
# rows that fill no whole vectors, that do and that are long (2 KB), and with units shared by threads.
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    "T, I, H", [(1, 5, 7), (3, 33, 50), (4, 65, 17), (12, 130, 96), (13, 20, 100), (40, 16, 64), (3, 530, 530)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.cpu
def test_few_sequences_have_the_bits_that_they_have_among_many(kind, T, I, H, dtype, count, kernels, threads, batch_invariant):
    threads(count)
    B = 14
    ours = make(kind, I, H, dtype=dtype, bidirectional=True)[0]
    x, d_y, h_0 = random(T, B, I, dtype=dtype), random(T, B, 2 * H, dtype=dtype), random(2, B, H, dtype=dtype)

    def rows(chosen):
        own, first = x[:, chosen].clone().requires_grad_(), h_0[:, chosen].clone().requires_grad_()
        y = ours(own, (first, first) if kind == "lstm" else first)[0]
        return y, *torch.autograd.grad(y, [own, first], d_y[:, chosen])

    whole = rows(slice(None))
    for chosen in ([0], [13], [2, 3], [1, 5, 6, 8, 9], list(range(8))):
        for name, few, all_rows in zip(("y", "d_x", "d_h_0"), rows(chosen), whole):
            assert torch.equal(few, all_rows[:, chosen]), (name, chosen)


# The parts of one row's chains are added in the same order, however many vectors a thread has of a block: with weights as they are
# (in the forward of 13 steps, and in the backward of 21), packed, with rows of 2 KB and more, and (LSTM H=528) packed by one thread
# where three take them as they are.
@pytest.mark.parametrize("T, H", [(13, 128), (21, 100), (21, 128), (41, 128), (41, 132), (21, 512), (41, 528)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.cpu
def test_one_row_has_the_same_bits_on_any_number_of_threads(kind, T, H, dtype, kernels, threads):
    ours, x = make(kind, 3, H, dtype=dtype)[0], random(T, 1, 3, dtype=dtype)
    threads(1)
    alone = outcome(ours, x)
    for count in (2, 3):
        threads(count)
        together = outcome(ours, x)
        for name in alone:
            assert torch.equal(together[name], alone[name]), (name, count)


@pytest.mark.parametrize("kind", LAYERS)
def test_repeated_runs_give_the_same_bits(kind, device, either_way):
    ours = make(kind, 6, 40, dtype=torch.float32, device=device)[0]
    x = random(9, 14, 6, dtype=torch.float32, device=device)
    first = outcome(ours, x)
    for _ in range(20):
        again = outcome(ours, x)
        assert all(torch.equal(first[name], again[name]) for name in first)
