"""What the layers share: conversion from torch.nn's calling conventions to that of `fusedrnn.functional`, and back.

Everything except the forward pass is inherited from torch.nn's modules: constructor, initialisation, parameter names,
serialisation, repr and argument checks. No attribute is added to an instance, so that a change of its class turns a
torch.nn module into one of ours (see `fusedrnn.convert`).

Weights are read by name in every call, never from torch.nn's list of them (`_flat_weights`), which goes stale under
functional_call, weight_norm and parametrizations.

Our own methods are called by their class's name: somebody's subclass of torch.nn.LSTM, of ours where `torch.nn.LSTM =
fusedrnn.LSTM`, may have a `_weights` or a `_step` that means something else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence

from .. import _ops, functional
from .._types import Flags, Lengths
from ..functional import Weights
from ..plan import CudaPlan, Plan, plan

Constructor = TypeVar("Constructor", bound=Callable[..., Any])

# Most calls in one: an LSTM's, one step of H = 64, in 15 µs instead of 25, with initial states in 20 instead of 37; on
# a later machine, H = 8, with resets or lengths in 5.2 instead of 9.3.
_call = _ops.direct("module", None)


def weights_of(module: Ours, names: Sequence[str]) -> list[Tensor | None]:
    """Return the current weights of those names: parameters, or what a reparametrisation puts in their place."""
    plain = module._parameters if module._weights_are_plain else {}  # an eighth of getattr's time
    return [plain[name] if name in plain else getattr(module, name) for name in names]


def refuse_tracers(input) -> None:
    """Raise NotImplementedError under tracers that know torch.nn's classes but cannot follow our forward."""
    if torch.jit.is_tracing():
        _refuse("torch.jit.trace, or ONNX export without dynamo=True,", "torch.export or dynamo=True")
    if isinstance(input, torch.fx.Proxy):
        _refuse("torch.fx.symbolic_trace", "torch.export, or a Tracer whose is_leaf_module says yes to them")


def _refuse(tool: str, instead: str) -> None:
    raise NotImplementedError(f"{tool} cannot follow fusedrnn's layers: use {instead}, or fusedrnn.revert(model) first")


class Ours:
    """Mixed into every fusedrnn module."""

    _weights_are_plain = True  # or a subclass has a say in what is read under their names, as Pyro's modules have

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        by_torch = getattr(cls, "__getattr__", None) in (None, torch.nn.Module.__getattr__)
        by_class = any(name.startswith(("weight_", "bias_")) for base in cls.__mro__ for name in vars(base))
        cls._weights_are_plain = by_torch and cls.__getattribute__ is object.__getattribute__ and not by_class

    def __prepare_scriptable__(self):
        """Refuse torch.jit.script, which calls this before it reads any source."""
        _refuse("torch.jit.script", "torch.export")

    def _slow_forward(self, *args, **kwargs):
        """Answer torch.jit.trace before `forward`, to which ONNX export hands keyword-only defaults by position."""
        refuse_tracers(None)
        return super()._slow_forward(*args, **kwargs)


# What torch.nn's forward comes by, and a subclass may have of its own
_TORCHS_METHODS = (
    "check_forward_args", "check_hidden_size", "get_expected_hidden_size", "get_expected_cell_size", "permute_hidden"
)  # fmt: skip


