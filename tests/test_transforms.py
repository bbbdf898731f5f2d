"""torch.compile, torch.export, forward-mode derivatives and vmap of our modules agree with eager."""

import subprocess
import sys

import pytest
import torch
import torch._dynamo.testing
import torch.autograd.forward_ad as forward_ad
from helpers import CELLS, LAYERS, flat, make, outcome, random
from torch.func import functional_call, grad, hessian, jacrev, stack_module_state, vmap
from torch.nn.utils.rnn import PackedSequence
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._python_dispatch import TorchDispatchMode

import fusedrnn

SIZES = [(5, 3), (7, 2), (9, 6)]  # one graph must serve them all


@pytest.fixture
def graphs():
    """A compiler that runs what it is given as it is, and keeps count."""
    torch._dynamo.reset()
    yield torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()


OPTIONS = {
    "plain": lambda T, B, device: {},
    "lengths": lambda T, B, device: {"lengths": torch.arange(B, device=device) % T + 1},
    "reset": lambda T, B, device: {"reset": random(T, B, device=device) > 0.5},
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", LAYERS)
def test_one_whole_graph_serves_every_size(kind, option, graphs, device):
    layer = make(kind, 4, 8, dtype=torch.float32, device=device, num_layers=2, bidirectional=True)[0]
    compiled = torch.compile(layer, backend=graphs, fullgraph=True, dynamic=True)
    seen = set()
    for T, B in SIZES:
        x, given = random(T, B, 4, dtype=torch.float32, device=device), OPTIONS[option](T, B, device)
        expected = outcome(layer, x, **given)
        x.requires_grad_()
        layer.zero_grad()
        y, _ = compiled(x, **given)
        torch.testing.assert_close(y, expected["y"])
        y.sum().backward()
        gradient = x.grad.clone()
        x.grad = None
        layer(x, **given)[0].sum().backward()
        torch.testing.assert_close(gradient, x.grad)
        seen.add(graphs.frame_count)
    assert len(seen) == 1 and seen != {0}, "sizes after the first were compiled anew"


@pytest.mark.parametrize("given", [lambda n: [n, 1, 3], lambda n: torch.tensor([n, 1, 3])], ids=["list", "tensor"])
def test_other_lengths_need_no_other_graph(given, graphs, device):
    layer, x = make("gru", 4, 8, device=device)[0], random(9, 3, 4, device=device)
    compiled = torch.compile(layer, backend=graphs, fullgraph=True, dynamic=True)
    for n in range(2, 9):
        torch.testing.assert_close(compiled(x, lengths=given(n)), layer(x, lengths=given(n)))
    assert graphs.frame_count <= 2


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cells_compile_to_one_graph(name, graphs, device):
    cell = getattr(fusedrnn, name)(4, 8).to(device)
    compiled = torch.compile(cell, backend=graphs, fullgraph=True)
    x = random(3, 4, dtype=torch.float32, device=device)
    torch.testing.assert_close(compiled(x), cell(x))
    assert graphs.frame_count == 1


def test_other_peoples_torch_layers_are_treated_as_before(graphs):
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(torch.nn.LSTM(4, 8), backend=graphs, fullgraph=True)(torch.randn(5, 3, 4))
    assert torch._dynamo.config.allow_rnn is False


def test_importing_us_does_not_import_dynamo():
    code = "import sys, fusedrnn; sys.exit('torch._dynamo.variables.builder' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("kind", LAYERS)
def test_an_exported_program_takes_other_sizes(kind, device):
    layer = make(kind, 4, 8, dtype=torch.float32, device=device)[0]
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    x = random(5, 3, 4, dtype=torch.float32, device=device)
    program = torch.export.export(layer, (x,), dynamic_shapes=(dynamic,)).module()
    for T, B in SIZES:
        x = random(T, B, 4, dtype=torch.float32, device=device)
        torch.testing.assert_close(program(x), layer(x))


@pytest.mark.parametrize("kind", LAYERS)
def test_forward_mode_derivatives_are_finite_differences(kind, device):
    layer = make(kind, 4, 8, device=device)[0]
    x, direction = random(5, 3, 4, device=device), random(5, 3, 4, device=device)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, direction))[0]).tangent
    step = 1e-6
    with torch.no_grad():
        difference = (layer(x + step * direction)[0] - layer(x - step * direction)[0]) / (2 * step)
    torch.testing.assert_close(tangent, difference, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(torch.func.jvp(lambda x: layer(x)[0], (x,), (direction,))[1], tangent)


@pytest.mark.parametrize("again", [False, True], ids=["", "differentiable"])
@pytest.mark.parametrize("table", [LAYERS, CELLS], ids=["layer", "cell"])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_gradients_own_tangent_passes_the_backward(kind, table, again, device):
    module = make(kind, 4, 8, table=table, device=device)[0]
    x = random(*(() if table is CELLS else (5,)), 3, 4, device=device).requires_grad_()
    h, inputs = flat(module(x))[0], [x, *module.parameters()]
    d_h, tangent = random(*h.shape, device=device), random(*h.shape, device=device)
    with forward_ad.dual_level():
        found = torch.autograd.grad(h, inputs, forward_ad.make_dual(d_h, tangent), retain_graph=True, create_graph=again)
        found = [forward_ad.unpack_dual(d) for d in found]
    values, tangents = (torch.autograd.grad(h, inputs, d, retain_graph=True) for d in (d_h, tangent))  # it is linear
    for (value, its), expected, expected_tangent in zip(found, values, tangents, strict=True):
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(its, expected_tangent)


class Calls(TorchDispatchMode):
    """Counts calls of our operators."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += "fusedrnn" in str(function)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("given", ["x", "h_0", "both", "lengths", "reset", "one unbatched sample"])
@pytest.mark.parametrize("kind", LAYERS)
def test_vmap_makes_samples_rows_of_one_call(kind, given, device):
    layer = make(kind, 4, 8, bidirectional=True, device=device)[0]
    samples, T, B = 6, 5, 3
    rows = () if given == "one unbatched sample" else (B,)
    x = random(*(() if given == "h_0" else (samples,)), T, *rows, 4, device=device)
    hx = random(samples, 2, *rows, 8, device=device) if given in ("h_0", "both") else None
    options = {
        "lengths": lambda: torch.randint(0, T + 1, (samples, B), device=device),
        "reset": lambda: torch.rand(samples, T, B, device=device) < 0.3,
    }
    option = options[given]() if given in options else None

    def run(x, h_0, option):
        states = h_0 if h_0 is None or kind != "lstm" else (h_0, 2 * h_0)
        y, states = layer(x, states, **({} if option is None else {given: option}))
        return y, *(states if kind == "lstm" else [states])

    dims = tuple(None if t is None or (t is x and given == "h_0") else 0 for t in (x, hx, option))
    alone = [run(*(t if dim is None else t[i] for t, dim in zip((x, hx, option), dims))) for i in range(samples)]
    with torch.no_grad(), Calls() as calls:
        together = vmap(run, in_dims=dims)(x, hx, option)
    assert calls.count == 1
    for found, expected in zip(together, zip(*alone, strict=True), strict=True):
        assert torch.equal(found, torch.stack(expected)) or device.type == "cuda"
        torch.testing.assert_close(found, torch.stack(expected))


def test_vmap_in_vmap_and_its_gradient(device):
    layer = make("gru", 4, 8, device=device)[0]
    x = random(3, 5, 2, 2, 4, device=device)  # of three, and of two within
    y = vmap(vmap(lambda x: layer(x)[0], in_dims=1))(x)
    torch.testing.assert_close(y, torch.stack([torch.stack([layer(x[i, :, j])[0] for j in range(2)]) for i in range(3)]))
    of_all = torch.autograd.grad(y.square().sum(), list(layer.parameters()))
    one_by_one = sum(layer(x[i, :, j])[0].square().sum() for i in range(3) for j in range(2))
    torch.testing.assert_close(of_all, torch.autograd.grad(one_by_one, list(layer.parameters())))


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_vmap_over_no_samples_gives_none(dim, device):
    layer, cell = make("lstm", 4, 8, device=device)[0], make("lstm", 4, 8, table=CELLS, device=device)[0]
    x, step = random(5, 3, 4, device=device).unsqueeze(dim)[(slice(None),) * dim + (slice(0),)], random(3, 0, 4, device=device)
    assert vmap(lambda x: layer(x)[0], in_dims=dim)(x).shape == (0, 5, 3, 8)
    assert vmap(lambda x: cell(x)[1], in_dims=1)(step).shape == (0, 3, 8)
    weights, none = dict(layer.named_parameters()), layer.weight_hh_l0.new_zeros(0, 32, 8)
    sample = lambda w: functional_call(layer, {**weights, "weight_hh_l0": w}, (x.new_zeros(5, 3, 4),))[1][0]
    assert vmap(sample)(none).shape == (0, 1, 3, 8)


def test_vmap_over_packed_rows_is_a_loop(device):
    layer = make("lstm", 4, 8, device=device)[0]
    samples = random(3, 7, 4, device=device)
    sizes = torch.tensor([3, 2, 1, 1])
    y = vmap(lambda rows: layer(PackedSequence(rows, sizes))[0].data)(samples)
    torch.testing.assert_close(y, torch.stack([layer(PackedSequence(rows, sizes))[0].data for rows in samples]))


@pytest.mark.parametrize("kind", LAYERS)
def test_per_sample_gradients_are_those_of_a_loop(kind, device):
    layer = make(kind, 4, 8, bidirectional=True, device=device)[0]
    weights, samples = dict(layer.named_parameters()), random(6, 5, 1, 4, device=device)

    def loss(weights, x):
        return functional_call(layer, weights, (x,))[0].square().sum()

    together = vmap(grad(loss), in_dims=(None, 0))(weights, samples)
    for i, sample in enumerate(samples):
        alone = torch.autograd.grad(loss(weights, sample), list(weights.values()))
        for gradients, gradient in zip(together.values(), alone, strict=True):
            torch.testing.assert_close(gradients[i], gradient)


@pytest.mark.parametrize("kind", LAYERS)
def test_an_ensemble_of_stacked_weights_is_a_loop(kind, device):
    models = [make(kind, 4, 8, device=device)[0] for _ in range(3)]
    weights, _ = stack_module_state(models)
    x = random(5, 2, 4, device=device)
    together = vmap(lambda w: functional_call(models[0], w, (x,))[0])(weights)
    torch.testing.assert_close(together, torch.stack([model(x)[0] for model in models]))


@pytest.mark.parametrize("kind", ["rnn_tanh", "lstm", "projected", "gru"])
def test_vmap_over_one_parameter_alone_is_a_loop(kind, device):
    """Whichever: the dispatcher has to see a bias or a projection that is vmapped where nothing else is."""
    given = {"proj_size": 3} if kind == "projected" else {}
    layer = make("lstm" if given else kind, 4, 6, device=device, bidirectional=True, **given)[0]
    x = random(5, 2, 4, device=device)
    for name, weight in layer.named_parameters():
        samples = random(3, *weight.shape, device=device)
        run = lambda w: functional_call(layer, {name: w}, (x,))[0]
        torch.testing.assert_close(vmap(run)(samples), torch.stack([run(w) for w in samples]))


@pytest.mark.parametrize("kind", ["rnn_tanh", "lstm", "projected", "gru"])
def test_one_wrapped_parameter_wraps_the_result(kind, device):
    """Whichever again: a kernel that was given a wrapper would read through a pointer to nothing."""
    given = {"proj_size": 3} if kind == "projected" else {}
    layer = make("lstm" if given else kind, 4, 6, device=device, **given)[0]
    x = random(5, 2, 4, device=device)
    expected = layer(x)[0]
    for name, weight in layer.named_parameters():
        wrapped = TwoTensor(weight.detach(), weight.detach().clone())
        y = functional_call(layer, {name: wrapped}, (x,))[0]
        assert isinstance(y, TwoTensor)
        torch.testing.assert_close(y.a, expected)
        torch.testing.assert_close(y.b, expected)


@pytest.mark.parametrize("kind", ["rnn_tanh", "lstm", "gru"])
def test_hessians_are_those_of_autograd(kind, device):
    layer = make(kind, 2, 3, device=device)[0]
    x = random(3, 1, 2, device=device)

    def loss(x):
        return layer(x)[0].square().sum()

    expected = torch.autograd.functional.hessian(loss, x)
    torch.testing.assert_close(hessian(loss)(x), expected)
    torch.testing.assert_close(jacrev(grad(loss))(x), expected)


@pytest.mark.parametrize("kind", LAYERS)
def test_batched_gradients_are_those_of_a_loop(kind, device):
    layer = make(kind, 4, 8, device=device, bidirectional=True)[0]
    x = random(5, 3, 4, device=device).requires_grad_()
    y, h_n = flat(layer(x))[:2]
    inputs, d_y, d_h_n = [x, layer.weight_hh_l0], random(6, *y.shape, device=device), random(6, *h_n.shape, device=device)
    together = torch.autograd.grad([y, h_n], inputs, [d_y, d_h_n], is_grads_batched=True, retain_graph=True)
    one_by_one = [torch.autograd.grad([y, h_n], inputs, [a, b], retain_graph=True) for a, b in zip(d_y, d_h_n)]
    for mine, theirs in zip(together, zip(*one_by_one)):
        torch.testing.assert_close(mine, torch.stack(theirs))


@pytest.mark.parametrize("table", [LAYERS, CELLS], ids=["layer", "cell"])
@pytest.mark.parametrize("kind", LAYERS)
def test_vmap_of_gradients_is_a_loop(kind, table, device):
    module = make(kind, 4, 8, table=table, device=device)[0]
    h = flat(module(random(*(() if table is CELLS else (5,)), 3, 4, device=device).requires_grad_()))[0]
    d_h, inputs = random(6, *h.shape, device=device), list(module.parameters())
    together = vmap(lambda d: torch.autograd.grad(h, inputs, d, retain_graph=True))(d_h)
    one_by_one = [torch.autograd.grad(h, inputs, d, retain_graph=True) for d in d_h]
    for mine, theirs in zip(together, zip(*one_by_one), strict=True):
        torch.testing.assert_close(mine, torch.stack(theirs))


def test_a_vectorized_jacobian_is_that_of_a_loop(device):
    layer, x = make("lstm", 2, 3, device=device)[0], random(4, 2, 2, device=device)
    loops, vectorized = (
        torch.autograd.functional.jacobian(lambda x: layer(x)[0].sum(0), x, vectorize=v) for v in (False, True)
    )
    torch.testing.assert_close(vectorized, loops)

