"""Writes docs/differences.md: what torch.nn and fusedrnn each do with a feature, found out by doing it.

    python docs/make_differences.py            # writes the table
    python docs/make_differences.py --check    # says whether the committed one still holds here, and changes nothing

Each probe is a few lines that are run twice, with torch.nn's classes and with ours, on the CPU. It works, or it raises.
"""

import argparse
import logging
import sys
import warnings
from pathlib import Path

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.utils.parametrize

import fusedrnn

PAGE = Path(__file__).parent / "differences.md"
T, B, I, H = 5, 3, 4, 6
HEAD = """# What differs from torch.nn

Made by `python docs/make_differences.py`, which tries each line with both, with torch {version}, on the CPU. Everything
else is meant to be the same, and tested to be; `tests/test_differences.py` tries this table again.

| feature | torch.nn | fusedrnn |
|---|---|---|
"""
PROBES = {}


def probe(feature):
    """Let the table have a line for a feature; the function takes torch.nn or fusedrnn and raises if it fails."""

    def add(function):
        assert feature not in PROBES
        PROBES[feature] = function
        return function

    return add


def sequence(**kwargs):
    return torch.randn(T, B, I, **kwargs)


# --- inputs and arguments ---------------------------------------------------------------------------------------


@probe("an empty sequence, T = 0")
def _(nn):
    nn.GRU(I, H)(torch.randn(0, B, I))


@probe("rows of different `lengths=` without packing")
def _(nn):
    nn.LSTM(I, H)(sequence(), lengths=torch.tensor([5, 0, 2]))


@probe("packing a row of length 0")
def _(nn):
    """torch.nn's way to give lengths is packing; ours takes them beside the padded input."""
    if nn is torch.nn:
        torch.nn.utils.rnn.pack_padded_sequence(sequence(), torch.tensor([5, 0, 2]), enforce_sorted=False)
    else:
        nn.LSTM(I, H)(sequence(), lengths=[5, 0, 2])


@probe("`reset=` inside a sequence")
def _(nn):
    nn.GRU(I, H)(sequence(), reset=torch.zeros(T, B, dtype=torch.bool))


@probe("every cell state, `return_cell_states=True`")
def _(nn):
    nn.LSTM(I, H)(sequence(), return_cell_states=True)


# --- derivatives ------------------------------------------------------------------------------------------------


@probe("forward-mode derivatives of LSTM in float32 (`torch.func.jvp`)")
def _(nn):
    layer, x = nn.LSTM(I, H), sequence()
    torch.func.jvp(lambda x: layer(x)[0], (x,), (x,))


@probe("`torch.vmap` over samples")
def _(nn):
    layer = nn.LSTM(I, H)
    torch.vmap(lambda x: layer(x)[0])(torch.randn(2, T, B, I))


@probe("per-sample gradients (`vmap(grad(...))`)")
def _(nn):
    layer = nn.LSTM(I, H)

    def loss(weights, x):
        return torch.func.functional_call(layer, weights, (x,))[0].sum()

    torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(dict(layer.named_parameters()), torch.randn(2, T, 1, I))


@probe("per-sample gradients by ExpandedWeights (`call_for_per_sample_grads`)")
def _(nn):
    from torch.nn.utils._per_sample_grad import call_for_per_sample_grads

    call_for_per_sample_grads(nn.GRU(I, H, batch_first=True))(torch.randn(B, T, I))[0].sum().backward()


@probe("batched gradients (`is_grads_batched=True`)")
def _(nn):
    x = sequence(requires_grad=True)
    y = nn.LSTM(I, H)(x)[0]
    torch.autograd.grad(y, x, torch.randn(2, *y.shape), is_grads_batched=True)


@probe("double backward (`create_graph=True`)")
def _(nn):
    x = sequence(requires_grad=True)
    (gradient,) = torch.autograd.grad(nn.LSTM(I, H)(x)[0].sum(), x, create_graph=True)
    gradient.square().sum().backward()


