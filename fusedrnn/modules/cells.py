"""RNNCell, LSTMCell and GRUCell: torch.nn's cells, one step each, with our forward pass.

Constructor, parameters and everything else are torch.nn's. Weights are read by name at every call.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import functional
from ..functional import Weights
from .base import Untraced, refuse_tracers, weights_of


class Cell(Untraced):
    """What the cells share, mixed into a subclass of torch.nn.RNNCellBase."""

    def _weights(self) -> Weights:
        return Weights(*weights_of(self, ("weight_ih", "weight_hh", "bias_ih", "bias_hh")))

    def _batch(self, input: Tensor, *states: Tensor) -> list[Tensor]:
        """Check sizes, in torch.nn's words, and return input and states with a batch dimension."""
        refuse_tracers(input)
        if input.dim() == 2 and input.shape[1] == self.input_size:
            expected = (input.shape[0], self.hidden_size)
            for state in states:
                if state.shape != expected:
                    break
            else:
                return [input, *states]  # nothing to say: what follows takes as long as the step
        names = ("hx[0]", "hx[1]") if len(states) == 2 else ("hidden",)
        for name, tensor in zip(("input", *names), (input, *states)):
            if tensor.dim() not in (1, 2):
                raise ValueError(f"{self._get_name()}: Expected {name} to be 1D or 2D, got {tensor.dim()}D instead")
            if tensor.dim() != input.dim():
                raise RuntimeError(
                    f"{self._get_name()}: Expected {name} to be {input.dim()}D as input is, got {tensor.dim()}D instead"
                )
        if input.dim() == 1:
            input, states = input.unsqueeze(0), [state.unsqueeze(0) for state in states]
        if input.size(1) != self.input_size:
            raise RuntimeError(f"input has inconsistent input_size: got {input.size(1)} expected {self.input_size}")
        for i, state in enumerate(states):
            if state.size(0) != input.size(0):
                raise RuntimeError(f"Input batch size {input.size(0)} doesn't match hidden{i} batch size {state.size(0)}")
            if state.size(1) != self.hidden_size:
                raise RuntimeError(
                    f"hidden{i} has inconsistent hidden_size: got {state.size(1)}, expected {self.hidden_size}"
                )
        return [input, *states]


class RNNCell(Cell, torch.nn.RNNCell):
    """One step of an Elman RNN (tanh or relu), a drop-in torch.nn.RNNCell.

    Source: torch.nn.RNNCell's documentation, for the constructor's arguments and the formula.
    """

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Return the next state (B, H) from input (B, I) and state (B, H); all without B for one sample."""
        x, *states = self._batch(input) if hx is None else self._batch(input, hx)
        h = functional.rnn_cell(x, self._weights(), *states, nonlinearity=self.nonlinearity)
        return h if input.dim() == 2 else h.squeeze(0)


class GRUCell(Cell, torch.nn.GRUCell):
    """One step of a GRU, a drop-in torch.nn.GRUCell.

    Source: torch.nn.GRUCell's documentation, for the constructor's arguments and the formula.
    """

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Return the next state (B, H) from input (B, I) and state (B, H); all without B for one sample."""
        x, *states = self._batch(input) if hx is None else self._batch(input, hx)
        h = functional.gru_cell(x, self._weights(), *states)
        return h if input.dim() == 2 else h.squeeze(0)


class LSTMCell(Cell, torch.nn.LSTMCell):
    """One step of an LSTM, a drop-in torch.nn.LSTMCell.

    Source: torch.nn.LSTMCell's documentation, for the constructor's arguments and the formula.
    """

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Return the next (h, c), (B, H) each, from input (B, I) and hx = (h, c); all without B for one sample."""
        x, *states = self._batch(input, *(() if hx is None else hx))
        h, c = functional.lstm_cell(x, self._weights(), states or None)
        return (h, c) if input.dim() == 2 else (h.squeeze(0), c.squeeze(0))
