"""Packed sequences, sorted or not: against torch.nn, and with resets against the padded run."""

import pytest
import torch
from helpers import DTYPES, LAYERS, doubled, flat, make, outcome, random, states, without_cudnn
from ragged import RESET, SHAPES, B, H, I, T
from tolerances import assert_all_close, assert_close
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

ORDERS = {"unsorted": (2, 6, 1, 4), "sorted": (6, 4, 2, 1), "equal": (3, 3, 3, 3)}


def packs(device, order="unsorted"):
    """B random sequences, packed."""
    rows = [random(length, I, device=device) for length in ORDERS[order]]
    return pack_sequence(rows, enforce_sorted=order == "sorted")


@pytest.mark.parametrize("given", ["hx", "zeros"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", LAYERS)
def test_packed_sequences_agree_with_torch(kind, shape, order, given, device):
    ours, torchs, _ = make(kind, I, H, device=device, **SHAPES[shape])
    packed = packs(device, order)
    LD = ours.num_layers * (1 + ours.bidirectional)
    hx = states(kind, LD, B, H, device=device) if given == "hx" else None
    expected = outcome(torchs, packed, hx)
    assert_all_close(outcome(ours, packed, hx), expected, expected)


def test_packed_projection_and_dropout_agree_with_torch(device):
    ours, torchs, _ = make("lstm", I, H, num_layers=2, proj_size=3, dropout=0.5, bidirectional=True, device=device)
    packed, results = packs(device), []
    with without_cudnn():
        for module in (ours, torchs):
            torch.manual_seed(1)  # the same dropout in both
            results.append(outcome(module, packed))
    assert_all_close(*results, results[1])


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_packed_sequences_agree_with_torch_in_every_dtype(kind, dtype, device):
    ours, torchs, exact = make(kind, I, H, bidirectional=True, dtype=dtype, device=device)
    packed = packs(device).to(dtype)
    assert_all_close(outcome(ours, packed), outcome(torchs, packed), outcome(exact, doubled(packed)))


def test_packed_output_is_packed_as_the_input_is(device):
    ours, _, _ = make("lstm", I, H, device=device)
    packed = packs(device)
    y, _, c = ours(packed, return_cell_states=True)
    for output in (y, c):
        assert isinstance(output, PackedSequence)
        assert output.batch_sizes is packed.batch_sizes
        assert output.sorted_indices is packed.sorted_indices
        assert output.unsorted_indices is packed.unsorted_indices


@pytest.mark.parametrize("reset_to", ["zeros", "hx"])
@pytest.mark.parametrize("kind", LAYERS)
def test_packed_reset_is_the_padded_one(kind, reset_to, device):
    ours, _, _ = make(kind, I, H, bidirectional=True, device=device)
    lengths = torch.tensor([4, 2, 6, 1])
    x, hx, reset = random(T, B, I, device=device), states(kind, 2, B, H, device=device), RESET.to(device)
    padded_y, padded_last = ours(x, hx, lengths=lengths, reset=reset, reset_to=reset_to)
    packed, marks = (pack_padded_sequence(value, lengths, enforce_sorted=False) for value in (x, reset))
    y, last = ours(packed, hx, reset=marks, reset_to=reset_to)
    expected = pack_padded_sequence(padded_y, lengths, enforce_sorted=False).data
    assert_close(y.data, expected, expected, "y")
    for mine, theirs in zip(flat(last), flat(padded_last)):
        assert_close(mine, theirs, theirs, "last state")
