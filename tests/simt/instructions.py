"""How many instructions of PTX a step of the persistent kernels takes, a warp: what can be said of their speed without a GPU.

From the root of the sources: python tests/simt/instructions.py [--help]. Needs nvcc, and minutes the first time. What PTX does in
one instruction may take the device several, such as a division, or none, such as the load of a parameter.
"""

import argparse
import os
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import torch  # noqa: E402
from simt.extension import host_executor  # noqa: E402

import fusedrnn  # noqa: E402

LAYERS = ["LSTM,16,512", "LSTM,64,256", "GRU,32,1024", "GRU,16,128", "RNN,16,512"]
SHORT, LONG = 3, 5  # time steps, whose difference leaves out what comes before the first and after the last


def instructions(layer, x, device, strategy):
    """(forward's, backward's) of a warp."""
    with host_executor(device, strategy) as simt:
        found = []
        y = layer(x)[0]
        found.append(simt.last_launch())
        y.sum().backward()
        found.append(simt.last_launch())
    return [launch["instructions"] / (launch["blocks"] * launch["threads"] / 32) for launch in found]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("layers", nargs="*", default=LAYERS, metavar="CELL,B,H")
    parser.add_argument("--arch", default="sm_90a", help="what nvcc compiles for: sm_90a")
    parser.add_argument("--dtype", default="float16", choices=["float16", "bfloat16", "float32"])
    parser.add_argument("--units", choices=["16", "32", "64", "128"], help="of a block; otherwise as planned")
    given = parser.parse_args()
    os.environ["FUSEDRNN_SIMT_PTX"] = given.arch
    device = "A100" if given.arch < "sm_90" else "H100"  # before 9.0 there are no clusters
    strategy = f"persistent/{given.units}" if given.units else "persistent"
    dtype = getattr(torch, given.dtype)
    print(f"{given.dtype + ', ' + given.arch:24}{'forward':>10}{'backward':>10}")
    for name in given.layers:
        cell, B, H = name.split(",")
        layer = getattr(fusedrnn, cell)(16, int(H)).to(dtype)
        xs = (torch.randn(T, int(B), 16).to(dtype) for T in (SHORT, LONG))
        short, long = (instructions(layer, x, device, strategy) for x in xs)
        a_step = [(after - before) / (LONG - SHORT) for before, after in zip(short, long, strict=True)]
        print(f"{f'{cell} B={B} H={H}':24}{a_step[0]:10.0f}{a_step[1]:10.0f}")


if __name__ == "__main__":
    main()
