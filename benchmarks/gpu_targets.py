"""What gpu_check runs in processes of its own: every kernel for compute-sanitizer to watch, and the race."""

import dataclasses
import itertools
import json
import time

import torch

import fusedrnn

from . import timing
from .cases import LAYERS, Case, contenders, expected
from .timing import OURS

PASSES = {"train": "step", "infer": "infer"}  # name → pass of the contenders
STRATEGIES = ("auto", "stepwise", "persistent")
SHAPES = [(128, 1, 128), (256, 16, 256), (256, 16, 512), (100, 16, 768), (128, 64, 512), (128, 128, 1024)]  # T, B, H
# name → dtype, TF32 allowed, relative spacing of its numbers
PRECISIONS = {
    "float16": ("float16", False, 2**-10),
    "bfloat16": ("bfloat16", False, 2**-7),
    "float32": ("float32", False, 2**-23),
    "tf32": ("float32", True, 2**-10),
}


def sanitize(device="cuda"):
    """Every cell forward and backward in every strategy, small and ragged, at friendly and at odd sizes.

    Returns how many of them failed; what a strategy refuses to serve is no failure.
    """
    layers = [("LSTM", {}), ("LSTM", {"proj_size": 5}), ("GRU", {}), ("RNN", {}), ("RNN", {"nonlinearity": "relu"})]
    dtypes = (torch.float32, torch.float16)
    # 33 and 64 units stay in a block, 150 meet in a cluster; 1100 across the device, for the lightest of cells
    cases = list(itertools.product(STRATEGIES[1:], layers, dtypes, (33, 64, 150)))
    cases.append(("persistent", layers[-1], torch.float16, 1100))
    failed = 0
    for strategy, (name, given), dtype, H in cases:
        layer = getattr(fusedrnn, name)(7, H, bidirectional=True, **given).to(device, dtype)
        x = torch.randn(6, 5, 7, device=device, dtype=dtype, requires_grad=True)
        try:
            with fusedrnn.use_strategy(strategy):
                layer(x, lengths=[6, 3, 0, 5, 1])[0].float().sum().backward()
        except ValueError as refusal:
            print(f"{strategy} {name} {given} {dtype} H={H}: {refusal}")
        except RuntimeError as error:  # of a launch, after which the others may run
            print(f"{strategy} {name} {given} {dtype} H={H} failed: {error}")
            failed += 1
        if device == "cuda":
            torch.cuda.synchronize()  # raises where a kernel went wrong, and nothing runs any more
    return failed


def race(path, seconds, device="cuda", shapes=SHAPES, precisions=PRECISIONS, rounds=None, clock=timing.cuda_clock):
    """Measure row after row into a file of JSON lines until the time is up, in as many rounds as it allows."""
    end = time.monotonic() + seconds
    planned = left = len(shapes) * len(LAYERS) * len(precisions) * len(PASSES)
    for (T, B, H), cell in itertools.product(shapes, LAYERS):
        if time.monotonic() > end:
            return
        truth = contenders(Case(cell, B, T, H))[1].run("step")()
        for (name, (dtype, tf32, eps)), mode in itertools.product(precisions.items(), PASSES):
            if time.monotonic() > end:
                return
            case, title = Case(cell, B, T, H, dtype=dtype), f"{cell} T={T} B={B} H={H} {name} {mode}"
            print(title, flush=True)
            share = max(0.02, 0.5 * (end - time.monotonic()) / left)  # the other half to set up and to verify
            torch.backends.cuda.matmul.allow_tf32 = tf32
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32):
                rivals, refused = served({n: c.run(PASSES[mode]) for n, c in contenders(case, device)[0].items()})
                results = timing.measure(rivals, expected(truth, PASSES[mode]), eps, share, rounds, clock)
            record = row(title, T, results, refused) | {"pass": mode, "tf32": tf32, "rows": planned}
            with open(path, "a") as file:
                file.write(json.dumps({**dataclasses.asdict(case), **record}) + "\n")
            left -= 1


def served(passes):
    """torch.nn's pass and ours in each strategy that can serve, and why the others cannot.

    One that raises anything but a refusal is a rival, too: measuring it records its failure, and the race goes on.
    """
    rivals, refused = {"torch.nn": passes["torch.nn"]}, {}
    for strategy in STRATEGIES:
        rival = within(strategy, passes[OURS])
        try:
            rival()
        except ValueError as error:
            refused[strategy] = str(error).splitlines()[0]
            continue
        except RuntimeError:
            pass
        rivals[f"{OURS} {strategy}"] = rival
    return rivals, refused


def within(strategy, run):
    def chosen():
        with fusedrnn.use_strategy(strategy):
            return run()

    return chosen


def row(case, T, results, refused):
    """One row of the race; the ratio is torch.nn's time over that of the strategy which fusedrnn picks by itself."""
    for result in results.values():
        if result["right"]:
            result["per_step_us"] = 1e6 * result["median_s"] / T
    pair = [results.get(name, {}).get("median_s") for name in ("torch.nn", f"{OURS} auto")]
    return {"case": case, "contenders": results, "refused": refused, "ratio": pair[0] / pair[1] if all(pair) else None}
