"""RNN, LSTM and GRU: torch.nn's layers with our forward pass, which takes more arguments.

Everything else, such as constructor and parameters, is torch.nn's (see `base`). Results equal torch.nn's up to rounding.
For T = 0, where torch.nn raises, the output is empty and h_n = h_0. README.md and docs/differences.md list the differences.

T: time steps, B: sequences, I: input size, H: hidden size, L: layers, D: directions, P: size of an output (proj_size or H)
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
    recompute: accepted as in LSTM, but without effect: an RNN has no gates

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
        """Run the layer over whole sequences and return the output and the final state h_n.

        input: (T, B, I), or (B, T, I) with batch_first, or (T, I), or a PackedSequence
        hx: (L*D, B, H), or (L*D, H) for an unbatched input — initial state; zeros if omitted
        lengths: (B,) integer tensor or list, or one number for an unbatched input — sequence b ends after lengths[b]
            steps. Outputs past its end are zero, its final state is that of its last step, and the reverse direction
            starts at that step. In any order, on any device; 0 is allowed
        reset: bool, of the shape of the input's leading dimensions, or packed as the input is — where true, the state is
            reset between this step and the one before, in every direction, and no gradient flows across
        reset_to: "zeros" or "hx" — the state to reset to. With "hx", gradients flow to hx; if hx is omitted it means zeros

        Raises what torch.nn.RNN raises for input and hx; ValueError for lengths that are not integers, not one per
        sequence, negative or above T, for lengths together with a PackedSequence, for a reset of another shape, dtype
        or packing, and for an unknown reset_to.
        """
        states = None if hx is None else (hx,)
        return self._run(input, states, lengths, reset, reset_to)[:2]


class GRU(Recurrent, torch.nn.GRU):
    """Gated recurrent unit, a drop-in torch.nn.GRU with fused kernels.

    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype: torch.nn's
    recompute: recompute the gates in the backward instead of saving them. Takes more time, and less memory for long sequences
        only: with 32 sequences of up to 32 time steps it takes more. May be changed at any time (`module.recompute = True`)

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
        """Run the layer over whole sequences and return the output and the final state h_n; arguments as in RNN.forward."""
        states = None if hx is None else (hx,)
        return self._run(input, states, lengths, reset, reset_to)[:2]


class LSTM(Recurrent, torch.nn.LSTM):
    """Long short-term memory with optional projection, a drop-in torch.nn.LSTM with fused kernels.

    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype: torch.nn's
    recompute: recompute the gates in the backward instead of saving them. Takes more time, and less memory for long sequences
        only: with 32 sequences of up to 32 time steps it takes more. May be changed at any time (`module.recompute = True`)

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
        """Run the layer over whole sequences and return the output, the final states (h_n, c_n) and on request c.

        Arguments and errors are those of RNN.forward, except for
        hx: ((L*D, B, P), (L*D, B, H)), without B for an unbatched input — initial states h_0, c_0; zeros if omitted
        return_cell_states: also return, third, the cell states of all time steps of the last layer, laid out as the output
        """
        states = None if hx is None else functional.pair(hx)
        y, h_n, c_n, c = self._run(input, states, lengths, reset, reset_to, return_cell_states)
        return (y, (h_n, c_n), c) if return_cell_states else (y, (h_n, c_n))
