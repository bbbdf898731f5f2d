"""Fused recurrent layers for PyTorch: drop-in RNN, LSTM, GRU and their cells."""

from . import _ops  # first: it loads the extension, or says how to repair it  # isort: skip
from . import _dynamo, functional, onnx
from ._ops import release_scratch
from ._version import __version__
from .convert import convert, revert
from .functional import Weights
from .modules import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from .plan import KNOWN_DEVICES, CudaPass, CudaPlan, Plan, is_batch_invariant, plan, set_batch_invariant, use_strategy

_dynamo.allow((RNN, LSTM, GRU))

__all__ = [
    "RNN",
    "LSTM",
    "GRU",
    "RNNCell",
    "LSTMCell",
    "GRUCell",
    "KNOWN_DEVICES",
    "CudaPass",
    "CudaPlan",
    "Plan",
    "Weights",
    "convert",
    "functional",
    "is_batch_invariant",
    "onnx",
    "plan",
    "release_scratch",
    "revert",
    "set_batch_invariant",
    "use_strategy",
    "__version__",
]