class Recurrent(Ours):
    """The forward pass of a layer, mixed into a subclass of torch.nn.RNNBase.

    recompute: recompute the gates in the backward instead of saving them; may be set at any time
    """

    recompute = False
    _checks_are_ours = True  # or a subclass has some of these methods, which every call has to come by

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        homes = {getattr(getattr(cls, name), "__module__", None) for name in _TORCHS_METHODS if hasattr(cls, name)}
        cls._checks_are_ours = cls.check_input is Recurrent.check_input and homes == {torch.nn.RNNBase.__module__}

    def __init__(self, *args, recompute: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        if recompute:
            self.recompute = True

    def extra_repr(self) -> str:
        """What torch.nn prints of the layer, and recompute where it is on."""
        return super().extra_repr() + (", recompute=True" if self.recompute else "")

    def flatten_parameters(self) -> None:
        """Do nothing. torch.nn gathers the weights into one block for cuDNN; our kernels read them where they are."""

    def check_input(self, input: Tensor, batch_sizes: Tensor | None) -> None:
        """Check the input as torch.nn does, against the weights in use rather than `_flat_weights`.

        Raises ValueError if its dtype differs from the weights', RuntimeError for a wrong rank or size.
        """
        if self._weights_are_plain and not parametrize.is_parametrized(self, "weight_ih_l0"):
            # what is made anew whenever it is asked for is checked once it is (`_run_layers`)
            _check_dtype(input, weights_of(self, ("weight_ih_l0",))[0])
        dims = 3 if batch_sizes is None else 2
        if input.dim() != dims:
            raise RuntimeError(f"input must have {dims} dimensions, got {input.dim()}")
        if input.size(-1) != self.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {input.size(-1)}"
            )

    def plan(self, input: Tensor | PackedSequence) -> list[Plan | CudaPlan]:
        """Return how each layer would run this input, on its device and under the current autocast and `use_strategy`.

        input: as for `forward`; its values do not matter. A PackedSequence is planned as if all its sequences were as
            long as the longest
        """
        packed = isinstance(input, PackedSequence)
        x = input.data if packed else input
        if packed:
            T, B = len(input.batch_sizes), int(input.batch_sizes[0]) if len(input.batch_sizes) else 0
        elif x.dim() == 2:
            T, B = x.size(0), 1
        else:
            T, B = (x.size(1), x.size(0)) if self.batch_first else (x.size(0), x.size(1))
        dtype = torch.get_autocast_dtype(x.device.type) if functional.autocasts(x) else x.dtype
        device = "cpu" if x.device.type == "cpu" else x.device
        alike = {"proj_size": self.proj_size, "bidirectional": self.bidirectional, "dtype": dtype, "device": device}
        width = (1 + self.bidirectional) * (self.proj_size or self.hidden_size)
        return [
            plan(self.mode.lower(), T, B, self.hidden_size, input_size=width if layer else self.input_size, **alike)
            for layer in range(self.num_layers)
        ]

    def _weights(self) -> list[Weights]:
        weights = []
        for names in self._all_weights:
            tensors = weights_of(self, names)
            w_hr = tensors.pop() if self.proj_size else None
            weights.append(Weights(*tensors, w_hr=w_hr))
        return weights

    def _run(self, input, states, lengths, reset, reset_to, cell_states=False):
        """Run all layers and return y, h_n, c_n and c in the caller's layout.

        states: the initial states: the tuple (h_0,), or an LSTM's hx as it was given, or None
        """
        if self._checks_are_ours and self._weights_are_plain and not torch.compiler.is_dynamo_compiling():
            results = _call(self.__dict__, input, states, lengths, reset, reset_to, cell_states, self.recompute)
            if results is not None:
                return results
        refuse_tracers(input)
        if states is not None and self.mode == "LSTM":
            states = functional.pair(states)
        if isinstance(input, PackedSequence):
            return Recurrent._run_packed(self, input, states, lengths, reset, reset_to, cell_states)
        batched = input.dim() == 3
        if not batched:
            if input.dim() != 2:
                raise ValueError(f"{self._get_name()}: Expected input to be 2D or 3D, got {input.dim()}D instead")
            input = input.unsqueeze(0 if self.batch_first else 1)
        if states is not None:
            states = [_batched_state(state, batched) for state in states]
        Recurrent._check(self, input, states, None)
        if lengths is not None:
            lengths = _as_lengths(lengths, input.size(0 if self.batch_first else 1), batched)
        if reset is not None:
            reset = _as_reset(reset, input, batched, self.batch_first)
        if self.batch_first:
            input = input.transpose(0, 1)
        y, h_n, c_n, c = Recurrent._run_layers(self, input, states, None, lengths, reset, reset_to, cell_states)
        if not batched:
            y, h_n = y.squeeze(1), h_n.squeeze(1)
            if self.mode == "LSTM":
                c_n, c = c_n.squeeze(1), c.squeeze(1) if cell_states else c
        elif self.batch_first:
            y, c = _batch_first_again(y), _batch_first_again(c) if cell_states else c
        return y, h_n, c_n, c

    def _run_packed(self, input, states, lengths, reset, reset_to, cell_states):
        if lengths is not None:
            raise ValueError("lengths belong to a padded input; a PackedSequence brings its own")
        x, batch_sizes, sorted_indices, unsorted_indices = input
        Recurrent._check(self, x, states, batch_sizes)
        if states is not None:
            states = Recurrent._permuted(self, states, sorted_indices)
        if reset is not None:
            reset = _as_packed_reset(reset, input)
        y, h_n, c_n, c = Recurrent._run_layers(self, x, states, batch_sizes, None, reset, reset_to, cell_states)
        if self.mode == "LSTM":
            h_n, c_n = Recurrent._permuted(self, (h_n, c_n), unsorted_indices)
        else:
            (h_n,) = Recurrent._permuted(self, (h_n,), unsorted_indices)
        y, c = (PackedSequence(rows, batch_sizes, sorted_indices, unsorted_indices) for rows in (y, c))
        return y, h_n, c_n, c

    def _permuted(self, states, order):
        if self._checks_are_ours:  # torch.nn's own permute_hidden, which torch 2.8's Dynamo cannot trace
            return states if order is None else [state.index_select(1, order) for state in states]
        states = tuple(states) if self.mode == "LSTM" else states[0]
        hidden = self.permute_hidden(states, order)  # a subclass's, perhaps
        return hidden if self.mode == "LSTM" else (hidden,)

    def _run_layers(self, x, states, batch_sizes, lengths, reset, reset_to, cell_states):
        h_0, c_0 = (None, None) if states is None else states if self.mode == "LSTM" else (*states, None)
        weights = Recurrent._weights(self)
        _check_dtype(x, weights[0].w_ih)
        return functional.run_layers(
            self.mode.lower(),
            x,
            weights,
            h_0,
            c_0,
            self.bidirectional,
            self.dropout,
            self.training,
            batch_sizes,
            lengths,
            reset,
            reset_to,
            cell_states,
            self.recompute,
        )

    def _check(self, x, states, batch_sizes):
        # How many sequences a packed input has is a value, which no compiler knows: the operator compares it with the
        # states.
        left_to_the_operator = batch_sizes is not None and torch.compiler.is_compiling()
        if self._checks_are_ours and (states is None or left_to_the_operator):
            return self.check_input(x, batch_sizes)
        if states is None:  # a subclass's checks get zeros, as from torch.nn
            count = self.num_layers * (1 + self.bidirectional)
            widths = self.proj_size or self.hidden_size, self.hidden_size
            B = x.size(0 if self.batch_first else 1) if batch_sizes is None else int(batch_sizes[0])
            states = [x.new_zeros(count, B, width) for width in widths[: 1 + (self.mode == "LSTM")]]
        self.check_forward_args(x, states if self.mode == "LSTM" else states[0], batch_sizes)


