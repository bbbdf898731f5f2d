"""RNN, LSTM and GRU: torch.nn's layers with our forward pass and three more arguments to it.

Constructor, parameters and everything else are torch.nn's (see `base`). Results are torch.nn's to rounding.
Differences: T = 0 gives an empty output and h_n = h_0 where torch.nn raises.
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
lengths: (B,) integer tensor, list or array, or one number for an unbatched input — row b ends after lengths[b]
    steps, where its reverse direction starts; padding comes out as zeros; any order and device, 0 allowed
reset: bool tensor, list or array of the input's leading dimensions, or packed as the input is — where true, every
    direction starts afresh between this step and the one before, and no gradient passes
reset_to: "zeros" or "hx" — what it starts afresh from

Raises what torch.nn raises for input and hx, ValueError for lengths that are not integers, not one a row, negative
or above T, for lengths beside a PackedSequence, for a reset of another shape, dtype or packing, and for an unknown
reset_to.
"""


def _says_what_all_take(forward: Forward) -> Forward:
    forward.__doc__ = inspect.cleandoc(forward.__doc__ or "") + _WHAT_ALL_TAKE
    return forward


class RNN(Recurrent, torch.nn.RNN):
    """Elman RNN (tanh or relu), a drop-in torch.nn.RNN with fused kernels.

    input_size, hidden_size, num_layers, nonlinearity, bias, batch_first, dropout, bidirectional, device, dtype: torch.nn's
    recompute: as in LSTM, but without effect: an RNN has no gates to keep

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
        """Run the layer over a sequence and return the output and the last state h_n.

        input: (T, B, I), or (B, T, I) with batch_first, or (T, I), or a PackedSequence — the sequence
        hx: (L*D, B, H), or (L*D, H) for an unbatched input — first state; zeros if omitted
        """
        states = None if hx is None else (hx,)
        return self._run(input, states, lengths, reset, reset_to)[:2]


class GRU(Recurrent, torch.nn.GRU):
    """Gated recurrent unit, a drop-in torch.nn.GRU with fused kernels.

    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype: torch.nn's
    recompute: whether to keep no gates for the backward but compute them again there, in less memory and more time

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
        """Run the layer over a sequence and return the output and the last state h_n.

        input: (T, B, I), or (B, T, I) with batch_first, or (T, I), or a PackedSequence — the sequence
        hx: (L*D, B, H), or (L*D, H) for an unbatched input — first state; zeros if omitted
        """
        states = None if hx is None else (hx,)
        return self._run(input, states, lengths, reset, reset_to)[:2]


class LSTM(Recurrent, torch.nn.LSTM):
    """Long short-term memory with optional projection, a drop-in torch.nn.LSTM with fused kernels.

    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype: torch.nn's
    recompute: whether to keep no gates for the backward but compute them again there, in less memory and more time

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
        """Run the layer over a sequence and return the output, the last states (h_n, c_n) and on request c.

        input: (T, B, I), or (B, T, I) with batch_first, or (T, I), or a PackedSequence — the sequence
        hx: ((L*D, B, P), (L*D, B, H)), without B for an unbatched input — first states h_0, c_0; zeros if omitted
        return_cell_states: whether to return, third, every c_t of the last layer in the layout of the output
        """
        y, h_n, c_n, c = self._run(input, hx, lengths, reset, reset_to, return_cell_states)
        return (y, (h_n, c_n), c) if return_cell_states else (y, (h_n, c_n))
