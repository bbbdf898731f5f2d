"""What gpu_check runs in processes of its own: every kernel for compute-sanitizer to watch, and the race."""

import collections
import dataclasses
import functools
import itertools
import os
import time

import torch

import fusedrnn

from . import outcomes, timing
from .cases import LAYERS, Case, contenders, expected, true_step
from .timing import OURS

PASSES = {"train": "step", "infer": "infer"}  # name → pass of the contenders
STRATEGIES = ("auto", "stepwise", "persistent")
# torch.nn comes first: its time is known, whatever ours does after it
RIVALS = {"torch.nn": None, **{f"{OURS} {strategy}": strategy for strategy in STRATEGIES}}
# What the plan chooses among, to see whether it chooses well.
CUTS = {f"{OURS} {strategy}": strategy for strategy in (f"persistent/{units}" for units in (16, 32, 64, 128))}
CUT = ("lstm", "float16")  # the layers that are cut so, for all would take too long
# T, B, H, large and small in turn: a race that ends early has some of both
SHAPES = [(128, 128, 1024), (128, 1, 128), (128, 64, 512), (256, 16, 256), (256, 16, 512), (100, 16, 768)]
CLOCK = timing.watched(timing.cuda_clock)
MOST_LOST = 2  # processes that a rival may take with it before it is left out of the rest
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
    # 15 units stay in a block, 64 and 150 meet in a cluster; 1100 across the device, for the lightest of cells
    cases = list(itertools.product(STRATEGIES[1:], layers, dtypes, (15, 64, 150)))
    cases.append(("persistent", layers[-1], torch.float16, 1100))
    say = functools.partial(print, flush=True)  # or what was said last is lost where a kernel hangs
    failed = 0
    for strategy, (name, given), dtype, H in cases:
        title = f"{strategy} {name} {given} {dtype} H={H}"
        say(title)
        try:
            layer = getattr(fusedrnn, name)(7, H, bidirectional=True, **given).to(device, dtype)
            x = torch.randn(6, 5, 7, device=device, dtype=dtype, requires_grad=True)
            with fusedrnn.use_strategy(strategy):
                layer(x, lengths=[6, 3, 0, 5, 1])[0].float().sum().backward()
            if device == "cuda":
                torch.cuda.synchronize()  # raises where a kernel went wrong
        except ValueError as refusal:
            say(f"{title}: {refusal}")
        except RuntimeError as error:
            say(f"{title} failed: {error}")
            failed += 1
            if outcomes.context_is_lost():
                say("the CUDA context is lost: nothing after it can run")
                break
    return failed


def race(path, seconds, device="cuda", shapes=SHAPES, precisions=PRECISIONS, rounds=None, clock=CLOCK):
    """Measure rival after rival, row after row, until the time is up, and write what comes of it; what had begun
    is left out.

    Where a kernel takes the CUDA context with it, the process ends, for another one to go on.
    """
    end = time.monotonic() + seconds
    begun = outcomes.read(path)
    fatal = [record for record in begun.values() if record["outcome"] == "begun" or record["lost"]]
    lost = collections.Counter(record["rival"] for record in fatal)
    rows = list(itertools.product(shapes, LAYERS, precisions.items(), PASSES.items()))
    planned = [(row, rival) for row in rows for rival in (*RIVALS, *(CUTS if (row[1], row[2][0]) == CUT else ()))]
    left = len(planned) - len(begun)
    for ((T, B, H), cell, (name, (dtype, tf32, eps)), (word, mode)), rival in planned:
        case, title = Case(cell, B, T, H, dtype=dtype), f"{cell} T={T} B={B} H={H} {name} {word}"
        record = {"test": f"{title}: {rival}", "rival": rival}
        if record["test"] in begun:
            continue
        if time.monotonic() > end:
            return
        of_row = {"case": title, "pass": mode, "tf32": tf32, "rows": len(rows)}
        record["row"] = dataclasses.asdict(case) | of_row
        print(record["test"], flush=True)
        outcomes.write(path, **record, outcome="begun")
        share = max(0.02, 0.5 * (end - time.monotonic()) / left)  # the other half to set up and to verify
        torch.backends.cuda.matmul.allow_tf32 = tf32
        theirs = rival == "torch.nn" or begun[f"{title}: torch.nn"]["outcome"] == "passed"
        timed = {"eps": eps, "seconds": share, "rounds": rounds, "clock": clock}
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32):
            if lost[rival] < MOST_LOST:
                record |= measured(case, mode, rival, theirs, device, **timed)
            else:
                record |= {"outcome": "refused", "message": f"left out: it has taken {lost[rival]} processes with it"}
        record["lost"] = outcomes.context_is_lost()
        outcomes.write(path, **record)
        if record["lost"]:
            os._exit(outcomes.LOST)  # an orderly end would wait for the GPU
        begun[record["test"]] = record
        left -= 1


def measured(case, mode, rival, theirs, device, **timed):
    """The outcome of a rival, which takes turns with torch.nn, as far as `theirs` says that torch.nn runs."""
    try:
        truth = expected(truth_of(dataclasses.replace(case, dtype="float32"), device), mode)
        found = company(case, device)
        passes = {"torch.nn": found["torch.nn"].run(mode)} if theirs else {}
        strategy = (RIVALS | CUTS)[rival]
        if strategy:
            passes[OURS] = within(strategy, found[OURS].run(mode))
            refusal = refused(passes[OURS])
            if refusal:
                return {"outcome": "refused", "message": refusal}
        results = timing.measure(passes, truth, **timed)
        result = results[OURS if strategy else rival]
        result |= {"ratio": results["torch.nn"]["ratio"]} if "ratio" in results.get("torch.nn", {}) else {}
    except Exception as error:  # in setting it up: out of memory, say
        result = timing.failure(error)
    if result["right"]:
        result["per_step_us"] = 1e6 * result["median_s"] / case.T
    return {"outcome": "passed" if result["right"] else "failed", "result": result}


@functools.lru_cache(maxsize=1)  # all precisions of a layer come one after the other
def truth_of(case, device):
    return true_step(case, device)


@functools.lru_cache(maxsize=1)  # and both passes of a precision
def company(case, device):
    return contenders(case, device)[0]


def refused(run):
    """Why a strategy cannot serve, or None; what goes wrong besides is recorded by who measures it."""
    try:
        run()
    except ValueError as error:
        return str(error).splitlines()[0]
    except RuntimeError:
        pass
    return None


def within(strategy, run):
    def chosen():
        with fusedrnn.use_strategy(strategy):
            return run()

    return chosen
