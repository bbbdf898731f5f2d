"""recompute=True: the same results and gradients with less kept from the forward to the backward."""

import copy

import pytest
import torch
from helpers import DTYPES, LAYERS, doubled, make, outcome, random, states
from ragged import OPTIONS, B, H, I, T, given_on
from simt.extension import host_executor, load
from tolerances import assert_all_close
from torch.nn.utils.rnn import pack_padded_sequence

import fusedrnn
from benchmarks.memory import peak


def pair(kind, **kwargs):
    """A layer, and the same that recomputes."""
    ours = make(kind, I, H, **kwargs)[0]
    again = copy.deepcopy(ours)
    again.recompute = True
    return ours, again


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_results_are_as_near_to_the_truth_as_torchs(kind, dtype, device):
    ours, torchs, truth = make(kind, I, H, dtype=dtype, device=device, num_layers=2, bidirectional=True)
    ours.recompute = True
    x, hx = random(T, B, I, dtype=dtype, device=device), states(kind, 4, B, H, dtype=dtype, device=device)
    assert_all_close(outcome(ours, x, hx), outcome(torchs, x, hx), outcome(truth, x.double(), doubled(hx)))


@pytest.mark.parametrize("option", [*OPTIONS, "packed", "projection"])
@pytest.mark.parametrize("kind", LAYERS)
def test_every_option_gives_the_same_gradients(kind, option, device):
    if option == "projection" and kind != "lstm":
        pytest.skip("only an LSTM has a projection")
    kwargs = {"proj_size": 3} if option == "projection" else {}
    ours, again = pair(kind, device=device, bidirectional=True, **kwargs)
    x, hx = random(T, B, I, device=device), states(kind, 2, B, H, P=kwargs.get("proj_size"), device=device)
    given = given_on(device, option) if option in OPTIONS else {}
    if option == "packed":
        x = pack_padded_sequence(x, [6, 4, 4, 1])
    expected = outcome(ours, x, hx, **given)
    assert_all_close(outcome(again, x, hx, **given), expected, expected)


@pytest.fixture(params=[1 << 24, 150], ids=["in one piece", "a few rows at a time"])
def pieces(request):
    """How many gates the CUDA path recomputes at once."""
    before = load().set_recomputed_values(request.param)
    yield
    load().set_recomputed_values(before)


@pytest.mark.parametrize("strategy", ["stepwise", "persistent"])
@pytest.mark.parametrize("option", ["reset to hx", "lengths", "packed"])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_the_cuda_path_recomputes_too(kind, option, strategy, pieces):
    ours, again = pair(kind, dtype=torch.float32, bidirectional=True)
    x, hx = random(T, B, I, dtype=torch.float32), states(kind, 2, B, H, dtype=torch.float32)
    given = given_on("cpu", option) if option in OPTIONS else {}
    if option == "packed":
        x = pack_padded_sequence(x, [6, 4, 4, 1])
    with host_executor("A100", strategy):
        expected, mine = outcome(ours, x, hx, **given), outcome(again, x, hx, **given)
    for name in expected:
        torch.testing.assert_close(mine[name], expected[name], rtol=1e-4, atol=1e-5, msg=name)


def test_the_cuda_path_recomputes_projections(pieces):
    ours, again = pair("lstm", proj_size=3, bidirectional=True)
    x = random(T, B, I)
    with host_executor():
        expected = outcome(ours, x, lengths=[6, 2, 0, 5])
        assert_all_close(outcome(again, x, lengths=[6, 2, 0, 5]), expected, expected)


def test_the_cuda_path_recomputes_projections_beside_padding_of_any_value(pieces):
    ours, again = pair("lstm", proj_size=3, bidirectional=True)
    x, lengths = random(T, B, I), [6, 2, 0, 5]
    expected = outcome(ours, x, lengths=lengths)
    for b, n in enumerate(lengths):
        x[n:, b] = torch.nan
    with host_executor():
        mine = outcome(again, x, lengths=lengths)
    assert_all_close({name: value.nan_to_num() for name, value in mine.items()}, expected, expected)
    assert not any(value.isnan().any() for name, value in mine.items() if name.startswith("d_weight"))


@pytest.mark.parametrize("T, B", [(0, 3), (5, 0)])
def test_the_cuda_path_recomputes_nothing_of_projections(T, B):
    ours, again = pair("lstm", proj_size=3)
    x = random(T, B, I)
    expected = outcome(ours, x)
    with host_executor():
        assert_all_close(outcome(again, x), expected, expected)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_pieces_meet_without_a_seam(kind, device):
    ours = make(kind, I, 400, dtype=torch.float32, device=device)[0]
    x = random(40, 40, I, dtype=torch.float32, device=device)  # 1600 rows, of which a few hundred are taken at a time
    expected = outcome(ours, x)
    ours.recompute = True
    mine = outcome(ours, x)
    for name in expected:
        torch.testing.assert_close(mine[name], expected[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("kind, share", [("lstm", 0.9), ("gru", 0.8)])
def test_a_single_layer_needs_less_memory_too(kind, share):
    ours, again = pair(kind, dtype=torch.float32)
    x = random(2000, 16, I, dtype=torch.float32)
    with_gates, without = (peak(lambda: layer(x)[0].sum().backward()) for layer in (ours, again))
    assert without < share * with_gates


def kept_bytes(layer, x):
    """Bytes that the forward keeps for the backward, the input and the weights apart."""
    own = {t.untyped_storage().data_ptr() for t in [x, *layer.parameters()]}
    kept = {}

    def count(t):
        if t.untyped_storage().data_ptr() not in own:
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        layer(x)
    return sum(kept.values())


@pytest.mark.parametrize("kind, values, fewer", [("rnn_tanh", 1, 1), ("gru", 5, 1), ("lstm", 6, 2)])
def test_only_the_states_are_kept(kind, values, fewer, device):
    T, B, H = 50, 3, 64
    layer = make(kind, I, H, dtype=torch.float32, device=device)[0]
    x = random(T, B, I, dtype=torch.float32, device=device)
    assert kept_bytes(layer, x) == values * T * B * H * 4  # y, c, and the gates
    layer.recompute = True
    assert kept_bytes(layer, x) == fewer * T * B * H * 4  # y and c


@pytest.mark.parametrize("kind", LAYERS)
def test_second_derivatives_and_compile_work_as_ever(kind, device):
    ours, again = pair(kind, device=device)
    x = random(T, B, I, device=device).requires_grad_()
    seconds = []
    for layer in (ours, again):
        (d_x,) = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
        seconds.append(torch.autograd.grad(d_x.square().sum(), layer.weight_hh_l0)[0])
    torch.testing.assert_close(*seconds)
    results = []
    for layer in (torch.compile(again, fullgraph=True, backend="aot_eager"), ours):
        y = layer(x)[0]
        results.append((y, *torch.autograd.grad(y.square().sum(), x)))
    torch.testing.assert_close(*results)


def test_it_is_a_constructors_argument_and_shows():
    layer = fusedrnn.LSTM(3, 4, recompute=True, num_layers=2)
    assert layer.recompute and "recompute=True" in repr(layer) and layer.num_layers == 2
    assert copy.deepcopy(layer).recompute
    assert not fusedrnn.LSTM(3, 4).recompute and "recompute" not in repr(fusedrnn.LSTM(3, 4))
    assert layer.state_dict().keys() == torch.nn.LSTM(3, 4, num_layers=2).state_dict().keys()
