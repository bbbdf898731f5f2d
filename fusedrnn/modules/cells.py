"""RNNCell, LSTMCell and GRUCell: torch.nn's cells, which run one time step per call, with our forward pass.

Everything else, such as constructor and parameters, is torch.nn's. Weights are read by name in every call.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _ops, functional
from .base import Ours, refuse_tracers, weights_of

_call = _ops.direct("cell_module", None)  # most calls: an LSTM's, one thread, B=1 H=64 in 9.9 µs instead of 12.7
_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Cell(Ours):
    """What the cells share, mixed into a subclass of torch.nn.RNNCellBase."""

    def _step(self, cell: str, input: Tensor, h_0: Tensor | None, c_0: Tensor | None) -> tuple[Tensor, Tensor]:
        """Run one time step and return h and, for an LSTM, c: (B, H), or (H,) for an input without B."""
        if self._weights_are_plain and not torch.compiler.is_dynamo_compiling():
            results = _call(self.__dict__, cell, input, h_0, c_0)
            if results is not None:
                return results
        refuse_tracers(input)
        x = input
        if not Cell._fits(self, x, h_0, c_0):
            x, h_0, c_0 = Cell._batched(self, x, h_0, c_0)
        h, c = functional.run_cell(cell, x, h_0, c_0, *weights_of(self, _WEIGHTS))
        return (h, c) if x is input else (h.squeeze(0), c.squeeze(0) if cell == "lstm" else c)

    def _fits(self, x: Tensor, *states: Tensor | None) -> bool:
        if x.dim() != 2 or x.shape[1] != self.input_size:
            return False
        expected = (x.shape[0], self.hidden_size)
        for state in states:
            if state is not None and state.shape != expected:
                return False
        return True

    def _batched(self, input: Tensor, h_0: Tensor | None, c_0: Tensor | None) -> list[Tensor | None]:
        """Return input and states with a batch dimension, or raise torch.nn's error for what does not fit."""
        states = [state for state in (h_0, c_0) if state is not None]
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
                raise RuntimeError(
                    f"Input batch size {input.size(0)} doesn't match hidden{i} batch size {state.size(0)}"
                )
            if state.size(1) != self.hidden_size:
                raise RuntimeError(
                    f"hidden{i} has inconsistent hidden_size: got {state.size(1)}, expected {self.hidden_size}"
                )
        return [input, *states, *[None] * (2 - len(states))]


class RNNCell(Cell, torch.nn.RNNCell):
    """One time step of an Elman RNN (tanh or relu), a drop-in torch.nn.RNNCell.

    input_size, hidden_size, bias, nonlinearity, device, dtype: torch.nn's

    Source: torch.nn.RNNCell's documentation, for the constructor's arguments and the formula.
    """

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Return the next state (B, H) from input (B, I) and state (B, H); or all without B, for a single sample."""
        return Cell._step(self, functional.cell_of(self.nonlinearity), input, hx, None)[0]


class GRUCell(Cell, torch.nn.GRUCell):
    """One time step of a GRU, a drop-in torch.nn.GRUCell.

    input_size, hidden_size, bias, device, dtype: torch.nn's

    Source: torch.nn.GRUCell's documentation, for the constructor's arguments and the formula.
    """

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Return the next state (B, H) from input (B, I) and state (B, H); or all without B, for a single sample."""
        return Cell._step(self, "gru", input, hx, None)[0]


class LSTMCell(Cell, torch.nn.LSTMCell):
    """One time step of an LSTM, a drop-in torch.nn.LSTMCell.

    input_size, hidden_size, bias, device, dtype: torch.nn's

    Source: torch.nn.LSTMCell's documentation, for the constructor's arguments and the formula.
    """

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Return the next (h, c), (B, H) each, from input (B, I) and hx = (h, c); or all without B, for one sample."""
        if hx is not None and type(hx) is not tuple:
            refuse_tracers(input)  # whose stand-ins have no length
        h_0, c_0 = (None, None) if hx is None else functional.pair(hx)
        return Cell._step(self, "lstm", input, h_0, c_0)
