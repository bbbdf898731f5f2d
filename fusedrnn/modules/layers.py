"""RNN, LSTM and GRU: torch.nn's layers with our forward pass and three more arguments to it.

Constructor, parameters and everything else are torch.nn's (see `base`). Results are torch.nn's to rounding.
Differences: T = 0 gives an empty output and h_n = h_0 where torch.nn raises.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from .. import functional
from .base import Recurrent


class RNN(Recurrent, torch.nn.RNN):
    """Elman RNN (tanh or relu), a drop-in torch.nn.RNN with fused kernels.

    input_size, hidden_size, num_layers, nonlinearity, bias, batch_first, dropout, bidirectional, device, dtype: torch.nn's
    recompute: as in LSTM, but without effect: an RNN has no gates to keep

    Source: torch.nn.RNN's documentation, for the constructor's arguments and the formula.
    """

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        *,
        lengths: Tensor | list[int] | int | None = None,
        reset: Tensor | PackedSequence | None = None,
        reset_to: str = "zeros",
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """Run the layer over a sequence and return the output and the last state h_n.

        input: (T, B, I), or (B, T, I) with batch_first, or (T, I), or a PackedSequence — the sequence
        hx: (L*D, B, H), or (L*D, H) for an unbatched input — first state; zeros if omitted
        lengths: (B,) integer tensor or list, or one number for an unbatched input — row b ends after lengths[b]
            steps, where its reverse direction starts; padding comes out as zeros; any order and device, 0 allowed
        reset: bool, of the input's leading dimensions or packed as the input is — where true, every direction
            starts afresh between this step and the one before, and no gradient passes
        reset_to: "zeros" or "hx" — what it starts afresh from

        Raises what torch.nn.RNN raises for input and hx, ValueError for lengths that are not integers, not one a
        row, negative or above T, for lengths beside a PackedSequence, for a reset of another shape, dtype or
        packing, and for an unknown reset_to.
        """
        states = None if hx is None else (hx,)
        return self._run(input, states, lengths, reset, reset_to)[:2]


class GRU(Recurrent, torch.nn.GRU):
    """Gated recurrent unit, a drop-in torch.nn.GRU with fused kernels.

    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype: torch.nn's
    recompute: whether to keep no gates for the backward but compute them again there, in less memory and more time

    Source: torch.nn.GRU's documentation, for the constructor's arguments and the formula.
    """

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        *,
        lengths: Tensor | list[int] | int | None = None,
        reset: Tensor | PackedSequence | None = None,
        reset_to: str = "zeros",
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """Run the layer over a sequence and return the output and the last state h_n; arguments as in RNN.forward."""
        states = None if hx is None else (hx,)
        return self._run(input, states, lengths, reset, reset_to)[:2]


class LSTM(Recurrent, torch.nn.LSTM):
    """Long short-term memory with optional projection, a drop-in torch.nn.LSTM with fused kernels.

    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype: torch.nn's
    recompute: whether to keep no gates for the backward but compute them again there, in less memory and more time

    Source: torch.nn.LSTM's documentation, for the constructor's arguments and the formula.
    """

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: tuple[Tensor, Tensor] | None = None,
        *,
        lengths: Tensor | list[int] | int | None = None,
        reset: Tensor | PackedSequence | None = None,
        reset_to: str = "zeros",
        return_cell_states: bool = False,
    ) -> (
        tuple[Tensor | PackedSequence, tuple[Tensor, Tensor]]
        | tuple[Tensor | PackedSequence, tuple[Tensor, Tensor], Tensor | PackedSequence]
    ):
        """Run the layer over a sequence and return the output, the last states (h_n, c_n) and on request c.

        Arguments and errors are those of RNN.forward, beside
        hx: ((L*D, B, P), (L*D, B, H)), without B for an unbatched input — first states h_0, c_0; zeros if omitted
        return_cell_states: whether to return, third, every c_t of the last layer in the layout of the output
        """
        y, h_n, c_n, c = self._run(input, hx, lengths, reset, reset_to, return_cell_states)
        return (y, (h_n, c_n), c) if return_cell_states else (y, (h_n, c_n))
