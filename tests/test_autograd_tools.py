"""What torch builds on autograd works with our layers: checkpoints, hooks, anomaly mode, parametrizations, …"""

import copy
import traceback
import warnings

import pytest
import torch
from helpers import CELLS, LAYERS, flat, make, outcome, random, states, without_cudnn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.func import functional_call
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

T, B, I, H = 6, 3, 4, 7
OPTIONS = {
    "plain": {},
    "lengths": {"lengths": [6, 0, 4]},
    "reset": {"reset": torch.arange(T * B).view(T, B) % 4 == 0},
}


def options_on(device):
    return {name: {k: v.to(device) if k == "reset" else v for k, v in given.items()} for name, given in OPTIONS.items()}


def assert_alike(ours, expected):
    assert ours.keys() == expected.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], expected[name], msg=lambda text, name=name: f"{name}: {text}")


class Changed(torch.nn.Module):
    """A layer whose forward is called by `call(layer, *args)`, for what wraps a call."""

    def __init__(self, layer, call):
        super().__init__()
        self.layer, self.call = layer, call

    def forward(self, *args, **kwargs):
        return self.call(lambda *args: self.layer(*args, **kwargs), *args)


def with_hooks(context):
    def call(layer, *args):
        with context():
            return layer(*args)

    return call


def reentrant(layer, x, hx):
    """Reentrant checkpoints see no tensors inside tuples, of whatever module: they get and give them flat."""
    is_lstm = isinstance(hx, tuple)
    y, *last = checkpoint(
        lambda x, *hx: tuple(flat(layer(x, hx if is_lstm else hx[0]))), x, *flat(hx), use_reentrant=True
    )
    return y, tuple(last) if is_lstm else last[0]


def as_numpy():
    return saved_tensors_hooks(lambda t: (t.cpu().numpy(), t.device), lambda s: torch.from_numpy(s[0]).to(s[1]))