@probe("third derivatives")
def _(nn):
    x = sequence(requires_grad=True)
    (first,) = torch.autograd.grad(nn.LSTM(I, H)(x)[0].sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    second.square().sum().backward()
    assert x.grad.abs().max() > 0


@probe("changing a GRU's bias in place before the backward")
def _(nn):
    layer = nn.GRU(I, H)
    y = layer(sequence())[0]
    with torch.no_grad():
        layer.bias_hh_l0.mul_(2)
    y.sum().backward()


@probe("changing a cell's bias in place before the backward")
def _(nn):
    cell = nn.LSTMCell(I, H)
    h, _ = cell(sequence()[0])
    with torch.no_grad():
        cell.bias_hh.mul_(2)
    h.sum().backward()


@probe("changing `x` in place before the backward, `batch_first=True`: torch.nn saves a copy")
def _(nn):
    x = torch.randn(B, T, I)
    y = nn.LSTM(I, H, batch_first=True)(x)[0]
    x.zero_()
    y.sum().backward()


@probe("changing `h_0` in place before the backward, where the weights need no gradient")
def _(nn):
    h_0 = torch.zeros(1, B, H)
    y = nn.GRU(I, H).requires_grad_(False)(sequence(requires_grad=True), h_0)[0]
    h_0.zero_()
    y.sum().backward()


@probe("`detach_()` on a GRU's `y` with `batch_first=True`, which is a view with ours")
def _(nn):
    nn.GRU(I, H, batch_first=True)(sequence())[0].detach_()


@probe("a tangent of incoming gradients (`torch.autograd.grad(y, x, forward_ad.make_dual(...))`)")
def _(nn):
    x = sequence(requires_grad=True)
    y = nn.GRU(I, H)(x)[0]
    with forward_ad.dual_level():
        (d_x,) = torch.autograd.grad(y, x, forward_ad.make_dual(torch.ones_like(y), torch.ones_like(y)))
        assert forward_ad.unpack_dual(d_x).tangent is not None


@probe("a parametrization is evaluated once a call: dropout of weights has one mask, `spectral_norm` makes one iteration")
def _(nn):
    layer, calls = nn.LSTM(I, H), []

    class Noted(torch.nn.Module):
        def forward(self, weight):
            calls.append(weight)
            return weight * 1

    torch.nn.utils.parametrize.register_parametrization(layer, "weight_hh_l0", Noted())
    calls.clear()
    layer(sequence())
    if len(calls) != 1:
        raise RuntimeError(f"it is evaluated {len(calls)} times")


@probe("weights that are put into `_flat_weights` by hand")
def _(nn):
    layer, x = nn.GRU(I, H), sequence()
    y = layer(x)[0]
    layer._flat_weights = [2 * weight for weight in layer._flat_weights]
    if torch.equal(layer(x)[0], y):
        raise RuntimeError("they are not used: weights are read by name")


@probe("a tool that asks for `type(layer) is torch.nn.GRU`")
def _(nn):
    kind = type(nn.GRU(I, H))
    if kind is not torch.nn.GRU:
        raise TypeError(f"it is a {kind.__module__.partition('.')[0]}.{kind.__name__}: use it before convert or after revert")


@probe("a NaN in `weight_hh_l0` where every state is zeros: those are not multiplied")
def _(nn):
    layer = nn.GRU(I, H)
    with torch.no_grad():
        layer.weight_hh_l0[0, 0] = torch.nan
    if not layer(torch.randn(1, B, I))[0].isnan().any():
        raise ValueError("y is a number: no row of the step has another state")


@probe("complex numbers")
def _(nn):
    nn.GRU(I, H).to(torch.complex64)(sequence(dtype=torch.complex64))


@probe("changing a GRU's `y` in place before the backward")
def _(nn):
    y = nn.GRU(I, H)(sequence())[0]
    y.mul_(2)
    y.sum().backward()


# --- dtypes -----------------------------------------------------------------------------------------------------


def autocast(dtype):
    def _(nn):
        for name in ("GRU", "RNN", "LSTM"):
            with torch.autocast("cpu", dtype):
                y = getattr(nn, name)(I, H)(sequence())[0]
            if y.dtype != dtype:
                raise TypeError(f"a {name}'s result is of {y.dtype}")

    return _


for dtype in (torch.bfloat16, torch.float16):
    probe(f"autocast to {str(dtype).removeprefix('torch.')}: results of that dtype from every layer")(autocast(dtype))


# --- compilers, export and other tools ----------------------------------------------------------------------------


DYNAMIC = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}


