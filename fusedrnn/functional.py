"""Recurrent layers as functions: stacked layers, each one call of the op `torch.ops.fusedrnn.layer`.

Everything is time-first: x is (T, B, I), or the (N, I) rows of a PackedSequence together with its batch_sizes.
Weights are a flat sequence of `Weights`, layer by layer and, within a layer, direction by direction. The op checks
shapes, dtypes and devices. One op call runs both directions of a layer; nothing is copied around it.

T: time steps, B: sequences, N: rows of a packed input, I: input size, H: hidden size, L: layers, D: directions, P: size
of an output, which is H without a projection
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

from . import _ops
from ._types import Flags, Lengths, Nonlinearity, ResetTo

__all__ = ["Weights", "rnn", "lstm", "gru", "rnn_cell", "lstm_cell", "gru_cell"]

_layer_op, _cell_op = torch.ops.fusedrnn.layer.default, torch.ops.fusedrnn.cell.default
_layer, _cell = _ops.direct("layer", _layer_op), _ops.direct("cell", _cell_op)  # a cell's call: 10 µs instead of 14
_CELL_OF = {"tanh": "rnn_tanh", "relu": "rnn_relu"}
_FORWARD, _BOTH = [False], [False, True]  # the directions of a layer
_RESET_TO_HX = {"zeros": False, "hx": True}


class Weights(NamedTuple):
    """The weights of one direction of one layer, in torch.nn's layout; G: number of gates.

    w_ih: (G*H, I) — input weights
    w_hh: (G*H, P) — hidden weights
    b_ih, b_hh: (G*H) — biases; both or neither
    w_hr: (P, H) — projection of an LSTM's hidden state, or None
    """

    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None = None
    b_hh: Tensor | None = None
    w_hr: Tensor | None = None


def rnn(
    x: Tensor,
    weights: Sequence[Weights],
    hx: Tensor | None = None,
    *,
    nonlinearity: Nonlinearity = "tanh",
    bidirectional: bool = False,
    dropout: float = 0.0,
    training: bool = False,
    batch_sizes: Tensor | None = None,
    lengths: Lengths | None = None,
    reset: Flags | None = None,
    reset_to: ResetTo = "zeros",
    recompute: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run stacked Elman layers over a sequence and return y (T, B, D*H) and h_n (L*D, B, H).

    x: (T, B, I), or (N, I) with batch_sizes — input sequence
    weights: L*D Weights — layer by layer, direction by direction
    hx: (L*D, B, H) — initial state h_0; zeros if omitted
    nonlinearity: "tanh" or "relu"
    dropout: probability of zeroing each output of every layer except the last, if training
    batch_sizes: (T,) int64 on the CPU — for a packed x: its rows at each time step
    lengths: (B,) integer tensor, list or array — sequence b ends after lengths[b] steps; outputs past its end are zero
    reset: (T, B) bool tensor, list or array, or (N,) when packed — where true, the state is reset before that step, and
        no gradient flows to earlier steps
    reset_to: "zeros" or "hx" — the state to reset to; "hx" without hx means zeros, and with hx its gradient includes
        resets
    recompute: recompute the gates in the backward instead of saving them; pays for long sequences only, see LSTM

    Raises ValueError for an unknown nonlinearity or reset_to, and for a number of weights or states that does not make
    whole layers; RuntimeError or ValueError from the op for shapes, dtypes and devices that do not match.
    Source: torch.nn.RNN's documentation.
    """
    cell = cell_of(nonlinearity)
    return run_layers(
        cell, x, weights, hx, None, bidirectional, dropout, training, batch_sizes, lengths, reset, reset_to, False,
        recompute,
    )[:2]  # fmt: skip