WAYS = {
    "checkpoint": lambda layer, *args: checkpoint(layer, *args, use_reentrant=False),
    "reentrant checkpoint": reentrant,
    "saved on the CPU": with_hooks(save_on_cpu),
    "saved as copies": with_hooks(lambda: saved_tensors_hooks(torch.clone, torch.clone)),
    "saved as arrays": with_hooks(as_numpy),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", LAYERS)
def test_values_kept_otherwise_give_the_same_gradients(kind, way, device):
    layer = make(kind, I, H, num_layers=2, bidirectional=True, device=device)[0]
    x, hx = random(T, B, I, device=device), states(kind, 4, B, H, device=device)
    for given in options_on(device).values():
        expected = outcome(layer, x, hx, **given)
        ours = outcome(Changed(layer, WAYS[way]), x, hx, **given)
        assert_alike({name.replace("layer.", ""): value for name, value in ours.items()}, expected)


@pytest.mark.parametrize("kind", LAYERS)
def test_everything_kept_goes_through_the_hooks(kind, device):
    layer = make(kind, I, H, device=device)[0]
    packed, unpacked = [], []
    with saved_tensors_hooks(lambda t: (packed.append(t), t)[1], lambda t: (unpacked.append(t), t)[1]):
        y = layer(random(T, B, I, device=device))[0]
    assert not unpacked and any(t.shape == y.shape for t in packed)
    y.sum().backward()
    assert len(unpacked) == len(packed)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_checkpoint_keeps_none_of_the_steps(kind, device):
    layer, kept = make(kind, I, H, device=device)[0], []
    x = random(T, B, I, device=device).requires_grad_()
    with saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
        checkpoint(layer, x, use_reentrant=False)
    assert sum(kept) <= x.numel()


def test_anomaly_mode_names_the_layer_and_where_it_was_called(device):
    layer, x = make("gru", I, H, device=device)[0], random(T, B, I, device=device)
    with warnings.catch_warnings(record=True) as said, torch.autograd.set_detect_anomaly(True):
        warnings.simplefilter("always")
        y = layer(x)[0]
        y.register_hook(lambda gradient: gradient * float("nan"))
        with pytest.raises(RuntimeError, match="Function '.*fusedrnn.*LayerFunction.*' returned nan values"):
            y.sum().backward()
    assert any("y = layer(x)[0]" in str(warning.message) for warning in said)


def test_anomaly_mode_lets_sound_gradients_pass(device):
    layer, x = make("lstm", I, H, device=device)[0], random(T, B, I, device=device)
    expected = outcome(layer, x)
    with warnings.catch_warnings(), torch.autograd.set_detect_anomaly(True):
        assert_alike(outcome(layer, x), expected)


@pytest.mark.parametrize("kind", LAYERS)
def test_hooks_run_as_on_torchs_layers(kind, device):
    def log_of(layer):
        seen = []
        for name, weight in layer.named_parameters():
            weight.register_hook(lambda grad, name=name: seen.append((name, "grad", grad.sum().item())))
            weight.register_post_accumulate_grad_hook(lambda w, n=name: seen.append((n, "kept", w.grad.sum().item())))
        layer.register_forward_pre_hook(lambda module, args: (seen.append(("forward", "pre", 0.0)), args)[1])
        layer.register_forward_hook(lambda module, args, out: seen.append(("forward", "", flat(out)[0].sum().item())))
        layer.register_full_backward_pre_hook(lambda module, out: seen.append(("backward", "pre", out[0].sum().item())))
        layer.register_full_backward_hook(lambda module, into, out: seen.append(("backward", "", into[0].sum().item())))
        layer(x.clone().requires_grad_())[0].square().sum().backward()
        return sorted(seen)

    x = random(T, B, I, device=device)
    ours, torchs, _ = make(kind, I, H, device=device)
    mine, theirs = log_of(ours), log_of(torchs)
    assert [entry[:2] for entry in mine] == [entry[:2] for entry in theirs] and len(mine) == 12
    assert [entry[2] for entry in mine] == pytest.approx([entry[2] for entry in theirs], abs=1e-9)


@pytest.mark.parametrize("kind", LAYERS)
def test_an_optimizer_step_inside_the_backward(kind, device):
    """Each weight steps and drops its gradient as soon as it is there, as large models do to save memory."""
    ours, torchs, _ = make(kind, I, H, device=device)
    x = random(T, B, I, device=device)
    for layer in (ours, torchs):
        for weight in layer.parameters():
            optimizer = torch.optim.SGD([weight], lr=0.1)

            def step(_, optimizer=optimizer):
                optimizer.step()
                optimizer.zero_grad()

            weight.register_post_accumulate_grad_hook(step)
        for _ in range(5):
            layer(x)[0].square().mean().backward()
    for mine, theirs in zip(ours.parameters(), torchs.parameters()):
        torch.testing.assert_close(mine, theirs)
        assert mine.grad is None


class Symmetric(torch.nn.Module):
    """Gives every gate a symmetric matrix, of the upper triangle of what is learned."""

    def forward(self, weight):
        gates = weight.unflatten(0, (-1, weight.size(1)))
        return (gates.triu() + gates.triu(1).transpose(1, 2)).flatten(0, 1)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_parametrized_weight_trains_as_with_torch(kind, device):
    ours, torchs, _ = make(kind, I, H, device=device)
    x, losses = random(T, B, I, device=device), []
    for layer in (ours, torchs):
        parametrize.register_parametrization(layer, "weight_hh_l0", Symmetric())
        optimizer, history = torch.optim.Adam(layer.parameters(), lr=0.02), []
        for _ in range(20):
            loss = (layer(x)[0] - 0.3).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
        losses.append(history)
    assert losses[1][-1] < 0.8 * losses[1][0]  # it learns
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


class Counted(torch.nn.Module):
    """Counts how often a weight is made."""

    count = 0

    def forward(self, weight):
        self.count += 1
        return weight * 1


@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0"])
@pytest.mark.parametrize("given", ["x", "h_0", "packed", "unbatched"])
def test_a_parametrization_runs_once_a_call(given, name, device):
    layer, counted = make("gru", I, H, device=device)[0], Counted()
    x = random(*((T, I) if given == "unbatched" else (T, B, I)), device=device)
    parametrize.register_parametrization(layer, name, counted)
    counted.count = 0
    layer(pack_sequence([x[:, 0], x[:2, 1]]) if given == "packed" else x, states("gru", 1, B, H, device=device) if given == "h_0" else None)
    assert counted.count == 1
    with pytest.raises(ValueError, match="RNN input dtype .torch.float16. does not match weight dtype .torch.float64."):
        layer(x.half())


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "and backward"])
@pytest.mark.parametrize("table", [LAYERS, CELLS], ids=["layer", "cell"])
@pytest.mark.parametrize("kind", LAYERS)
def test_products_are_counted_as_torchs(kind, table, backward, device):
    counts = []
    for module in make(kind, I, H, table=table, device=device)[:2]:
        with without_cudnn(), FlopCounterMode(display=False) as counter:  # which counts nothing of cuDNN's
            h = flat(module(random(*(() if table is CELLS else (T,)), B, I, device=device)))[0]
            if backward:
                h.sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def maml(layer, x, target):
    """The loss after two inner steps of gradient descent, and its gradient through them."""
    weights = dict(layer.named_parameters())
    fast = weights
    for _ in range(2):
        inner = (functional_call(layer, fast, (x,))[0] - target).square().mean()
        gradients = torch.autograd.grad(inner, list(fast.values()), create_graph=True)
        fast = {name: weight - 0.5 * g for (name, weight), g in zip(fast.items(), gradients, strict=True)}
    outer = (functional_call(layer, fast, (x.flip(0),))[0] - target).square().mean()
    return outer, *torch.autograd.grad(outer, list(weights.values()))


