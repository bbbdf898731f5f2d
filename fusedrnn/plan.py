"""The plan of a layer: which strategy runs it, how the work is divided, how much memory it needs, and why.

The plan is made by the same function that the kernels are launched with (csrc/core/plan.cpp and plan_cuda.cpp), so what
is printed is what runs. It depends only on the sizes and the device, so one can plan for a device that is not there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, overload

import torch

from . import _ops
from ._types import Cell, Strategy


@dataclass(frozen=True)
class Plan:
    """How one layer, with all its directions, is run on the CPU.

    strategy: "fused" — the whole sequence in one kernel; "single_step" — T <= 1
    isa: instruction set of the kernels
    threads: direction_parts * batch_parts * unit_parts * (1 + helpers); only the unit_parts meet at a barrier in every
        step
    helpers: 1 if each of these threads has a second one beside it, which computes the products of x, and d_x, for
        several time steps at once
    gradient_threads: threads that share the weights' gradients, after the time steps
    stretch_rows: rows (time steps × sequences) that the backward processes before it adds them to the weights'
        gradients, where it may not overwrite what was saved
    chunk: hidden units whose gates are computed together
    workspace_bytes: peak scratch memory of a call; saved_bytes: memory kept from forward to backward besides the output
    reason: why the plan is so
    """

    strategy: Literal["fused", "single_step"]
    isa: str
    threads: int
    direction_parts: int
    batch_parts: int
    unit_parts: int
    helpers: int
    gradient_threads: int
    stretch_rows: int
    chunk: int
    workspace_bytes: int
    saved_bytes: int
    reason: str

    def __str__(self) -> str:
        parts = f"{self.direction_parts} direction x {self.batch_parts} batch x {self.unit_parts} unit parts"
        parts += " x 2, one of them for the inputs" * self.helpers
        return (
            f"{self.strategy} on {self.isa}, {self.threads} thread(s) = {parts}, chunks of {self.chunk} units; "
            f"{self.gradient_threads} for the weights' gradients\n"
            f"  workspace {self.workspace_bytes:,} bytes, saved for the backward {self.saved_bytes:,} bytes\n"
            f"  because {self.reason}"
        )


@dataclass(frozen=True)
class CudaPass:
    """How the forward or the backward of one layer is run on CUDA.

    strategy: "stepwise" — a GEMM and a point-wise kernel per time step; "persistent" — one launch, weights kept on chip
    reason: why this strategy, and why not the other

    For a persistent pass only, otherwise None:
    scope: which threads exchange h in every step — those of a "block", a "cluster" or the "grid"
    blocks, threads: blocks of the launch, and threads of a block
    groups, slices: blocks = directions * groups * slices. The slices of a group divide the hidden units and meet at a
        barrier in every step; the groups divide the batch and never meet
    batch, units: sequences of a group, and hidden units of a block
    tiles, tiles_in_registers: weight tiles of a warp, and how many of them are in registers rather than shared memory
    shared_bytes: shared memory of a block
    """

    strategy: Literal["stepwise", "persistent"]
    reason: str
    scope: Literal["block", "cluster", "grid"] | None = None
    blocks: int | None = None
    threads: int | None = None
    groups: int | None = None
    slices: int | None = None
    batch: int | None = None
    units: int | None = None
    tiles: int | None = None
    tiles_in_registers: int | None = None
    shared_bytes: int | None = None

    def __str__(self) -> str:
        if self.strategy == "stepwise":
            return f"stepwise, because {self.reason}"
        return (
            f"persistent, {self.blocks} blocks of {self.threads} threads and {self.shared_bytes:,} bytes of shared "
            f"memory: {self.reason}"
        )


@dataclass(frozen=True)
class CudaPlan:
    """How one layer, with all its directions, is run on a CUDA device.

    workspace_bytes: scratch memory of a call; saved_bytes: memory kept from forward to backward besides the output
    """

    device: str
    forward: CudaPass
    backward: CudaPass
    workspace_bytes: int
    saved_bytes: int

    def __str__(self) -> str:
        return (
            f"on {self.device}\n  forward: {self.forward}\n  backward: {self.backward}\n"
            f"  workspace {self.workspace_bytes:,} bytes, saved for the backward {self.saved_bytes:,} bytes"
        )


KNOWN_DEVICES = tuple(sorted(_ops._C.cuda_devices()))
"""Names of the CUDA devices that one can plan for without having them."""


@overload
def plan(
    cell: Cell, T: int, B: int, H: int, *, input_size: int | None = ..., proj_size: int = ...,
    bidirectional: bool = ..., dtype: torch.dtype = ..., threads: int | None = ..., device: Literal["cpu"] = ...,
    strategy: Strategy | None = ..., batch_invariant: bool | None = ...,
) -> Plan: ...  # fmt: skip


@overload
def plan(
    cell: Cell, T: int, B: int, H: int, *, input_size: int | None = ..., proj_size: int = ...,
    bidirectional: bool = ..., dtype: torch.dtype = ..., threads: int | None = ..., device: torch.device | str,
    strategy: Strategy | None = ..., batch_invariant: bool | None = ...,
) -> Plan | CudaPlan: ...  # fmt: skip


def plan(
    cell: Cell,
    T: int,
    B: int,
    H: int,
    *,
    input_size: int | None = None,
    proj_size: int = 0,
    bidirectional: bool = False,
    dtype: torch.dtype = torch.float32,
    threads: int | None = None,
    device: torch.device | str = "cpu",
    strategy: Strategy | None = None,
    batch_invariant: bool | None = None,
) -> Plan | CudaPlan:
    """Return the plan of one layer for T time steps, B sequences and H hidden units.

    cell: "rnn_tanh", "rnn_relu", "lstm" or "gru", in capitals or not; "rnn", as a class is called, is "rnn_tanh"
    input_size: H if omitted; on the CPU the workspace depends on it
    threads: how many threads may be used on the CPU; by default torch.get_num_threads(), but no more than cores
    device: "cpu", a CUDA device of this machine, or the name of one of KNOWN_DEVICES, such as "H100"
    strategy: for CUDA: "auto", "stepwise" or "persistent"; by default that of `use_strategy`
    batch_invariant: for the CPU: by default that of `set_batch_invariant`

    Raises ValueError for an unknown cell, device or strategy, for an invalid size, and for a strategy that cannot run
    the layer on the device, with the numbers that forbid it.
    """
    given, cell = cell, {"rnn": "rnn_tanh"}.get(str(cell).lower(), str(cell).lower())
    if cell not in _ops.CELLS:
        raise ValueError(f"cell must be one of {', '.join(_ops.CELLS)}; got {given!r}")
    threads = _ops._C.usable_threads(torch.get_num_threads()) if threads is None else threads
    I = H if input_size is None else input_size
    least_of = {"T": (T, 0), "B": (B, 0), "input_size": (I, 0), "H": (H, 1), "proj_size": (proj_size, 0)}
    for name, (value, least) in (least_of | {"threads": (threads, 1)}).items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}; got {value}")
    if proj_size and cell != "lstm":
        raise ValueError(f"proj_size is for cell 'lstm' alone; got {proj_size} for {cell!r}")
    if proj_size >= H:
        raise ValueError(f"proj_size must be below H = {H}; got {proj_size}")
    sizes = cell, T, B, I, H, proj_size, 1 + bidirectional
    stored = str(dtype).removeprefix("torch.")
    if str(device) == "cpu":
        invariant = is_batch_invariant() if batch_invariant is None else batch_invariant
        return Plan(**_ops._C.plan(*sizes, stored, threads, invariant))
    name, figures = _device_figures(device)
    made = _ops._C.cuda_plan(*sizes, stored, strategy or _ops._C.requested_strategy(), name, *figures)
    passes = {which: CudaPass(**made.pop(which)) for which in ("forward", "backward")}
    return CudaPlan(device=name, **passes, **made)


def _device_figures(device: torch.device | str) -> tuple[str, tuple]:
    """A CUDA device's name, and its figures.

    These are its capability, multiprocessors, shared memory per block, largest cluster and, if known, how many clusters
    of each size run at once.
    """
    known = _ops._C.cuda_devices()
    if device in known:
        return device, known[device]
    try:
        there = torch.device(device)
    except RuntimeError:
        there = None
    if there is None or there.type != "cuda":
        raise ValueError(f"device must be 'cpu', a CUDA device or one of {', '.join(KNOWN_DEVICES)}; got {device!r}")
    if not torch.cuda.is_available():
        raise ValueError(f"there is no CUDA device here; plan for one of {', '.join(KNOWN_DEVICES)} by its name")
    if hasattr(_ops._C, "cuda_device"):
        return _ops._C.cuda_device(torch.cuda.current_device() if there.index is None else there.index)
    p = torch.cuda.get_device_properties(there)  # this build has no code for it
    capability = 10 * p.major + p.minor
    return p.name, (
        capability, p.multi_processor_count, p.shared_memory_per_block_optin, 8 if capability >= 90 else 0
    )  # fmt: skip


class _Setting:
    """Takes effect at once, for the whole process; as a context manager, until its end.

    A subclass has `_get` and `_set`.
    """

    def __init__(self, value) -> None:
        self._before = self._get()
        self._set(value)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._set(self._before)


class set_batch_invariant(_Setting):
    """Make a sequence's bits independent of its batch (CPU).

    By default, small inputs (up to 40 rows in all and 12 steps; 20 steps for one sequence) use a faster product with
    another summation order. It is up to five times as fast (at T = 2 and B = 1). A single sequence of any length uses
    yet another order, up to a seventh faster. With set_batch_invariant(True), a sequence's outputs and the gradients of
    its inputs and initial states have the same bits in any batch. One exception remains: a call whose longest sequence
    has one time step may give other bits than the same step in a longer call. Gradients of the weights are sums over
    the batch; their last bits also depend on whether the graph is kept and on recompute.

    With either setting, bits do not depend on the number of threads and are the same from run to run.

    Takes effect at once and for the whole process, because the backward runs on autograd's threads; as a context
    manager, until its end, like torch.set_grad_enabled. The default is False. No effect on CUDA.
    """

    _get, _set = staticmethod(_ops._C.batch_invariant), staticmethod(_ops._C.set_batch_invariant)

    def __init__(self, enabled: bool) -> None:
        super().__init__(enabled)


def is_batch_invariant() -> bool:
    """Return what `set_batch_invariant` has set."""
    return _ops._C.batch_invariant()


class use_strategy(_Setting):
    """Run layers on CUDA by one strategy: "auto", "stepwise" or "persistent".

    "persistent/16", /32, /64 or /128 is "persistent" in blocks of that many hidden units, whatever the plan thinks best.

    A layer that the strategy cannot run raises ValueError with the numbers that forbid it. No effect on the CPU.

    Takes effect at once and for the whole process, because the backward runs on autograd's threads; as a context
    manager, until its end, like torch.set_grad_enabled. The default is "auto".

    Raises ValueError for an unknown name.
    """

    _get, _set = staticmethod(_ops._C.requested_strategy), staticmethod(_ops._C.request_strategy)

    def __init__(self, name: Strategy) -> None:
        super().__init__(name)
