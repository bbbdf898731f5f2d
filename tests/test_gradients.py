"""First and second derivatives of the op in float64, against finite differences."""

import pytest
import torch
from helpers import LAYERS, layer_arguments, random
from torch.autograd import gradcheck, gradgradcheck

import fusedrnn  # noqa: F401  registers the op
from fusedrnn.reference import GATES

T, B, I, H = 3, 2, 2, 2
RESET = torch.tensor([[0, 1], [1, 0], [0, 1]]).bool()
ROLES = ("w_ih", "w_hh", "b_ih", "b_hh", "w_hr")

# name → directions, projection, what else is given
OPTIONS = {
    "plain": ([False], False, {}),
    "reverse": ([True], False, {}),
    "bidirectional": ([False, True], False, {}),
    "lengths": ([False, True], False, {"lengths": torch.tensor([1, 3])}),
    "reset": ([False, True], False, {"reset": RESET}),
    "reset to hx": ([False, True], False, {"reset": RESET, "reset_to_hx": True}),
    "packed": ([False, True], False, {"batch_sizes": torch.tensor([2, 2, 1])}),
}
CASES = [(kind, option) for kind in LAYERS for option in OPTIONS] + [("lstm", "projection")]
OPTIONS["projection"] = ([False, True], True, {"lengths": torch.tensor([3, 2]), "cell_states": True})


def problem(kind, option, device):
    """The op as a function of its differentiable inputs alone, and those inputs."""
    reverse, projected, given = OPTIONS[option]
    D, G, P = len(reverse), GATES[kind], 1 if projected else H
    x = random(5, I, device=device) if option == "packed" else random(T, B, I, device=device)
    shapes = {"w_ih": (G * H, I), "w_hh": (G * H, P), "b_ih": (G * H,), "b_hh": (G * H,)}
    if projected:
        shapes["w_hr"] = (P, H)
    inputs = {"x": x, "h_0": random(D, B, P, device=device)}
    if kind == "lstm":
        inputs["c_0"] = random(D, B, H, device=device)
    for role, shape in shapes.items():
        for d in range(D):
            inputs[f"{role}{d}"] = random(*shape, device=device)
    names = list(inputs)
    given = {key: value.to(device) if key == "reset" else value for key, value in given.items()}

    def run(*tensors):
        named = dict(zip(names, tensors))
        lists = {role: [named[f"{role}{d}"] for d in range(D)] for role in shapes}
        single = {name: named[name] for name in ("x", "h_0", "c_0") if name in named}
        arguments = layer_arguments(**single, **lists, cell=kind, reverse=reverse, **given)
        return [output for output in torch.ops.fusedrnn.layer(*arguments) if output.numel() and output.requires_grad]

    return run, [tensor.requires_grad_() for tensor in inputs.values()]


@pytest.mark.parametrize("kind, option", CASES, ids=[f"{kind}-{option}" for kind, option in CASES])
def test_gradients_agree_with_finite_differences(kind, option, device):
    run, inputs = problem(kind, option, device)
    assert gradcheck(run, inputs)


@pytest.mark.parametrize("kind, option", CASES, ids=[f"{kind}-{option}" for kind, option in CASES])
def test_second_gradients_agree_with_finite_differences(kind, option, device):
    run, inputs = problem(kind, option, device)
    assert gradgradcheck(run, inputs)


@pytest.mark.parametrize("kind", LAYERS)
def test_gradient_penalty_trains(kind, device):
    run, inputs = problem(kind, "bidirectional", device)
    (d_x,) = torch.autograd.grad(run(*inputs)[0].sum(), inputs[0], create_graph=True)
    penalty = (d_x.norm() - 1) ** 2
    w_ih = inputs[3 if kind == "lstm" else 2]
    (d_w_ih,) = torch.autograd.grad(penalty, w_ih)
    assert d_w_ih.isfinite().all() and d_w_ih.abs().max() > 0
