"""What the benchmarks share: who may be timed, how contenders take turns, and what is said of the ratios."""

import itertools
import math
import statistics
import subprocess
import time
import timeit
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
OURS = "fusedrnn"
SAMPLE_SECONDS = 2e-3  # shorter passes are repeated to fill one sample
LEAST_ROUNDS = 5


def wall_clock(run, repeats):
    """Seconds that a pass takes, on the average of `repeats`."""
    return timeit.timeit(run, number=repeats) / repeats


def cuda_clock(run, repeats):
    """Seconds that a pass takes between two events on the GPU, its launches included."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(repeats):
        run()
    stop.record()
    stop.synchronize()
    return 1e-3 * start.elapsed_time(stop) / repeats


def relative_errors(results, truth):
    """The largest error of each tensor, in units of its largest true value; infinite where it is not a number."""
    if [r.shape for r in results] != [t.shape for t in truth]:
        return [math.inf] * len(truth)
    pairs = [(r.detach().double().cpu(), t) for r, t in zip(results, truth)]
    errors = [(r - t).abs().max().item() / (t.abs().max().item() or 1) for r, t in pairs]
    return [e if math.isfinite(e) else math.inf for e in errors]


def measure(passes, truth, eps, seconds, rounds=None, clock=wall_clock):
    """Verify the contenders, time those that are right, and return {name: its figures}, ready for a JSON file.

    Another order of the same sums: ours may be three times as far off as torch's, and a few roundings where torch
    happens to be exact. Torch's own only has to be no nonsense.
    """
    errors = {name: relative_errors(run(), truth) for name, run in passes.items()}
    yardstick = [3 * error + 16 * eps for error in next(iter(errors.values()))]
    results = {}
    for name, found in errors.items():
        bounds = yardstick if name.startswith(OURS) else [4 * eps**0.5] * len(truth)
        right = all(error <= bound for error, bound in zip(found, bounds))
        results[name] = {"error": max(found) if max(found) < math.inf else None, "right": right}  # no infinity in JSON
    right = {name: run for name, run in passes.items() if results[name]["right"]}
    for name, samples in time_in_turns(right, seconds, rounds, clock).items():
        deciles = statistics.quantiles(samples, n=10, method="inclusive") if len(samples) > 1 else samples
        figures = {"median_s": statistics.median(samples), "p10_s": deciles[0], "p90_s": deciles[-1]}
        results[name] |= {**figures, "rounds": len(samples)}
    return results


def time_in_turns(passes, seconds, rounds=None, clock=wall_clock):
    """Return {name: seconds per pass, one for each round}: `rounds` rounds, or as many as fit into `seconds`."""
    repeats = {}
    for name, run in passes.items():
        clock(run, 1)  # warm-up, after the run that was verified
        repeats[name] = max(1, round(SAMPLE_SECONDS / clock(run, 1)))
    samples = {name: [] for name in passes}
    start, order = time.perf_counter(), list(passes)
    for turn in itertools.count():
        if turn >= (rounds or LEAST_ROUNDS) and (rounds or time.perf_counter() - start > seconds):
            return samples
        for name in order if turn % 2 else order[::-1]:
            samples[name].append(clock(passes[name], repeats[name]))


def as_text(result):
    """Median and deciles in ms, or what is wrong."""
    if not result["right"]:
        return "WRONG, error " + ("not finite" if result["error"] is None else f"{result['error']:.1e}")
    return "{:.3f} ({:.3f} to {:.3f})".format(*(1e3 * result[key] for key in ("median_s", "p10_s", "p90_s")))


def verdict(ratios):
    """The geometric mean of {case: ratio} and the losses by name, one line each; nothing where there is none."""
    if not ratios:
        return []
    losses = [f"{name} ({ratio:.2f})" for name, ratio in ratios.items() if ratio < 1]
    mean = statistics.geometric_mean(ratios.values())
    return [f"geometric mean of {len(ratios)} ratios: {mean:.2f}", f"losses: {'; '.join(losses) or 'none'}"]


def commit():
    """What git calls this version, or None."""
    try:
        git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    except OSError:  # no git
        return None
    return git.stdout.strip() or None
