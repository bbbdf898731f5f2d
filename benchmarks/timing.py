"""What the benchmarks share: who may be timed, how contenders take turns, and what is said of the ratios."""

import contextlib
import itertools
import json
import math
import statistics
import subprocess
import tempfile
import time
import timeit
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
OURS, RECOMPUTE, WHOLE = "fusedrnn", "fusedrnn-recompute", "fusedrnn-whole"
TF32, TF32_SPACING = "torch.nn, TF32 as by default", 2**-10
SAMPLE_SECONDS = 2e-3  # shorter passes are repeated to fill one sample
LEAST_ROUNDS = 5
# Of the machine, by its speed, whose clock alone varies by a tenth, and by how long a contender waited for a processor:
# what is measured with less of it does not count, where enough was measured with more. Beside another process that
# computes, samples of 10 ms wait for 4 ms and more; on a calm machine they do not wait.
CALM = 0.85
PATIENCE = 2  # times the seconds that timing may take where it does not come to enough of that


def wall_clock(run, repeats):
    """Seconds that a pass takes, on the average of `repeats`; without its `prepare`, where it has one."""
    if not hasattr(run, "prepare"):
        return timeit.timeit(run, number=repeats) / repeats
    return sum(timeit.timeit(run, run.prepare, number=1) for _ in range(repeats)) / repeats


def cuda_clock(run, repeats):
    """Seconds that a pass takes between two events on the GPU, its launches included, its `prepare` not."""
    if hasattr(run, "prepare") and repeats > 1:
        return sum(cuda_clock(run, 1) for _ in range(repeats)) / repeats
    prepare(run)
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(repeats):
        run()
    stop.record()
    stop.synchronize()
    return 1e-3 * start.elapsed_time(stop) / repeats


def watched(clock):
    """The clock that returns (seconds, what part of the machine was there), of one that returns seconds."""

    def watching(run, repeats):
        start, before = time.perf_counter(), waited()
        seconds = clock(run, repeats)
        took = time.perf_counter() - start
        return seconds, took / (took + max(0, waited() - before))

    return watching


