"""The last backward through a graph writes the gates' gradients over what was saved; nobody else may notice."""

import contextlib
import itertools

import pytest
import torch
from helpers import CELLS, DTYPES, LAYERS, flat, loss, make, named, random, states
from ragged import OPTIONS, B, H, I, T, given_on
from simt.extension import host_executor
from torch.nn.utils.rnn import pack_padded_sequence
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.memory import peak


def run(kind, option="plain", dtype=torch.float64, device="cpu", used=None):
    """A loss of a layer, and all that it may be differentiated by."""
    kwargs = {"proj_size": 3} if option == "projection" else {}
    layer = make(kind, I, H, dtype=dtype, device=device, bidirectional=True, **kwargs)[0]
    x = random(T, B, I, dtype=dtype, device=device).requires_grad_()
    hx = states(kind, 2, B, H, P=kwargs.get("proj_size"), dtype=dtype, device=device)
    given = given_on(device, option) if option in OPTIONS else {}
    layer.recompute = option == "recompute"
    leaves = [x, *(state.requires_grad_() for state in flat(hx)), *layer.parameters()]
    input = pack_padded_sequence(x, [6, 4, 4, 1]) if option == "packed" else x
    return loss(named(layer(input, hx, **given)), used), leaves


def assert_the_last_is_as_the_first(value, leaves, exactly=True):
    gradients = [torch.autograd.grad(value, leaves, retain_graph=keep, allow_unused=True) for keep in (True, True, False)]
    for first, second, last in zip(*gradients, strict=True):
        assert torch.equal(first, second)
        if exactly:
            assert torch.equal(first, last)
        else:
            torch.testing.assert_close(first, last)


CASES = [*itertools.product(LAYERS, [*OPTIONS, "packed", "recompute"]), ("lstm", "projection")]


@pytest.mark.parametrize("kind, option", CASES)
def test_the_last_backward_is_as_the_first(kind, option, device):
    # In place, a projected layer's gradients lie farther apart, and a library's GEMM may be another one for that.
    exactly = device.type == "cpu" or option != "projection"
    assert_the_last_is_as_the_first(*run(kind, option, device=device), exactly)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_the_last_backward_is_as_the_first_in_every_dtype(kind, dtype, device):
    assert_the_last_is_as_the_first(*run(kind, dtype=dtype, device=device))


CUDA = [*itertools.product(["lstm", "gru"], ["stepwise", "persistent"], ["plain"]), ("lstm", "stepwise", "projection")]


@pytest.mark.parametrize("kind, strategy, option", CUDA)
def test_the_cuda_path_too(kind, strategy, option):
    with host_executor("A100", strategy):
        assert_the_last_is_as_the_first(*run(kind, option, torch.float32))


@pytest.mark.parametrize("kind", LAYERS)
def test_what_a_hook_holds_is_left_alone(kind, device):
    held = []

    def hold(tensor):
        held.append((tensor, tensor.clone()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        value, leaves = run(kind, device=device)
    value.backward()
    assert len(held) > 5 and all(torch.equal(tensor, before) for tensor, before in held)


@pytest.mark.parametrize("option", [*OPTIONS, "packed"])
@pytest.mark.parametrize("kind", LAYERS)
def test_an_error_behind_the_last_backward_leaves_the_graph_as_it_was(kind, option, device):
    layer, x = make(kind, I, H, device=device, bidirectional=True)[0], random(T, B, I, device=device).requires_grad_()
    given = given_on(device, option) if option in OPTIONS else {}
    y = named(layer(pack_padded_sequence(x, [6, 4, 4, 1]) if option == "packed" else x, **given))["y"]
    leaves, d_y = [x, *layer.parameters()], random(*y.shape, device=device)
    expected = torch.autograd.grad(y, leaves, d_y, retain_graph=True)
    hook = y.grad_fn.register_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        torch.autograd.grad(y, leaves, 2 * d_y)
    hook.remove()
    for found, other in zip(torch.autograd.grad(y, leaves, d_y), expected, strict=True):
        torch.testing.assert_close(found, other)


@pytest.mark.parametrize("again", [False, True], ids=["", "differentiable"])
@pytest.mark.parametrize("table", [LAYERS, CELLS], ids=["layer", "cell"])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_hook_may_differentiate_the_graph_that_is_being_left(kind, table, again, device):
    module, x = make(kind, I, H, table=table, device=device)[0], random(*(() if table is CELLS else (T,)), B, I, device=device)
    h = flat(module(x.requires_grad_()))[0]
    total, found = h.sum(), []
    (expected,) = torch.autograd.grad(total, x, retain_graph=True)

    def differentiate(*_):
        if not found:  # the node's own hook is called again within
            found.append(None)
            found.extend(torch.autograd.grad(total, x, retain_graph=True, create_graph=again))

    h.grad_fn.register_hook(differentiate)
    h.square().sum().backward()
    torch.testing.assert_close(found[1], expected)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_batch_of_gradients_reads_what_was_saved_again_and_again(kind):
    value, leaves = run(kind)
    batch = torch.tensor([1.0, -2.0, 0.5], dtype=value.dtype)
    (expected,) = torch.autograd.grad(value, leaves[:1], retain_graph=True)
    (found,) = torch.autograd.grad(value, leaves[:1], batch, is_grads_batched=True)
    torch.testing.assert_close(found, batch[:, None, None, None] * expected)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_no_backward_makes_a_second_set_of_gates(kind):
    T, B, I, H = 2048, 8, 4, 64  # 16384 rows, of which a backward that may not write over them takes 768 at a time
    layer = make(kind, I, H, dtype=torch.float32)[0]
    gates = T * B * 4 * H * 4  # bytes: four values of a unit, GRU's too

    def bytes_of_a_backward(keep):
        y = layer(random(T, B, I, dtype=torch.float32))[0].sum()
        return peak(lambda: torch.autograd.grad(y, layer.parameters(), retain_graph=keep))

    last, other = bytes_of_a_backward(keep=False), bytes_of_a_backward(keep=True)
    assert last < other < 0.5 * gates


def test_the_profiler_names_the_operator():
    value, _ = run("gru")
    with profile(activities=[ProfilerActivity.CPU]) as watch:
        value.backward()
    assert "fusedrnn::layer_backward_" in {event.key for event in watch.key_averages()}


@pytest.mark.parametrize("kind", LAYERS)
def test_what_a_dispatch_mode_has_kept_is_not_written_over(kind, device):
    """Neither in a backward that the mode sees, nor in one after it."""

    class Keeps(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            results = function(*args, **(kwargs or {}))
            kept.extend(leaf for leaf in tree_leaves(results) if isinstance(leaf, torch.Tensor))
            return results

    for seen in (False, True):
        layer, x, kept = make(kind, I, H, device=device)[0], random(T, B, I, device=device), []
        with Keeps():
            y = layer(x)[0]
        outputs = list(kept)
        before = [tensor.clone() for tensor in outputs]
        with Keeps() if seen else contextlib.nullcontext():
            y.sum().backward()
        assert before and all(torch.equal(*pair) for pair in zip(before, outputs))
