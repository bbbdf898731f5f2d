"""The plan of a layer: which strategy runs it, divided how, at what cost in memory, and why.

The plan is made by the very function that the kernels are launched with (csrc/core/plan.cpp), so what is printed is
what runs. It is a pure function of the sizes and of the machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from . import _ops


@dataclass(frozen=True)
class Plan:
    """How one layer, with all its directions, is run on the CPU.

    strategy: "fused" — the whole sequence in one kernel; "single_step" — T <= 1, products by GEMM
    isa: instruction set of the kernels
    threads: direction_parts * batch_parts * unit_parts; only unit_parts meet at a barrier every step
    chunk: hidden units whose gates are computed together
    workspace_bytes: scratch memory of a call; saved_bytes: kept from forward to backward besides the output
    reason: why it is so
    """

    strategy: str
    isa: str
    threads: int
    direction_parts: int
    batch_parts: int
    unit_parts: int
    chunk: int
    workspace_bytes: int
    saved_bytes: int
    reason: str

    def __str__(self) -> str:
        parts = f"{self.direction_parts} direction x {self.batch_parts} batch x {self.unit_parts} unit parts"
        return (
            f"{self.strategy} on {self.isa}, {self.threads} thread(s) = {parts}, chunks of {self.chunk} units\n"
            f"  workspace {self.workspace_bytes:,} bytes, saved for the backward {self.saved_bytes:,} bytes\n"
            f"  because {self.reason}"
        )


def plan(
    cell: str,
    T: int,
    B: int,
    H: int,
    *,
    proj_size: int = 0,
    bidirectional: bool = False,
    dtype: torch.dtype = torch.float32,
    threads: int | None = None,
) -> Plan:
    """Return the plan of one layer of T steps, B rows and H hidden units on this processor.

    cell: "rnn_tanh", "rnn_relu", "lstm" or "gru"
    threads: as many as may be used; torch.get_num_threads() if omitted

    Raises ValueError for an unknown cell or a size that no layer has.
    """
    if cell not in _ops.CELLS:
        raise ValueError(f"cell must be one of {', '.join(_ops.CELLS)}; got {cell!r}")
    threads = torch.get_num_threads() if threads is None else threads
    for name, value, least in (("T", T, 0), ("B", B, 0), ("H", H, 1), ("proj_size", proj_size, 0), ("threads", threads, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}; got {value}")
    if proj_size >= H:
        raise ValueError(f"proj_size must be below H = {H}; got {proj_size}")
    element_bytes = 8 if dtype == torch.float64 else 4
    return Plan(**_ops._C.plan(cell, T, B, H, proj_size, 1 + bidirectional, element_bytes, threads))
