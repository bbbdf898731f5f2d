"""A backward of many rows that may not write over what was saved takes its steps a stretch at a time, and sums between."""

import subprocess
from pathlib import Path

import pytest
import torch
from helpers import LAYERS, doubled, make, mapped, outcome, random, states
from tolerances import assert_all_close
from torch.nn.utils.rnn import pack_padded_sequence

import fusedrnn
from benchmarks.memory import peak

T, B, I, H = 64, 45, 5, 9  # 2880 rows, of which a stretch has 765: 17 steps
SHORT = [1 + (7 * b) % T for b in range(B)]  # so many steps that stretches of the two directions end at different ones


def given(option, device):
    reset = (torch.rand(T, B, generator=torch.Generator().manual_seed(3)) < 0.05).to(device)
    if option == "lengths":
        return {"lengths": SHORT}
    if option == "reset":
        return {"reset": reset, "lengths": SHORT}
    return {"reset": reset, "reset_to": "hx"} if option == "reset to hx" else {}


def test_every_sequence_has_one_part_of_the_batch(tmp_path):
    program, here = tmp_path / "sequences_check", Path(__file__).parent
    files = [str(here / "sequences_check.cpp"), str(here.parent / "csrc/cpu/stretch.cpp")]
    subprocess.run(["g++", "-std=c++20", "-O2", "-Wall", *files, "-o", str(program)], check=True)
    run = subprocess.run([str(program)], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout


CASES = [(kind, option) for kind in LAYERS for option in ("plain", "packed", "lengths", "reset", "reset to hx")]
CASES += [("lstm", "projection"), ("lstm", "projection, lengths")]


def case(kind, option, device, dtype=torch.float64):
    projection = {"proj_size": 4} if option.startswith("projection") else {}
    layers = make(kind, I, H, dtype=dtype, device=device, bidirectional=True, **projection)
    x = random(T, B, I, dtype=dtype, device=device)
    hx = states(kind, 2, B, H, P=projection.get("proj_size"), dtype=dtype, device=device)
    return layers, x, hx, given(option.removeprefix("projection, "), device)


def gradients(layer, x, hx, ways, packed=False, sequences=slice(None), **given):
    """What a loss of some sequences gives the input and the layer's parameters, each time that it is asked."""
    x = x[:, sequences].clone().requires_grad_()
    hx = mapped(lambda state: state[:, sequences], hx)
    given = {k: v[:, sequences] if k == "reset" else v[sequences] if k == "lengths" else v for k, v in given.items()}
    pack = lambda padded: pack_padded_sequence(padded, SHORT[sequences], enforce_sorted=False)
    y = layer(pack(x) if packed else x, hx, **given)[0]
    width = (y.data if packed else y).shape[-1]
    weights = torch.sin(torch.arange(T * B * width, dtype=x.dtype, device=x.device)).view(T, B, width)[:, sequences]
    loss = (y.data * pack(weights).data if packed else y * weights).sum()
    return [torch.autograd.grad(loss, [x, *layer.parameters()], retain_graph=keep) for keep in ways]


def summed_over_parts(layer, x, hx, **given):
    """The same of all sequences, some at a time: too few rows for a second stretch."""
    parts = [gradients(layer, x, hx, (False,), sequences=slice(b, b + 11), **given)[0] for b in range(0, B, 11)]
    of_x, *of_parameters = zip(*parts, strict=True)
    return [torch.cat(of_x, 1), *map(sum, of_parameters)]


@pytest.mark.parametrize("kind, option", CASES)
def test_gradients_are_those_of_a_single_stretch(kind, option, kernels, threads):
    (layer, _, _), x, hx, options = case(kind, option, kernels)
    options["packed"] = option == "packed"
    expected = summed_over_parts(layer, x, hx, **options)
    for count in (1, 4):
        threads(count)
        kept, last = gradients(layer, x, hx, (True, False), **options)
        layer.recompute = True
        (again,) = gradients(layer, x, hx, (False,), **options)
        layer.recompute = False
        for found in (kept, last, again):
            for ours, theirs in zip(found, expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("kind", LAYERS)
def test_bits_do_not_depend_on_the_threads(kind, kernels, threads):
    (layer, _, _), x, hx, options = case(kind, "lengths", kernels, torch.float32)
    found = []
    for count in (1, 2, 4):
        threads(count)
        found += gradients(layer, x, hx, (True,), **options)
    for first, *others in zip(*found, strict=True):
        assert all(torch.equal(first, other) for other in others)


# An RNN saves nothing that could be written over.
@pytest.mark.parametrize("kind", ["rnn_tanh", "rnn_relu"])
@pytest.mark.parametrize("option", ["plain", "packed"])
def test_an_rnn_is_as_near_to_the_truth_as_torchs(kind, option, kernels):
    (ours, torchs, truth), x, hx, _ = case(kind, option, kernels, torch.float32)
    given = (lambda x: pack_padded_sequence(x, SHORT, enforce_sorted=False)) if option == "packed" else (lambda x: x)
    true = outcome(truth, given(x.double()), doubled(hx))
    assert_all_close(outcome(ours, given(x), hx), outcome(torchs, given(x), hx), true)


def test_memory_does_not_grow_with_the_steps_beyond_input_and_output():
    def bytes_of_a_step(T):
        x = random(T, 8, 64, dtype=torch.float32).requires_grad_()
        d_y = random(T, 8, 64, dtype=torch.float32)
        return peak(lambda: torch.autograd.grad(layer(x)[0], [x, *layer.parameters()], d_y))

    layer = fusedrnn.RNN(64, 64)
    row = 8 * 64 * 4  # bytes of a step's y, and of its d_x
    assert bytes_of_a_step(2000) - bytes_of_a_step(1000) == pytest.approx(1000 * 2 * row, rel=0.01)
