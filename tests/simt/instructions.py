"""How many instructions of PTX a step of the persistent kernels takes, a warp: what can be said of their speed without a GPU.

From the root of the sources: python tests/simt/instructions.py [sm_90a]. Needs nvcc, and minutes the first time. What PTX does in
one instruction may take the device several, such as a division, or none, such as the load of a parameter.
"""

import os
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import torch  # noqa: E402
from simt.extension import host_executor  # noqa: E402

import fusedrnn  # noqa: E402

LAYERS = [("LSTM", 16, 512), ("LSTM", 64, 256), ("GRU", 32, 1024), ("GRU", 16, 128), ("RNN", 16, 512)]
SHORT, LONG = 3, 5  # time steps, whose difference leaves out what comes before the first and after the last


def instructions(layer, x, device):
    """(forward's, backward's) of a warp."""
    with host_executor(device, "persistent") as simt:
        found = []
        y = layer(x)[0]
        found.append(simt.last_launch())
        y.sum().backward()
        found.append(simt.last_launch())
    return [launch["instructions"] / (launch["blocks"] * launch["threads"] / 32) for launch in found]


def main(arch="sm_90a"):
    os.environ["FUSEDRNN_SIMT_PTX"] = arch
    device = "A100" if arch < "sm_90" else "H100"  # before 9.0 there are no clusters
    print(f"{'float16, ' + arch:24}{'forward':>10}{'backward':>10}")
    for name, B, H in LAYERS:
        layer = getattr(fusedrnn, name)(16, H).half()
        short, long = (instructions(layer, torch.randn(T, B, 16).half(), device) for T in (SHORT, LONG))
        a_step = [(after - before) / (LONG - SHORT) for before, after in zip(short, long, strict=True)]
        print(f"{f'{name} B={B} H={H}':24}{a_step[0]:10.0f}{a_step[1]:10.0f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
