"""The registered operators keep torch's contract: schema, fake shapes, autograd registration, AOT dispatch."""

import pytest
import torch
from helpers import DTYPES, LAYERS, layer_arguments, random, states
from ragged import LENGTHS, RESET
from torch.nn.utils.rnn import pack_padded_sequence

import fusedrnn

T, B, I, H = 6, 4, 3, 7
OPTIONS = ["plain", "both directions", "no bias", "projection", "lengths", "reset", "packed", "no states", "one step"]
TESTS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def arguments(kind, option, device, grad=True, dtype=torch.float64):
    D = 2 if option == "both directions" else 1
    P = 3 if option == "projection" else H
    G = {"lstm": 4, "gru": 3}.get(kind, 1)
    steps = 1 if option == "one step" else T

    def leaf(*shape):
        return random(*shape, dtype=dtype, device=device).requires_grad_(grad)

    def each(*shape):
        return [leaf(*shape) for _ in range(D)]

    given = {"x": leaf(steps, B, I), "w_ih": each(G * H, I), "w_hh": each(G * H, P)}
    if option != "no bias":
        given |= {"b_ih": each(G * H), "b_hh": each(G * H)}
    if option == "projection":
        given["w_hr"] = each(P, H)
    if option != "no states":
        given["h_0"] = leaf(D, B, P)
        if kind == "lstm":
            given["c_0"] = leaf(D, B, H)
    if option == "lengths":
        given["lengths"] = torch.tensor(LENGTHS, device=device)
    if option == "reset":
        given["reset"] = RESET.to(device)
    if option == "packed":
        packed = pack_padded_sequence(given["x"].detach(), torch.tensor([6, 4, 4, 1]))
        given |= {"x": packed.data.clone().requires_grad_(grad), "batch_sizes": packed.batch_sizes}
    return layer_arguments(cell=kind, reverse=[False, True][:D], cell_states=kind == "lstm", **given)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", LAYERS)
def test_layer_keeps_the_contract(kind, option, device):
    if option == "projection" and kind != "lstm":
        pytest.skip("only LSTM has a projection")
    torch.library.opcheck(torch.ops.fusedrnn.layer.default, arguments(kind, option, device), test_utils=TESTS)


@pytest.mark.parametrize("option", ["both directions", "projection", "packed", "lengths"])
def test_forward_and_backward_keep_the_contract(option, device):
    given = arguments("lstm", option, device, grad=False)
    forward = (*given[:-1], True, False)
    torch.library.opcheck(torch.ops.fusedrnn.layer_forward.default, forward, test_utils=("test_schema", "test_faketensor"))
    y, h_n, c_n, c, saved = torch.ops.fusedrnn.layer_forward(*forward)
    backward = (y, h_n, c_n, None, *given[:-1], y, c, saved, [True] * 8)
    torch.library.opcheck(torch.ops.fusedrnn.layer_backward.default, backward, test_utils=("test_schema", "test_faketensor"))
    torch.library.opcheck(torch.ops.fusedrnn.layer_backward_.default, backward, test_utils=("test_schema",))


@pytest.mark.parametrize("save", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_fake_dtypes_are_the_real_ones(kind, dtype, save, device):
    given = (*arguments(kind, "plain", device, grad=False, dtype=dtype)[:-1], save, kind == "lstm")
    torch.library.opcheck(torch.ops.fusedrnn.layer_forward.default, given, test_utils=("test_faketensor",))


@pytest.mark.parametrize("name", ["x", "w_ih", "b_hh"])
def test_only_what_is_asked_for_gets_a_gradient(name, device):
    given = arguments("gru", "plain", device, grad=False)
    of = lambda arguments: arguments[0] if name == "x" else arguments[3][{"w_ih": 0, "b_hh": 3}[name]]
    leaf = of(given).requires_grad_()
    y, *_ = torch.ops.fusedrnn.layer(*given)
    (gradient,) = torch.autograd.grad(y.sum(), leaf)
    every = arguments("gru", "plain", device)
    with torch.no_grad():
        for to, value in zip(every, given):
            for a, b in zip(to if isinstance(to, list) else [to], value if isinstance(value, list) else [value]):
                if isinstance(a, torch.Tensor):
                    a.copy_(b)
    y, *_ = torch.ops.fusedrnn.layer(*every)
    (expected,) = torch.autograd.grad(y.sum(), of(every))
    assert torch.equal(gradient, expected)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("count", [0, 1, 3, 12])
def test_a_number_of_weights_that_makes_no_layer_is_named(count, grad, device):
    given = arguments("gru", "both directions", device, grad=grad)
    given[3] = (given[3] * 2)[:count]
    with pytest.raises(RuntimeError, match=rf"for each of 2 direction\(s\), w_ih, w_hh, .*; got {count} tensors"):
        torch.ops.fusedrnn.layer(*given)


def test_no_grad_keeps_nothing_for_a_backward(device):
    layer = fusedrnn.LSTM(I, H).to(device)
    with torch.no_grad():
        y, _ = layer(random(T, B, I, dtype=torch.float32, device=device))
    assert y.grad_fn is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_the_shapes_on_cuda_are_known_without_a_device(dtype):
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        x, w_ih, w_hh = (torch.empty(size, device="cuda", dtype=dtype) for size in ((5, 2, 3), (16, 3), (16, 4)))
        arguments = layer_arguments(x=x, w_ih=[w_ih], w_hh=[w_hh], cell="lstm")[:-1]
        y, h_n, c_n, c, saved = torch.ops.fusedrnn.layer_forward(*arguments, True, False)
    assert all(t.device.type == "cuda" for t in (y, h_n, c_n, c, saved))
    assert y.shape == (5, 2, 4) and saved.shape == (10, 1, 16)
    # on CUDA the gates are kept as the input is, c in the arithmetic's type
    assert y.dtype == saved.dtype == dtype and c.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
