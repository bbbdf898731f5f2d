"""The op against the step-by-step oracle, in every dtype: lengths, resets, packed rows, projection, cell states."""

import pytest
import torch
from helpers import DTYPES, LAYERS, flat, layer_arguments, loss, random, states
from ragged import OPTIONS, RESET, B, H, I, T, given_on
from tolerances import assert_all_close
from torch.nn.utils.rnn import pack_padded_sequence

import fusedrnn  # noqa: F401  registers the op
from fusedrnn import _ops, reference
from fusedrnn.reference import GATES


def op_arguments(kind, option, dtype, device, P):
    D, G = 2, GATES[kind]
    x = random(T, B, I, dtype=dtype, device=device)
    hx = states(kind, D, B, H, P=P, dtype=dtype, device=device)
    shapes = {"w_ih": (G * H, I), "w_hh": (G * H, P or H), "b_ih": (G * H,), "b_hh": (G * H,)}
    if P:
        shapes["w_hr"] = (P, H)
    lists = {
        role: [random(*shape, dtype=dtype, device=device) / H**0.5 for _ in range(D)] for role, shape in shapes.items()
    }
    if kind == "rnn_relu":  # clear of the kink, where a rounding would flip a gradient
        for b_hh in lists["b_hh"]:
            b_hh += torch.tensor([5.0, -5.0], dtype=dtype, device=device).repeat(H)[:H]
    if option == "packed and reset":
        packed, reset = (pack_padded_sequence(value, torch.tensor([6, 4, 4, 1])) for value in (x, RESET.to(device)))
        x, given = packed.data, {"reset": reset.data, "batch_sizes": packed.batch_sizes}
    else:
        given = given_on(device, option)
        given["reset_to_hx"] = given.pop("reset_to", "zeros") == "hx"
    if "lengths" in given:
        given["lengths"] = torch.tensor(given["lengths"], device=device)
    h_0, c_0 = hx if kind == "lstm" else (hx, None)
    tensors = {"x": x, "h_0": h_0, "c_0": c_0, **lists}
    return tensors, {"cell": kind, "reverse": [False, True], "cell_states": kind == "lstm", **given}


def op_outcome(op, tensors, given, cast=lambda tensor: tensor):
    def leaf(tensor):
        return None if tensor is None else cast(tensor).detach().requires_grad_()

    tensors = {
        name: [leaf(t) for t in value] if isinstance(value, list) else leaf(value) for name, value in tensors.items()
    }
    outputs = dict(zip(("y", "h_n", "c_n", "c"), op(*layer_arguments(**tensors, **given))))
    outputs = {name: value for name, value in outputs.items() if value.dim() > 1}
    loss(outputs).backward()
    result = {name: value.detach() for name, value in outputs.items()}
    for name, value in tensors.items():
        for i, tensor in enumerate(flat(value)):
            result[f"d_{name}{i}"] = tensor.grad
    return result


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("option", [*OPTIONS, "packed and reset"])
@pytest.mark.parametrize("kind, P", [*((kind, None) for kind in LAYERS), ("lstm", 3)])
def test_op_agrees_with_the_oracle(kind, P, option, dtype, device):
    tensors, given = op_arguments(kind, option, dtype, device, P)
    ours = op_outcome(torch.ops.fusedrnn.layer, tensors, given)
    same_dtype = op_outcome(reference.layer, tensors, given)
    truth = op_outcome(reference.layer, tensors, given, cast=torch.Tensor.double)
    assert ours["y"].abs().max() > 0
    if dtype == torch.bfloat16 and device.type == "cpu" and _ops._C.multiplies_bfloat16():
        for each in (ours, same_dtype):  # c is kept in float32, but made of what was rounded to bfloat16
            each.update({"c": each["c"].to(dtype)} if "c" in each else {})
    assert_all_close(ours, same_dtype, truth)
