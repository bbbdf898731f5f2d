"""ONNX export: our layers as ONNX's standard nodes LSTM, GRU and RNN.

    torch.onnx.export(model, (x,), "model.onnx", dynamo=True, custom_translation_table=fusedrnn.onnx.translations())

ONNX's nodes have no projection, no resets inside a sequence, no cell states of every time step and no packed input; a
model that uses one of these is refused, with the reason under "Exception summary" in torch's error. "No ONNX function
found" for fusedrnn.layer there means that the translations were not passed. Exporting needs the packages onnx and
onnxscript, as torch.onnx.export itself does; importing this module does not.

Source: https://onnx.ai/onnx/operators/onnx__LSTM.html, and onnx__GRU.html, onnx__RNN.html beside it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from . import _ops  # noqa: F401  registers the op

__all__ = ["translations"]

# cell → (node, where each of ONNX's gates stands among torch's, attributes)
_NODES = {
    "lstm": ("LSTM", [0, 3, 1, 2], {}),  # i o f c of i f g o
    "gru": ("GRU", [1, 0, 2], {"linear_before_reset": 1}),  # z r h of r z n; torch resets behind the product
    "rnn_tanh": ("RNN", [0], {"activations": ["Tanh"]}),
    "rnn_relu": ("RNN", [0], {"activations": ["Relu"]}),
}
_INT32, _BOOL = 6, 9  # ONNX's numbers for these dtypes


def translations() -> dict[Callable, Callable]:
    """Return the custom_translation_table of our layers and cells for torch.onnx.export(dynamo=True)."""
    return {torch.ops.fusedrnn.layer.default: _layer}


def _refuse(what: str, instead: str) -> None:
    raise NotImplementedError(f"ONNX's recurrent nodes have no {what}: export the model without ({instead}).")


def _layer(
    x, h_0, c_0, weights, batch_sizes, lengths, reset, cell, reverse, reset_to_hx, cell_states, recompute=False
):  # fmt: skip
    """One call of torch.ops.fusedrnn.layer as one ONNX node, and what brings its output to our layout."""
    from onnxscript import opset18 as op

    w_ih, w_hh, b_ih, b_hh, w_hr = _ops.roles(weights, len(reverse))
    if w_hr:
        _refuse("projection", "proj_size=0 and a linear layer behind")
    if reset is not None:
        _refuse("resets inside a sequence", "run it episode by episode, with the initial state as an input")
    if batch_sizes is not None:
        _refuse("packed rows", "a padded input with lengths=")
    if cell_states:
        _refuse("cell states of every step", "return_cell_states=False")

    node, order, attributes = _NODES[cell]
    directions = len(reverse)
    if "activations" in attributes:
        attributes = {"activations": attributes["activations"] * directions}

    def gates(weight):
        """The weight with its gates in ONNX's order."""
        if len(order) == 1:
            return weight
        parts = op.Split(weight, axis=0, num_outputs=len(order))
        return op.Concat(*[parts[place] for place in order], axis=0)

    def stacked(weights):
        """One weight of each direction, with a leading dimension for the direction."""
        return op.Concat(*[op.Unsqueeze(weight, [0]) for weight in weights], axis=0)

    w, r = stacked([gates(weight) for weight in w_ih]), stacked([gates(weight) for weight in w_hh])
    bias = stacked([op.Concat(gates(i), gates(h), axis=0) for i, h in zip(b_ih, b_hh)]) if b_ih else None
    states = [h_0, c_0] if cell == "lstm" else [h_0]
    ends = None if lengths is None else op.Cast(lengths, to=_INT32)
    direction = "bidirectional" if directions == 2 else "reverse" if reverse[0] else "forward"
    hidden = w_hh[0].shape[1]

    y, *last = getattr(op, node)(x, w, r, bias, ends, *states, hidden_size=hidden, direction=direction, **attributes)
    if lengths is not None and h_0 is not None:
        # ONNX does not say what comes out of a sequence of no steps: onnxruntime gives zeros, we the initial state.
        some = op.Reshape(op.Cast(lengths, to=_BOOL), [1, -1, 1])
        last = [op.Where(some, new, first) for new, first in zip(last, states)]
    y = op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), [0, 0, -1])  # (T, D, B, H) → (T, B, D*H); 0 keeps a size
    nothing = op.CastLike(op.ConstantOfShape([0]), x)
    return [y, *last, *[nothing] * (3 - len(last))]
