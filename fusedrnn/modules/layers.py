"""RNN, LSTM and GRU: torch.nn's layers with our forward pass, which takes more arguments.

Everything else, such as constructor and parameters, is torch.nn's (see `base`). Results equal torch.nn's up to
rounding. For T = 0, where torch.nn raises, the output is empty and h_n = h_0. README.md and docs/differences.md list
the differences.

T: time steps, B: sequences, I: input size, H: hidden size, L: layers, D: directions, P: size of an output (proj_size or
H)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal, TypeVar, overload

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from .._types import Flags, Lengths, Nonlinearity, ResetTo
from .base import Recurrent, constructor

Rows = TypeVar("Rows", bound=Tensor | PackedSequence)
Forward = TypeVar("Forward", bound=Callable[..., Any])

_WHAT_ALL_TAKE = """
lengths: (B,) integer tensor, list or array, or one number for an unbatched input — sequence b ends after lengths[b]
    steps. Outputs past its end are zero, its final state is that of its last step, and the reverse direction starts at
    that step. In any order, on any device; 0 is allowed
reset: bool tensor, list or array, of the shape of the input's leading dimensions, or packed as the input is — where
    true, the state is reset between this step and the one before, in every direction, and no gradient flows across
reset_to: "zeros" or "hx" — the state to reset to. With "hx", gradients flow to hx; if hx is omitted it means zeros

Raises what torch.nn raises for input and hx; ValueError for lengths that are not integers, not one per sequence,
negative or above T, for lengths together with a PackedSequence, for a reset of another shape, dtype or packing, and for
an unknown reset_to.
"""


def _says_what_all_take(forward: Forward) -> Forward:
    forward.__doc__ = inspect.cleandoc(forward.__doc__ or "") + _WHAT_ALL_TAKE
    return forward


class RNN(Recurrent, torch.nn.RNN):
    """Elman RNN (tanh or relu), a drop-in torch.nn.RNN with fused kernels.

    input_size, hidden_size, num_layers, nonlinearity, bias, batch_first, dropout, bidirectional, device, dtype: torch.nn's
    recompute: accepted as in LSTM, but without effect: an RNN has no gates

    Source: torch.nn.RNN's documentation, for the constructor's arguments and the formula.
    """

    @constructor
    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: Nonlinearity = "tanh",
        bias: bool = True, batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, *,
        device: torch.device | str | int | None = None, dtype: torch.dtype | None = None, recompute: bool = False,
    ) -> None: ...  # fmt: skip

    @_says_what_all_take
    def forward(
        self,
        input: Rows,
        hx: Tensor | None = None,
        *,
        lengths: Lengths | int | None = None,
        reset: Flags | PackedSequence | None = None,
        reset_to: ResetTo = "zeros",
    ) -> tuple[Rows, Tensor]:
        """Run the layer over whole sequences and return the output and the final state h_n.

        input: (T, B, I), or (B, T, I) with batch_first, or (T, I), or a PackedSequence
        hx: (L*D, B, H), or (L*D, H) for an unbatched input — initial state; zeros if omitted
        """
        states = None if hx is None else (hx,)
        return Recurrent._run(self, input, states, lengths, reset, reset_to)[:2]


class GRU(Recurrent, torch.nn.GRU):
    """Gated recurrent unit, a drop-in torch.nn.GRU with fused kernels.

    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype: torch.nn's
    recompute: recompute the gates in the backward instead of saving them. Takes more time, and less memory for long
        sequences only: with 32 sequences of up to 32 time steps it takes more. May be changed at any time
        (`module.recompute = True`)

    Source: torch.nn.GRU's documentation, for the constructor's arguments and the formula.
    """

    @constructor
    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, *, device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None, recompute: bool = False,
    ) -> None: ...  # fmt: skip

    @_says_what_all_take
    def forward(
        self,
        input: Rows,
        hx: Tensor | None = None,
        *,
        lengths: Lengths | int | None = None,
        reset: Flags | PackedSequence | None = None,
        reset_to: ResetTo = "zeros",
    ) -> tuple[Rows, Tensor]:
        """Run the layer over whole sequences and return the output and the final state h_n.

        input: (T, B, I), or (B, T, I) with batch_first, or (T, I), or a PackedSequence
        hx: (L*D, B, H), or (L*D, H) for an unbatched input — initial state; zeros if omitted
        """
        states = None if hx is None else (hx,)
        return Recurrent._run(self, input, states, lengths, reset, reset_to)[:2]


class LSTM(Recurrent, torch.nn.LSTM):
    """Long short-term memory with optional projection, a drop-in torch.nn.LSTM with fused kernels.

    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype: torch.nn's
    recompute: recompute the gates in the backward instead of saving them. Takes more time, and less memory for long
        sequences only: with 32 sequences of up to 32 time steps it takes more. May be changed at any time
        (`module.recompute = True`)

    Source: torch.nn.LSTM's documentation, for the constructor's arguments and the formula.
    """

    @constructor
    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0,
        device: torch.device | str | int | None = None, dtype: torch.dtype | None = None, *, recompute: bool = False,
    ) -> None: ...  # fmt: skip

    @overload
    def forward(
        self, input: Rows, hx: tuple[Tensor, Tensor] | None = ..., *, lengths: Lengths | int | None = ...,
        reset: Flags | PackedSequence | None = ..., reset_to: ResetTo = ..., return_cell_states: Literal[False] = ...,
    ) -> tuple[Rows, tuple[Tensor, Tensor]]: ...  # fmt: skip

    @overload
    def forward(
        self, input: Rows, hx: tuple[Tensor, Tensor] | None = ..., *, lengths: Lengths | int | None = ...,
        reset: Flags | PackedSequence | None = ..., reset_to: ResetTo = ..., return_cell_states: Literal[True],
    ) -> tuple[Rows, tuple[Tensor, Tensor], Rows]: ...  # fmt: skip

    @overload
    def forward(
        self, input: Rows, hx: tuple[Tensor, Tensor] | None = ..., *, lengths: Lengths | int | None = ...,
        reset: Flags | PackedSequence | None = ..., reset_to: ResetTo = ..., return_cell_states: bool,
    ) -> tuple[Rows, tuple[Tensor, Tensor]] | tuple[Rows, tuple[Tensor, Tensor], Rows]: ...  # fmt: skip

    @_says_what_all_take
    def forward(
        self,
        input: Rows,
        hx: tuple[Tensor, Tensor] | None = None,
        *,
        lengths: Lengths | int | None = None,
        reset: Flags | PackedSequence | None = None,
        reset_to: ResetTo = "zeros",
        return_cell_states: bool = False,
    ) -> tuple[Rows, tuple[Tensor, Tensor]] | tuple[Rows, tuple[Tensor, Tensor], Rows]:
        """Run the layer over whole sequences and return the output, the final states (h_n, c_n) and on request c.

        input: (T, B, I), or (B, T, I) with batch_first, or (T, I), or a PackedSequence
        hx: ((L*D, B, P), (L*D, B, H)), without B for an unbatched input — initial states h_0, c_0; zeros if omitted
        return_cell_states: also return, third, the cell states of all time steps of the last layer, laid out as the
            output
        """
        y, h_n, c_n, c = Recurrent._run(self, input, hx, lengths, reset, reset_to, return_cell_states)
        return (y, (h_n, c_n), c) if return_cell_states else (y, (h_n, c_n))
