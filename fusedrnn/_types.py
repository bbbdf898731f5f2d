"""Types that several signatures share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from torch import Tensor

Cell = Literal["rnn_tanh", "rnn_relu", "rnn", "lstm", "gru", "RNN", "LSTM", "GRU"]
Nonlinearity = Literal["tanh", "relu"]
ResetTo = Literal["zeros", "hx"]
Strategy = Literal[
    "auto", "stepwise", "persistent", "persistent/16", "persistent/32", "persistent/64", "persistent/128"
]


class Array(Protocol):
    """What torch.tensor takes as it takes NumPy's arrays."""

    def __array__(self) -> Any: ...


Lengths = Tensor | Array | Sequence[int]
Flags = Tensor | Array | Sequence[bool] | Sequence[Sequence[bool]]
