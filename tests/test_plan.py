"""The plan: what it decides, that it says why, and that its figures are those of the kernel."""

import inspect
import sys
import typing

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

import fusedrnn
from fusedrnn import _ops, plan


def test_one_step_is_no_sequence():
    p = plan("lstm", 1, 4, 64, threads=2)
    assert p.strategy == "single_step" and "T = 1" in p.reason


def test_few_rows_take_dot_products():
    def dots(T, B, H, **given):
        reason = plan("lstm", T, B, H, **given).reason
        return ["takes w_ih as it is, for dot products" in reason, "takes w_hh as it is, for dot products" in reason]

    assert dots(1, 10, 64) == dots(10, 1, 64) == dots(10, 4, 1024) == dots(12, 1, 1024) == [True, True]
    assert dots(1, 11, 64) == dots(11, 1, 64) == dots(1, 41, 1024) == dots(13, 1, 1024) == [False, False]
    # of one row more steps, where its weights do not come from afar
    assert dots(20, 1, 512) == [True, True] and dots(21, 1, 512) == dots(13, 2, 512) == [False, False]
    assert dots(2, 8, 64, input_size=96) == [True, False] and dots(2, 8, 96, input_size=64) == [False, True]


def test_no_product_depends_on_the_number_of_rows_if_it_may_not():
    one_step = ["for dot products" in plan("lstm", 1, B, H, batch_invariant=True).reason for B in (1, 300) for H in (63, 64)]
    assert one_step == [False, True, False, True]
    assert "for dot products" not in plan("lstm", 2, 1, 1024, batch_invariant=True).reason
    few = plan("lstm", 2, 1, 1024)
    with fusedrnn.set_batch_invariant(True):
        assert fusedrnn.is_batch_invariant() and plan("lstm", 2, 1, 1024) != few
        assert plan("lstm", 2, 1, 1024, batch_invariant=False) == few
    assert not fusedrnn.is_batch_invariant() and plan("lstm", 2, 1, 1024) == few
    fusedrnn.set_batch_invariant(True)
    try:
        assert fusedrnn.is_batch_invariant()
    finally:
        fusedrnn.set_batch_invariant(False)


def test_bits_of_no_batch_may_be_asked_for_again_within():
    with fusedrnn.set_batch_invariant(True):
        with fusedrnn.set_batch_invariant(True):
            pass
        assert fusedrnn.is_batch_invariant()
        with fusedrnn.set_batch_invariant(False):
            assert not fusedrnn.is_batch_invariant()
        assert fusedrnn.is_batch_invariant()
    with pytest.raises(ZeroDivisionError), fusedrnn.set_batch_invariant(True):
        1 / 0
    assert not fusedrnn.is_batch_invariant()


def test_small_steps_stay_on_one_thread():
    assert plan("gru", 100, 1, 16, threads=8).threads == 1
    assert [plan("lstm", 16, 1, H, threads=2).threads for H in (64, 100)] == [1, 2]
    assert plan("lstm", 1, 1, 64, threads=8).threads == 1, "waking a thread takes longer than such a step"


def test_small_steps_are_shared_by_rows_and_directions_if_there_are_many():
    many, few = plan("rnn_tanh", 128, 32, 16, threads=2), plan("rnn_tanh", 10, 32, 16, threads=2)
    assert (many.batch_parts, many.unit_parts) == (2, 1), "rows hand nothing over"
    assert few.threads == 1, "less work than it takes to wake a thread"
    narrow, wide = (plan("rnn_tanh", 50, 12, H, threads=2) for H in (64, 256))
    assert (narrow.batch_parts, narrow.unit_parts) == (2, 1), "such steps are over too soon to share units"
    assert (wide.batch_parts, wide.unit_parts) == (1, 2)
    one, both = (plan("lstm", 128, 1, 16, bidirectional=given, threads=2) for given in (False, True))
    assert (one.threads, both.direction_parts, both.threads) == (1, 2, 2)