def constructor(shown: Constructor) -> Constructor:
    """Make a layer's constructor with a signature for help() and type checkers; torch.nn's shows only *args, **kwargs.

    Arguments are passed on unchanged: torch.nn reads and refuses them.
    """

    @functools.wraps(shown)
    def __init__(self, *args, **kwargs):
        Recurrent.__init__(self, *args, **kwargs)

    return __init__


def _batch_first_again(y: Tensor) -> Tensor:
    """Return y (B, T, ...) of (T, B, ...).

    Where no gradient is recorded it is no view, which could not be changed in place later.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return y.transpose(0, 1)
    with torch._C._AutoDispatchBelowADInplaceOrView():
        return y.transpose(0, 1)


def _check_dtype(input: Tensor, weight: Tensor) -> None:
    if input.dtype != weight.dtype and not functional.autocasts(input):
        raise ValueError(
            f"RNN input dtype ({input.dtype}) does not match weight dtype ({weight.dtype}). "
            f"Convert input: input.to({weight.dtype}), or convert model: model.to({input.dtype})"
        )


def _batched_state(state: Tensor, batched: bool) -> Tensor:
    dims = 3 if batched else 2
    if state.dim() != dims:
        kind = "batched" if batched else "unbatched"
        raise RuntimeError(f"For {kind} {dims}-D input, hx should also be {dims}-D but got {state.dim()}-D tensor")
    return state if batched else state.unsqueeze(1)


def _as_lengths(lengths: Lengths | int, B: int, batched: bool) -> Tensor:
    """Check lengths against the caller's layout and return them as (B,); the op checks their values."""
    lengths = functional.lengths_as_tensor(lengths)
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        raise ValueError(f"lengths must be integers; got {lengths.dtype}")
    expected = (B,) if batched else ()
    if tuple(lengths.shape) != expected:
        name = "(B,) = " if batched else ""
        raise ValueError(f"lengths must be {name}{expected}; got {tuple(lengths.shape)}")
    return lengths if batched else lengths.unsqueeze(0)