def gru(
    x: Tensor,
    weights: Sequence[Weights],
    hx: Tensor | None = None,
    *,
    bidirectional: bool = False,
    dropout: float = 0.0,
    training: bool = False,
    batch_sizes: Tensor | None = None,
    lengths: Lengths | None = None,
    reset: Flags | None = None,
    reset_to: ResetTo = "zeros",
    recompute: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run stacked GRU layers over a sequence and return y (T, B, D*H) and h_n (L*D, B, H).

    Arguments and errors are those of `rnn`; each weight holds three gates, in the order r, z, n.
    Source: torch.nn.GRU's documentation.
    """
    return run_layers(
        "gru", x, weights, hx, None, bidirectional, dropout, training, batch_sizes, lengths, reset, reset_to, False,
        recompute,
    )[:2]  # fmt: skip


@overload
def lstm(
    x: Tensor, weights: Sequence[Weights], hx: tuple[Tensor, Tensor] | None = ..., *, bidirectional: bool = ...,
    dropout: float = ..., training: bool = ..., batch_sizes: Tensor | None = ..., lengths: Lengths | None = ...,
    reset: Flags | None = ..., reset_to: ResetTo = ..., return_cell_states: Literal[False] = ..., recompute: bool = ...,
) -> tuple[Tensor, tuple[Tensor, Tensor]]: ...  # fmt: skip


@overload
def lstm(
    x: Tensor, weights: Sequence[Weights], hx: tuple[Tensor, Tensor] | None = ..., *, bidirectional: bool = ...,
    dropout: float = ..., training: bool = ..., batch_sizes: Tensor | None = ..., lengths: Lengths | None = ...,
    reset: Flags | None = ..., reset_to: ResetTo = ..., return_cell_states: Literal[True], recompute: bool = ...,
) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]: ...  # fmt: skip


@overload
def lstm(
    x: Tensor, weights: Sequence[Weights], hx: tuple[Tensor, Tensor] | None = ..., *, bidirectional: bool = ...,
    dropout: float = ..., training: bool = ..., batch_sizes: Tensor | None = ..., lengths: Lengths | None = ...,
    reset: Flags | None = ..., reset_to: ResetTo = ..., return_cell_states: bool, recompute: bool = ...,
) -> tuple[Tensor, tuple[Tensor, Tensor]] | tuple[Tensor, tuple[Tensor, Tensor], Tensor]: ...  # fmt: skip


def lstm(
    x: Tensor,
    weights: Sequence[Weights],
    hx: tuple[Tensor, Tensor] | None = None,
    *,
    bidirectional: bool = False,
    dropout: float = 0.0,
    training: bool = False,
    batch_sizes: Tensor | None = None,
    lengths: Lengths | None = None,
    reset: Flags | None = None,
    reset_to: ResetTo = "zeros",
    return_cell_states: bool = False,
    recompute: bool = False,
) -> tuple[Tensor, tuple[Tensor, Tensor]] | tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """Run stacked LSTM layers over a sequence and return y (T, B, D*P) and (h_n (L*D, B, P), c_n (L*D, B, H)).

    Arguments and errors are those of `rnn`; each weight holds four gates, in the order i, f, g, o. In addition:
    hx: (L*D, B, P) and (L*D, B, H) — initial states h_0 and c_0; zeros if omitted
    return_cell_states: also return, third, the cell states of all time steps of the last layer, (T, B, D*H)

    Source: torch.nn.LSTM's documentation.
    """
    h_0, c_0 = (None, None) if hx is None else pair(hx)
    y, h_n, c_n, c = run_layers(
        "lstm",
        x,
        weights,
        h_0,
        c_0,
        bidirectional,
        dropout,
        training,
        batch_sizes,
        lengths,
        reset,
        reset_to,
        return_cell_states,
        recompute,
    )
    return (y, (h_n, c_n), c) if return_cell_states else (y, (h_n, c_n))


def _of_cell(weights: Weights) -> tuple:
    if weights[4:] and weights[4] is not None:
        raise ValueError(f"a cell has no projection; got w_hr of {tuple(weights[4].shape)}")
    return weights[:4]


def rnn_cell(x: Tensor, weights: Weights, hx: Tensor | None = None, *, nonlinearity: Nonlinearity = "tanh") -> Tensor:
    """Run one time step of an Elman cell: x (B, I), hx (B, H) → h (B, H)."""
    return run_cell(cell_of(nonlinearity), x, hx, None, *_of_cell(weights))[0]


def gru_cell(x: Tensor, weights: Weights, hx: Tensor | None = None) -> Tensor:
    """Run one time step of a GRU cell: x (B, I), hx (B, H) → h (B, H)."""
    return run_cell("gru", x, hx, None, *_of_cell(weights))[0]


def lstm_cell(x: Tensor, weights: Weights, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """Run one time step of an LSTM cell: x (B, I), hx ((B, H), (B, H)) → (h (B, H), c (B, H))."""
    h_0, c_0 = (None, None) if hx is None else pair(hx)
    return run_cell("lstm", x, h_0, c_0, *_of_cell(weights))


def pair(hx: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return an LSTM's initial states, h_0 and c_0, unchanged.

    Raises, as torch.nn does, TypeError for a single tensor or if one is None, RuntimeError if there are not two.
    """
    if isinstance(hx, Tensor):
        raise TypeError(f"an LSTM's hx must be the pair (h_0, c_0); got one tensor of {tuple(hx.shape)}")
    if len(hx) != 2:
        raise RuntimeError(f"an LSTM expects two hidden states, h_0 and c_0; got {len(hx)}")
    if hx[0] is None or hx[1] is None:
        missing = "h_0" if hx[0] is None else "c_0"
        raise TypeError(f"an LSTM expects both of h_0 and c_0, or no hx at all; got None for {missing}")
    return hx


def cell_of(nonlinearity: str) -> str:
    if nonlinearity not in _CELL_OF:
        raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
    return _CELL_OF[nonlinearity]


def run_layers(
    cell, x, weights, h_0, c_0, bidirectional, dropout, training, batch_sizes, lengths, reset, reset_to, cell_states,
    recompute,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Run every layer and return y, h_n, c_n and the last layer's c, all of x's dtype."""
    if reset_to not in _RESET_TO_HX:
        raise ValueError(f"reset_to must be 'zeros' or 'hx'; got {reset_to!r}")
    reverse = _BOTH if bidirectional else _FORWARD
    D = len(reverse)
    if not weights or len(weights) % D:
        raise ValueError(f"weights must hold {D} per layer, one for each direction; got {len(weights)}")
    for name, state in (("h_0", h_0), ("c_0", c_0)):
        if state is not None and state.size(0) != len(weights):
            raise ValueError(f"{name} must hold L*D = {len(weights)} states; got {state.size(0)}")
    if lengths is not None:
        lengths = lengths_as_tensor(lengths)
        if x.is_cpu and not lengths.is_cpu:
            lengths = lengths.cpu()  # or they would choose the operator's device
    if reset is not None:
        reset = reset_as_tensor(reset, x.device)
    if autocasts(x):
        x, weights, h_0, c_0 = _autocast(x, weights, h_0, c_0)

    call = _layer_op if torch.compiler.is_dynamo_compiling() else _layer  # Dynamo knows the operator alone
    h_ns, c_ns = [], []
    for first in range(0, len(weights), D):
        own = slice(first, first + D)
        last = first + D == len(weights)
        x, h_n, c_n, c = call(
            x,
            h_0 if h_0 is None or len(weights) == D else h_0[own],
            c_0 if c_0 is None or len(weights) == D else c_0[own],
            _by_role(weights[own]),
            batch_sizes,
            lengths,
            reset,
            cell,
            reverse,
            _RESET_TO_HX[reset_to],
            cell_states and last,
            recompute,
        )
        h_ns.append(h_n)
        c_ns.append(c_n)
        if dropout and training and not last:
            x = torch.dropout(x, dropout, True)  # the call ATen makes between layers: the same draws from a seed
    if len(weights) > D:
        h_n, c_n = torch.cat(h_ns), torch.cat(c_ns)
    return x, h_n, c_n, c.to(x.dtype) if cell_states else c


def lengths_as_tensor(lengths: Lengths | int) -> Tensor:
    """Return lengths as they are, if they are a tensor, or else one on the CPU of the list, array or number."""
    return lengths if isinstance(lengths, Tensor) else _tensor_of("lengths", lengths, torch.int64, "cpu")


def reset_as_tensor(reset: Flags, device: torch.device) -> Tensor:
    """Return reset as it is, if it is a tensor, or else one of the list or array."""
    return reset if isinstance(reset, Tensor) else _tensor_of("reset", reset, torch.bool, device)


def _tensor_of(name, values, dtype, device):
    try:
        made = torch.tensor(values, device=device)  # as_tensor would have torch.compile take the values for constants
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be a {dtype} tensor or what makes one; got a {type(values).__name__}: {error}")
    return made if made.numel() else made.to(dtype)  # an empty list says nothing of its dtype


def run_cell(
    cell: str, x: Tensor, h_0: Tensor | None, c_0: Tensor | None, w_ih: Tensor, w_hh: Tensor, b_ih=None, b_hh=None
) -> tuple[Tensor, Tensor]:
    """Run one step, a sequence of T = 1, and return h (B, H) and, of an LSTM, c (B, H)."""
    if autocasts(x):
        weights, carried = [Weights(w_ih, w_hh, b_ih, b_hh)], h_0 if c_0 is None else c_0
        wide = _widest_under_autocast(cell, x if carried is None else carried)
        x, ((w_ih, w_hh, b_ih, b_hh, _),), h_0, c_0 = _autocast(x, weights, h_0, c_0, wide)
    if not w_hh.numel():  # torch.nn has cells of no units, though no such layers
        h = x.new_empty(x.size(0), 0)
        return h, h.clone()
    if (b_ih is None) != (b_hh is None):  # torch.nn's cells do without either
        b_ih, b_hh = (torch.zeros_like(b_hh), b_hh) if b_ih is None else (b_ih, torch.zeros_like(b_ih))
    call = _cell_op if torch.compiler.is_dynamo_compiling() else _cell
    return call(x, h_0, c_0, w_ih, w_hh, b_ih, b_hh, cell)


def _by_role(weights: Sequence[Weights]) -> list[Tensor]:
    """Turn the Weights of each direction into the op's list: role by role, and within a role direction by direction."""
    first, *others = weights
    there = others and [w is not None for w in first]
    _, _, b_ih, b_hh, _ = first
    if (b_ih is None) != (b_hh is None) or any([w is not None for w in own] != there for own in others):
        counts = (f"{name} {sum(w is not None for w in role)}" for name, role in zip(Weights._fields, zip(*weights)))
        raise RuntimeError(
            f"each of {len(weights)} direction(s) must have w_ih and w_hh, both of b_ih and b_hh or neither, and w_hr "
            f"if another has one; got {', '.join(counts)}"
        )
    return [w for role in (zip(*weights) if others else [first]) for w in role if w is not None]


def autocasts(x: Tensor) -> bool:
    enabled = torch.is_autocast_enabled("cuda" if x.is_cuda else "cpu")
    return enabled and x.is_floating_point() and x.dtype != torch.float64


def _widest_under_autocast(cell: str, carried: Tensor) -> torch.dtype | None:
    """Return float32 where torch.nn's cell keeps it under autocast: on the CPU, an LSTM or GRU with such a state."""
    if not carried.is_cpu or cell not in ("lstm", "gru"):
        return None
    widest = torch.promote_types(carried.dtype, torch.get_autocast_dtype("cpu"))
    return widest if widest == torch.float32 else None


def _autocast(
    x: Tensor,
    weights: Sequence[Weights],
    h_0: Tensor | None,
    c_0: Tensor | None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, list[Weights], Tensor | None, Tensor | None]:
    """Cast everything to dtype, or to autocast's, as torch.nn's layers do on CUDA; sums stay in float32.

    Weights are cast once in an autocast region, as every operation of torch's has them cast.
    """
    to_autocasts = dtype is None
    dtype = dtype or torch.get_autocast_dtype(x.device.type)
    cached = to_autocasts and not torch.compiler.is_compiling()

    def cast(tensor):
        return None if tensor is None else tensor.to(dtype)

    def cast_weight(weight):
        return _ops.autocast(weight) if cached and weight is not None else cast(weight)

    return cast(x), [Weights(*map(cast_weight, w)) for w in weights], cast(h_0), cast(c_0)