def test_small_steps_of_long_sequences_have_a_helper():
    p = plan("lstm", 128, 1, 64, threads=2)
    assert (p.threads, p.unit_parts, p.helpers) == (2, 1, 1) and "a thread for the products of its inputs" in p.reason
    assert "one of them for the inputs" in str(p)
    assert plan("lstm", 128, 1, 64, threads=1).helpers == 0
    assert plan("lstm", 128, 1, 64, threads=2, input_size=1).helpers == 0, "too little to do"
    assert plan("lstm", 128, 1, 128, threads=2).helpers == 0, "units are shared"
    both = plan("lstm", 128, 1, 64, threads=4, bidirectional=True)
    assert (both.threads, both.direction_parts, both.helpers) == (4, 2, 1)
    assert plan("gru", 300, 25, 8, input_size=64, threads=4).helpers == 0, "more rows a step than are made ahead"


def test_a_large_single_step_is_divided_like_any_other():
    wide, single = plan("lstm", 1, 128, 256, threads=4), plan("lstm", 1, 1, 512, threads=4)
    assert (wide.batch_parts, wide.unit_parts) == (4, 1)
    assert (single.batch_parts, single.unit_parts) == (1, 4)


def test_the_workspace_follows_the_input_and_the_weights():
    sizes = ("lstm", 50, 8, 256)
    assert plan(*sizes, input_size=1024).workspace_bytes > plan(*sizes).workspace_bytes > plan(*sizes, input_size=1).workspace_bytes
    assert plan(*sizes).workspace_bytes == plan(*sizes, input_size=256).workspace_bytes
    exact, rounded = plan(*sizes), plan(*sizes, dtype=torch.bfloat16)
    saved = exact.workspace_bytes - rounded.workspace_bytes
    if rounded.saved_bytes < exact.saved_bytes:  # the kernels see bfloat16 in activations, too
        saved -= exact.stretch_rows * 4 * 256 * 2
    assert saved == pytest.approx(2 * 4 * 256 * 256 * 2, rel=0.01), "two packed matrices, half the bytes"


def test_a_backward_that_keeps_what_was_saved_stops_for_sums():
    assert [plan("rnn_tanh", T, B, 128).stretch_rows for T, B in [(5, 7), (500, 7), (5, 3000), (0, 7)]] == [35, 768, 3000, 7]
    narrow, wide, both = plan("lstm", 50, 64, 256), plan("lstm", 50, 64, 512), plan("lstm", 50, 64, 256, bidirectional=True)
    assert (narrow.stretch_rows, wide.stretch_rows, both.stretch_rows) == (768, 384, 384), "3 MB of gates' gradients"
    assert plan("lstm", 50, 64, 2048).stretch_rows == 256, "but no fewer than are summed in one go"
    assert plan("rnn_tanh", 5000, 7, 128).workspace_bytes == plan("rnn_tanh", 500, 7, 128).workspace_bytes