def waited():
    """Seconds for which this process' threads have waited for processors that others had, where the system tells."""
    total = 0
    for path in Path("/proc/self/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # the thread has ended
            total += int(path.read_text().split()[1])
    return 1e-9 * total


def prepare(run):
    """Do what a pass needs beforehand, where it needs something, and return the pass."""
    getattr(run, "prepare", lambda: None)()
    return run


def said_of(error):
    """The kind of an exception and its first line."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:200]}"


def relative_errors(results, truth):
    """The largest error of each tensor, in units of its largest true value; infinite where it is not a number."""
    if [r.shape for r in results] != [t.shape for t in truth]:
        return [math.inf] * len(truth)
    pairs = [(r.detach().double().cpu(), t) for r, t in zip(results, truth)]
    errors = [(r - t).abs().max().item() / (t.abs().max().item() or 1) for r, t in pairs]
    return [e if math.isfinite(e) else math.inf for e in errors]


def measure(
    passes, truth, eps, seconds, rounds=None, clock=watched(wall_clock), speed=None, truths=None, spacings=None
):
    """Verify the contenders, time those that are right, and return {name: its figures}, ready for a JSON file.

    truths: {name: what that one should return instead of `truth`}; spacings: {name: its numbers', instead of `eps`}.
    In 0 seconds nothing is timed. clock and speed: see `time_in_turns`; rounds in which others had the machine do not
    count.

    Another order of the same sums: ours may be three times as far off as torch's, and a few roundings where torch
    happens to be exact. In float64 the truth is torch's own and as rounded as ours (against 80 bits, an RNN's gradients of
    its weights over 4096 rows: torch's 14 eps off, ours 3), hence more of them. Torch's own only has to be no nonsense.
    What raises is recorded with its error.
    """
    results, yardstick = {}, None
    roundings = 64 if eps == torch.finfo(torch.float64).eps else 16  # as in tests/tolerances.py
    for name, run in passes.items():
        try:
            found = relative_errors(prepare(run)(), (truths or {}).get(name, truth))
        except Exception as error:  # out of memory included; an interrupt is none
            results[name] = failure(error)
            continue
        ours = name.startswith(OURS)
        yardstick = yardstick or (None if ours else [3 * error + roundings * eps for error in found])
        nonsense = 4 * (spacings or {}).get(name, eps) ** 0.5
        bounds = yardstick if ours and yardstick else [nonsense] * len(found)
        right = all(error <= bound for error, bound in zip(found, bounds))
        results[name] = {"error": max(found) if max(found) < math.inf else None, "right": right}  # no infinity in JSON
    right = {name: run for name, run in passes.items() if results[name]["right"]}
    if not seconds:
        return results
    samples, failures, speeds = time_in_turns(right, seconds, rounds, clock, speed)
    for name, error in failures.items():
        results[name] |= failure(error)
    counted = calm_rounds(speeds)
    samples = {name: [each[turn] for turn in counted] for name, each in samples.items()}
    for name, seconds_each in samples.items():
        results[name] |= {**figures(seconds_each), "rounds": len(seconds_each)}
        results[name] |= {"rounds_left_out": len(speeds) - len(counted)}
        results[name] |= {"speed": statistics.median(speeds[turn] for turn in counted)}
        if name != OURS and OURS in samples:
            results[name]["ratio"] = paired_ratio(seconds_each, samples[OURS])
    return results


def calm_rounds(speeds):
    """The rounds that count: those in which the machine had its speed, or so many as there must be, of the best."""
    calm = [turn for turn, speed in enumerate(speeds) if speed >= CALM]
    best = sorted(range(len(speeds)), key=lambda turn: -speeds[turn])[:LEAST_ROUNDS]
    return calm if len(calm) >= LEAST_ROUNDS else sorted(best)


def disturbed(row):
    """Whether others used the machine in most rounds of a row that count."""
    return (row.get("undisturbed") or 1) < CALM


def paired_ratio(theirs, ours):
    """How many times as long they took, in the median of the rounds: what slows the machine for some of these, slows both."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def of_limit(row, name):
    """How near a contender comes to the row's limit, None where that is not known: in the fastest decile of its rounds, for
    the limit is of a machine that nobody else uses, and those were the nearest to that."""
    return row["limit_s"] / row["contenders"][name]["p10_s"] if row["limit_s"] else None


def failure(error):
    return {"error": None, "right": False, "failed": said_of(error)}


def figures(samples):
    """Median and deciles."""
    deciles = statistics.quantiles(samples, n=10, method="inclusive") if len(samples) > 1 else samples
    return {"median_s": statistics.median(samples), "p10_s": deciles[0], "p90_s": deciles[-1]}


def time_in_turns(passes, seconds, rounds=None, clock=watched(wall_clock), speed=None):
    """Return ({name: seconds per pass, one for each round}, {name: what it raised}, [the machine's speed in each round]).

    There are `rounds` rounds, or as many as fit into `seconds`. What raises is out of the race. clock: see `watched`.
    speed: what part of its best speed the machine has just now, asked before and after each round, for a virtual one
    does not see who has its processors. The least of a round counts; where others have the machine, more are made.
    """
    repeats, samples, failures, speeds = {}, {name: [] for name in passes}, {}, []

    def attempt(name, count):
        try:
            return clock(passes[name], count)
        except Exception as error:
            failures[name] = error
            del samples[name]
            return None, None

    def done(turn):
        if rounds or turn < LEAST_ROUNDS:
            return turn >= (rounds or LEAST_ROUNDS)
        calm = sum(speed >= CALM for speed in speeds) >= LEAST_ROUNDS
        return time.perf_counter() - start > seconds * (1 if calm else PATIENCE)

    for name in passes:
        once, _ = attempt(name, 1)  # warm-up, after the run that was verified
        if once is not None and once < 10 * SAMPLE_SECONDS:
            once, _ = attempt(name, 1)
        repeats[name] = max(1, round(SAMPLE_SECONDS / once)) if once else 1
    speed = speed or (lambda: 1.0)
    start, before = time.perf_counter(), speed()
    for turn in itertools.count():
        if done(turn) or not samples:
            return samples, failures, speeds
        shares = []
        for name in list(samples) if turn % 2 else list(samples)[::-1]:
            sample, share = attempt(name, repeats[name])
            if sample is not None:
                samples[name].append(sample)
                shares.append(share)
        after = speed()
        speeds.append(min(before, after, *shares))
        before = after


def as_text(result):
    """Median and deciles in ms, or why there are none."""
    if "failed" in result:
        return result["failed"]
    if "skipped" in result:
        return "skipped"
    if not result["right"]:
        return "WRONG, error " + ("not finite" if result["error"] is None else f"{result['error']:.1e}")
    if "median_s" not in result:
        return "not timed"
    return "{:.3f} ({:.3f} to {:.3f})".format(*(1e3 * result[key] for key in ("median_s", "p10_s", "p90_s")))


def verdict(ratios):
    """The geometric mean of {case: ratio} and the losses by name, one line each; nothing where there is none."""
    if not ratios:
        return []
    losses = [f"{name} ({ratio:.2f})" for name, ratio in ratios.items() if ratio < 1]
    mean = statistics.geometric_mean(ratios.values())
    return [f"geometric mean of {len(ratios)} ratios: {mean:.2f}", f"losses: {'; '.join(losses) or 'none'}"]


def save(result, path):
    """Write a result as JSON beside the old file and then over it, so that there is always a whole one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    beside.replace(path)


def unwritable(path):
    """Why no file can be written there, or None; makes its folder."""
    if path.is_dir():
        return "it is a folder"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            return None
    except FileExistsError:
        return "its folder is a file"
    except OSError as error:
        return error.strerror


def commit():
    """What git calls this version, or None."""
    try:
        git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    except OSError:  # no git
        return None
    return git.stdout.strip() or None