def gradient_penalty(layer, x, target):
    """Of a critic: how far the norm of its gradient by the input is from one; and that penalty's gradients."""
    x = x.clone().requires_grad_()
    (by_input,) = torch.autograd.grad(layer(x)[0].sum(), x, create_graph=True)
    penalty = (by_input.flatten(1).norm(dim=1) - 1).square().mean()
    return penalty, *torch.autograd.grad(penalty, list(layer.parameters()), allow_unused=True)


@pytest.mark.parametrize("use", [maml, gradient_penalty], ids=["MAML", "gradient penalty"])
@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_of_gradients_are_torchs(kind, use, device):
    if device.type == "cuda":
        pytest.skip("torch.nn on CUDA has no double backward to compare with")
    ours, torchs, _ = make(kind, I, H)
    x, target = random(T, B, I), random(T, B, H)
    results = [use(layer, x, target) for layer in (ours, torchs)]
    for mine, theirs in zip(*results, strict=True):
        # torch's replay leaves a weight without gradient where ours says zero
        torch.testing.assert_close(mine, torch.zeros_like(mine) if theirs is None else theirs)
    assert results[0][0] > 0


def derivatives_of_derivatives(layer, x):
    """Of the first to the fourth, by the input and all weights: each of the sum of the squares of those before."""
    x, found = x.clone().requires_grad_(), []
    value = (layer(x)[0] ** 3).sum()
    for _ in range(4):
        gradients = torch.autograd.grad(value, [x, *layer.parameters()], create_graph=True, allow_unused=True)
        found += gradients
        value = sum((g**2).sum() for g in gradients if g is not None) / 100
    return found


def products_with_the_hessian(layer, x):
    return [torch.autograd.functional.hvp(lambda x: (layer(x)[0] ** 3).sum(), x, torch.ones_like(x))[1]]


@pytest.mark.parametrize("use", [derivatives_of_derivatives, products_with_the_hessian])
@pytest.mark.parametrize("tied", [False, True], ids=["", "tied"])
@pytest.mark.parametrize("table", [LAYERS, CELLS], ids=["layer", "cell"])
@pytest.mark.parametrize("kind", LAYERS)
def test_derivatives_of_any_order_are_torchs(kind, table, tied, use, device):
    if device.type == "cuda":
        pytest.skip("torch.nn on CUDA has no double backward to compare with")
    is_cell = table is CELLS
    ours, torchs, _ = make(kind, I, I, table=table, **({} if is_cell else {"bidirectional": True}))
    x, suffix = (random(B, I), "") if is_cell else (random(3, B, I), "_l0")
    for layer in (ours, torchs):
        if tied:
            setattr(layer, "weight_hh" + suffix, getattr(layer, "weight_ih" + suffix))
    for mine, theirs in zip(use(ours, x), use(torchs, x), strict=True):
        torch.testing.assert_close(mine, torch.zeros_like(mine) if theirs is None else theirs)