@pytest.mark.parametrize("threads", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("B, H", [(1, 8), (1, 1024), (256, 64), (64, 512)])
def test_no_more_threads_than_allowed_and_all_accounted_for(B, H, bidirectional, threads):
    p = plan("lstm", 50, B, H, bidirectional=bidirectional, threads=threads)
    assert p.threads == p.direction_parts * p.batch_parts * p.unit_parts * (1 + p.helpers) <= threads
    assert p.batch_parts <= B and p.unit_parts <= H and p.direction_parts <= 1 + bidirectional


def test_wide_batches_are_split_by_rows_and_single_rows_by_units():
    wide, single = plan("lstm", 50, 128, 512, threads=4), plan("lstm", 50, 1, 512, threads=4)
    assert (wide.batch_parts, wide.unit_parts) == (4, 1)
    assert (single.batch_parts, single.unit_parts) == (1, 4)


def test_small_weights_are_packed_by_each_who_needs_them():
    own = lambda *sizes, threads=2: "packs the weights for itself" in plan(*sizes, threads=threads).reason
    assert own("lstm", 10, 16, 128) and own("lstm", 10, 64, 128, threads=8)
    assert not own("lstm", 10, 16, 256), "2 MB"
    assert not own("lstm", 10, 128, 128, threads=16), "16 times 512 KB"
    assert not own("lstm", 10, 4, 128), "units are shared, each with one owner"
    assert not own("lstm", 1, 64, 128), "nothing is packed for all steps"
    shared, each = (plan("lstm", 50, 64, 128, threads=threads).workspace_bytes for threads in (1, 2))
    assert each - shared > 2 * 4 * 128 * 128 * 4, "another copy"


def test_rows_are_shared_where_units_cannot_be_shared_evenly():
    even, uneven = plan("lstm", 50, 8, 64, threads=2), plan("lstm", 50, 8, 50, threads=2)
    assert (even.batch_parts, even.unit_parts) == (1, 2)
    assert (uneven.batch_parts, uneven.unit_parts) == (2, 1), "seven vectors of units would be four and three"


def test_a_single_step_shares_large_weights_rather_than_rows():
    small, large = plan("lstm", 1, 64, 128, threads=2), plan("lstm", 1, 64, 1024, threads=2)
    assert (small.batch_parts, small.unit_parts) == (2, 1)
    assert (large.batch_parts, large.unit_parts) == (1, 2) and "large weights" in large.reason
    assert "large weights" not in plan("lstm", 1, 64, 1024, threads=1).reason
    assert plan("lstm", 2, 64, 1024, threads=2).batch_parts == 2


def test_the_backward_of_few_rows_or_one_sequence_packs_no_recurrent_weights():
    one, few, many = (plan("lstm", T, B, 256, input_size=1024) for T, B in ((41, 1), (2, 10), (21, 2)))
    assert "backward takes w_hh as it is" in one.reason and "backward takes w_hh as it is" in few.reason
    assert "backward takes w_hh" not in many.reason
    as_it_is = ["backward takes w_hh" in plan("lstm", T, 1, H).reason for T, H in ((40, 100), (41, 100), (500, 128))]
    assert as_it_is == [True, False, True], "rows across cache lines, of many steps, are packed"
    far = ["backward takes w_hh" in plan("gru", T, 1, 1024, threads=threads).reason for T, threads in ((40, 1), (41, 1), (41, 8))]
    assert far == [True, False, True], "weights that come from afar in each of many steps are packed"
    assert "backward takes w_hh" not in plan("lstm", 10, 1, 1).reason, "a vector would end beyond the next row"


def test_the_gradients_of_weights_have_threads_of_their_own():
    long, short = plan("rnn_tanh", 5000, 1, 16, threads=4), plan("rnn_tanh", 5, 1, 16, threads=4)
    assert (long.unit_parts, long.gradient_threads) == (1, 4) and short.gradient_threads == 1
    assert "4 for the weights' gradients" in str(long)


def test_a_large_w_ih_is_packed_a_slice_at_a_time_for_few_rows():
    few, many = plan("gru", 20, 4, 1024, threads=2), plan("gru", 10, 64, 1024, threads=2)
    assert "a slice at a time" in few.reason and "a slice at a time" not in many.reason
    assert few.workspace_bytes < 0.7 * many.workspace_bytes


def test_directions_run_side_by_side():
    assert plan("lstm", 50, 1, 256, bidirectional=True, threads=2).direction_parts == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("P", [0, 4])
def test_saved_bytes_are_those_that_are_kept(P, dtype):
    T, B, H, D = 7, 3, 10, 2
    planned = plan("lstm", T, B, H, proj_size=P, input_size=4, bidirectional=True, dtype=dtype).saved_bytes
    x, w = torch.randn(T, B, 4, dtype=dtype), torch.randn(4 * H, P or H, dtype=dtype)
    weights = [torch.randn(4 * H, 4, dtype=dtype)] * D + [w] * D + [torch.randn(P, H, dtype=dtype)] * (D if P else 0)
    *_, c, saved = torch.ops.fusedrnn.layer_forward(
        x, None, None, weights, None, None, None, "lstm", [False, True], False, True, False
    )
    assert saved.nbytes + c.nbytes == planned
    assert saved.numel() == T * B * D * (4 + bool(P)) * H and c.numel() == T * B * D * H


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "cell, T, B, H, P", [("LSTM", 30, 4, 60, 0), ("LSTM", 30, 4, 60, 20), ("GRU", 300, 6, 40, 0), ("RNN", 1, 3, 200, 0)]
)
def test_the_workspace_is_what_the_larger_pass_takes(cell, T, B, H, P, dtype):
    layer = getattr(fusedrnn, cell)(24, H, bidirectional=True, **{"proj_size": P} if P else {}).to(dtype)
    x, taken = torch.randn(T, B, 24, dtype=dtype), []
    fusedrnn.release_scratch()
    y = layer(x)[0]
    taken.append(fusedrnn.release_scratch())
    y.sum().backward(retain_graph=True)  # one that overwrote what was saved would take less
    taken.append(fusedrnn.release_scratch())
    assert 0 <= max(taken) - layer.plan(x)[0].workspace_bytes <= 128, "that it begins with a cache line"


