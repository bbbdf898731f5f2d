"""What is installed and what it was built with, as text for a bug report."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from . import _ops
from ._version import __version__


def facts() -> dict[str, str]:
    """Return a description of this installation: name → value."""
    return {
        "fusedrnn": __version__,
        "location": str(Path(__file__).parent),
        **_ops.build_info(),
        "running torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        **_devices(),
    }


def _devices() -> dict[str, str]:
    count = torch.cuda.device_count()
    if count and not torch.cuda.is_available():  # then torch raises where it is asked for a name
        return {"cuda devices": f"{count}, which torch {torch.__version__} cannot use: is the driver older than its CUDA?"}
    return {f"cuda:{i}": torch.cuda.get_device_name(i) for i in range(count)}


def info() -> str:
    """Return `facts` as aligned lines."""
    lines = facts()
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())