@pytest.mark.parametrize("kind", LAYERS)
def test_deterministic_algorithms_repeat_to_the_bit(kind, device):
    layer = make(kind, I, 32, dtype=torch.float32, num_layers=2, bidirectional=True, device=device)[0]
    x = random(50, 16, I, dtype=torch.float32, device=device)
    torch.use_deterministic_algorithms(True)
    try:
        first, again = outcome(layer, x), outcome(layer, x)
    finally:
        torch.use_deterministic_algorithms(False)
    for name in first:
        assert torch.equal(first[name], again[name]), name


@pytest.mark.parametrize("kind", LAYERS)
def test_inference_mode_gives_the_same_without_a_graph(kind, device):
    layer = make(kind, I, H, device=device)[0]
    x, hx = random(T, B, I, device=device), states(kind, 1, B, H, device=device)
    for given in options_on(device).values():
        with torch.inference_mode():
            inside = flat(layer(x, hx, **given))
        for ours, expected in zip(inside, flat(layer(x, hx, **given)), strict=True):
            assert ours.is_inference() and torch.equal(ours, expected)


@pytest.mark.parametrize("kind", LAYERS)
def test_an_input_of_inference_mode_may_train_what_follows(kind, device):
    layer = make(kind, I, H, device=device, batch_first=True)[0]
    with torch.inference_mode():
        x = random(B, T, I, device=device)
    gradients = [torch.autograd.grad((layer(given)[0] ** 2).sum(), list(layer.parameters())) for given in (x, x.clone())]
    for mine, expected in zip(*gradients, strict=True):
        assert torch.equal(mine, expected)


@pytest.mark.parametrize("given", ["packed", "lengths", "reset"])
@pytest.mark.parametrize("kind", LAYERS)
def test_what_was_packed_in_inference_mode_may_train_what_follows(kind, given, device):
    layer, x = make(kind, I, H, device=device)[0], random(T, B, I, device=device)
    packed, values = pack_padded_sequence(x, [6, 4, 1]), {"lengths": torch.tensor([6, 4, 1]), "reset": torch.eye(T, B) > 0}

    def gradients(of):
        if given == "packed":
            y = layer(PackedSequence(packed.data, of(packed.batch_sizes)))[0].data
        else:
            y = layer(x, **{given: of(values[given].to(device))})[0]
        return torch.autograd.grad(y.square().sum(), list(layer.parameters()))

    def inferred(t):
        with torch.inference_mode():
            return t.clone()

    for mine, expected in zip(gradients(inferred), gradients(torch.clone), strict=True):
        assert torch.equal(mine, expected)


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_matmul_precision_is_torchs_to_set(precision, device):
    """Whatever it allows the products, results stay those of float64 within what that setting promises."""
    layer, _, exact = make("lstm", I, 64, dtype=torch.float32, device=device)
    x = random(T, B, I, dtype=torch.float32, device=device)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        y = layer(x)[0]
    finally:
        torch.set_float32_matmul_precision(before)
    mantissa = {"highest": 1e-6, "high": 1e-3, "medium": 1e-2}[precision]  # float32, TF32, bfloat16
    assert (y - exact(x.double())[0]).abs().max() < mantissa


def test_a_deep_copy_has_a_graph_of_its_own(device):
    layer = make("lstm", I, H, device=device)[0]
    copied, x = copy.deepcopy(layer), random(T, B, I, device=device)
    copied(x)[0].sum().backward()
    assert all(w.grad is None for w in layer.parameters()) and all(w.grad is not None for w in copied.parameters())


def test_an_error_in_a_hook_comes_out_as_it_is(device):
    layer = make("gru", I, H, device=device)[0]
    y = layer(random(T, B, I, device=device))[0]

    def hook(gradient):
        raise KeyError("mine")

    layer.weight_hh_l0.register_hook(hook)
    with pytest.raises(KeyError, match="mine") as error:
        y.sum().backward()
    assert "in hook" in "".join(traceback.format_tb(error.value.__traceback__))