def test_every_cell_of_the_kernels_has_a_plan_and_prints():
    for cell in _ops.CELLS:
        p = plan(cell, 20, 4, 32, threads=2)
        text = str(p)
        assert p.strategy in text and p.isa in text and p.reason in text and f"{p.workspace_bytes:,}" in text


@pytest.mark.parametrize("name, cell", [("LSTM", "lstm"), ("Gru", "gru"), ("RNN", "rnn_tanh"), ("rnn", "rnn_tanh")])
def test_cells_go_by_the_names_of_classes_too(name, cell):
    assert plan(name, 20, 4, 32, threads=2) == plan(cell, 20, 4, 32, threads=2)


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (("LSTN", 1, 1, 1), ["'LSTN'", "rnn_tanh", "gru"]),
        ((None, 1, 1, 1), ["None", "rnn_tanh", "gru"]),
        (("lstn", 1, 1, 1), ["lstn", "rnn_tanh", "gru"]),
        (("lstm", -1, 1, 1), ["T", "0", "-1"]),
        (("lstm", 1, 1, 0), ["H", "1", "0"]),
    ],
)
def test_impossible_layers_are_refused(arguments, parts):
    with pytest.raises(ValueError) as error:
        plan(*arguments)
    assert all(part in str(error.value) for part in parts)
    for P in (8, 9):
        with pytest.raises(ValueError, match=f"proj_size must be below H = 8; got {P}"):
            plan("lstm", 1, 1, 8, proj_size=P)
    with pytest.raises(ValueError, match="proj_size is for cell 'lstm' alone; got 3 for 'gru'"):
        plan("gru", 1, 1, 8, proj_size=3)


@pytest.mark.parametrize("form", ["time first", "batch first", "one sequence", "packed"])
def test_a_module_plans_each_of_its_layers_for_an_input(form):
    layer = fusedrnn.LSTM(3, 20, num_layers=2, bidirectional=True, proj_size=5, batch_first=form == "batch first")
    x = {
        "time first": torch.empty(7, 4, 3),
        "batch first": torch.empty(4, 7, 3),
        "one sequence": torch.empty(7, 3),
        "packed": pack_padded_sequence(torch.empty(7, 4, 3), [7, 7, 3, 1]),
    }[form]
    B = 1 if form == "one sequence" else 4
    expected = [plan("lstm", 7, B, 20, input_size=I, proj_size=5, bidirectional=True) for I in (3, 10)]
    assert layer.plan(x) == expected


def test_a_module_plans_in_the_dtype_that_it_runs_in():
    layer, x = fusedrnn.GRU(3, 20).double(), torch.empty(7, 4, 3, dtype=torch.float64)
    assert layer.plan(x) == [plan("gru", 7, 4, 20, input_size=3, dtype=torch.float64)]


def test_a_module_plans_in_the_dtype_of_autocast():
    layer, x = fusedrnn.GRU(3, 20), torch.empty(7, 4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = layer.plan(x)
    assert rounded == [plan("gru", 7, 4, 20, input_size=3, dtype=torch.bfloat16)] and rounded != layer.plan(x)


def test_the_cpu_may_be_given_as_a_device():
    for device in (torch.device("cpu"), "cpu"):
        assert plan("gru", 7, 4, 20, device=device) == plan("gru", 7, 4, 20)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="needs typing.get_overloads")
def test_what_type_checkers_are_told_of_plan_is_what_it_takes():
    taken = list(inspect.signature(fusedrnn.plan).parameters)
    told = [inspect.signature(each) for each in typing.get_overloads(fusedrnn.plan)]
    assert [list(each.parameters) for each in told] == [taken, taken]
    assert [each.return_annotation for each in told] == ["Plan", "Plan | CudaPlan"]