def _as_reset(reset: Flags | PackedSequence, input: Tensor, batched: bool, batch_first: bool) -> Tensor:
    """Check reset against the input's own layout, and return it (T, B)."""
    if isinstance(reset, PackedSequence):
        raise ValueError("reset must be a tensor, as the input is; got a PackedSequence")
    reset = functional.reset_as_tensor(reset, input.device)
    name, expected = ("(B, T)" if batch_first else "(T, B)"), tuple(input.shape[:2])
    if not batched:
        name, expected = "(T,)", (input.size(1 if batch_first else 0),)
    if reset.dtype != torch.bool or tuple(reset.shape) != expected:
        raise ValueError(f"reset must be {name} = {expected} torch.bool; got {tuple(reset.shape)} {reset.dtype}")
    if not batched:
        return reset.unsqueeze(1)
    return reset.transpose(0, 1) if batch_first else reset


def _as_packed_reset(reset: PackedSequence, input: PackedSequence) -> Tensor:
    """Check that reset is packed as the input is, and return its rows (N,)."""
    if not isinstance(reset, PackedSequence):
        raise ValueError(f"reset must be a PackedSequence, as the input is; got a {type(reset).__name__}")
    rows, expected = reset.data, tuple(input.data.shape[:1])
    if rows.dtype != torch.bool or tuple(rows.shape) != expected:
        raise ValueError(f"reset must be packed (N,) = {expected} torch.bool; got {tuple(rows.shape)} {rows.dtype}")
    if not torch.compiler.is_compiling() and not _packed_alike(reset, input):
        raise ValueError(
            f"reset must be packed as the input is, with batch_sizes {input.batch_sizes.tolist()} and sorted_indices "
            f"{_values(input.sorted_indices)}; got {reset.batch_sizes.tolist()} and {_values(reset.sorted_indices)}"
        )
    return rows


def _packed_alike(a: PackedSequence, b: PackedSequence) -> bool:
    if not torch.equal(a.batch_sizes, b.batch_sizes):
        return False
    if a.sorted_indices is None or b.sorted_indices is None:
        return a.sorted_indices is b.sorted_indices
    if a.sorted_indices is b.sorted_indices or (a.sorted_indices.is_cuda and torch.cuda.is_current_stream_capturing()):
        return True  # nothing can be read while a graph is captured
    return torch.equal(a.sorted_indices, b.sorted_indices)


def _values(tensor: Tensor | None) -> list | None:
    return None if tensor is None else tensor.tolist()