@probe("`torch.compile(fullgraph=True)`")
def _(nn):
    torch._dynamo.reset()
    torch.compile(nn.LSTM(I, H), backend="eager", fullgraph=True)(sequence())


@probe("`torch.export` with T and B dynamic")
def _(nn):
    torch.export.export(nn.LSTM(I, H), (sequence(),), dynamic_shapes=(DYNAMIC,))


@probe("ONNX with T and B dynamic (`torch.onnx.export(dynamo=True)`; ours with `fusedrnn.onnx.translations()`)")
def _(nn):
    import fusedrnn.onnx

    table = None if nn is torch.nn else fusedrnn.onnx.translations()
    layer = nn.LSTM(I, H).eval()
    torch.onnx.export(
        layer, (sequence(),), dynamo=True, verbose=False, dynamic_shapes=(DYNAMIC,), custom_translation_table=table
    )


@probe("TorchScript (`torch.jit.script`)")
def _(nn):
    torch.jit.script(nn.LSTM(I, H))


@probe("TorchScript (`torch.jit.trace`)")
def _(nn):
    torch.jit.trace(nn.LSTM(I, H), sequence())


@probe("`torch.fx.symbolic_trace` of a model that holds a layer")
def _(nn):
    torch.fx.symbolic_trace(torch.nn.Sequential(nn.LSTM(I, H)))


@probe("`torch.ao.quantization.quantize_dynamic`")
def _(nn):
    model = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(nn.LSTM(I, H)))
    if isinstance(model[0], torch.nn.LSTM):
        raise TypeError("the layer is left as it is; fusedrnn.revert(model) first")


# --- the page ---------------------------------------------------------------------------------------------------


def try_out(function, nn) -> str:
    """Return "works", or "raises" with the first line of the error."""
    torch.manual_seed(0)
    try:
        function(nn)
    except Exception as error:
        return f"raises `{type(error).__name__}: {first_line(error)}`"
    return "works"


def first_line(error: Exception) -> str:
    """The first line of the innermost cause, short enough for a table and without what differs between runs."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    text = lines[0].replace("|", "/").replace("`", "'")
    return text if len(text) <= 120 else text[:120].rsplit(" ", 1)[0] + " …"


def outcomes() -> dict[str, tuple[str, str]]:
    """Run every probe with torch.nn and with ours: feature → what came of each."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)  # exporters log at length what they then raise
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {
                feature: (try_out(function, torch.nn), try_out(function, fusedrnn))
                for feature, function in PROBES.items()
            }
    finally:
        logging.disable(disabled)


def page(found: dict[str, tuple[str, str]]) -> str:
    lines = [f"| {feature} | {theirs} | {ours} |\n" for feature, (theirs, ours) in found.items()]
    return HEAD.format(version=torch.__version__.split("+")[0]) + "".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed table instead of writing it")
    args = parser.parse_args()
    fresh = page(outcomes())
    if not args.check:
        PAGE.write_text(fresh, encoding="utf-8")
    elif fresh != PAGE.read_text(encoding="utf-8"):
        sys.exit(f"{PAGE.name} does not hold here; python {Path(__file__).name} writes it anew")


if __name__ == "__main__":
    main()
