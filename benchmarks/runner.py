"""Measures row after row within a budget of seconds and writes the result after each one.

Whatever happens in a row stays in it: a contender that is wrong is not timed, one that fails is recorded with its
error, and so is a row that cannot even be set up. Ctrl-C, the end of the budget and a CUDA context that a kernel has
taken with it leave what was measured. Rows during which others used the machine are measured again at the end. Launches
are counted last: a profiler that has once looked at a GPU slows down what runs there after it.
"""

import collections
import dataclasses
import functools
import gc
import time

import torch

from . import machine, memory, outcomes, timing
from .apart import Apart, Pass, ready, stopped
from .cases import Case, contenders, expected, true_step

TIMED = 0.35  # of a row's share of the budget; the rest is for verification and for memory
APART = ("cpu",)  # devices whose contenders have a process each
MOST_SECONDS = 1.5  # to time a row: beyond, the figures hardly change
AGAIN = 0.5  # of the budget, which that may take besides
COUNTING = 0.1  # of the budget, which counting launches may take besides
PAUSE = 0.5  # seconds, until a machine that others use is asked again


class ContextLost(Exception):
    """A kernel has left the CUDA context useless: nothing runs on the GPU any more in this process."""


def measure(case, mode, names, seconds, rounds=None, device="cpu", ceilings=None):
    """One row: verify every contender against float64, time those that are right, and take their peak of memory.

    In 0 seconds nothing is timed.
    """
    rivals, refused = company(case, device, names)
    truth = expected(whole_truth(case, device), mode)
    truths = {timing.WHOLE: expected(whole_truth(case.whole(), device), mode)} if timing.WHOLE in rivals else {}
    passes, results = {}, {}
    for name, rival in rivals.items():
        try:
            passes[name] = rival.run(mode)
        except Exception as error:
            results[name] = timing.failure(error)
    eps = torch.finfo(getattr(torch, case.dtype)).eps
    if case.dtype == "float32" and device == "cuda" and torch.backends.cuda.matmul.allow_tf32:
        eps = timing.TF32_SPACING
    here = timing.watched(timing.cuda_clock if device == "cuda" else timing.wall_clock)
    clock = Pass.clock if device in APART else here
    best = best_work(ceilings)
    speed = (lambda: best / working_time(ceilings)) if "work_s" in (ceilings or {}) else None
    spacings = {timing.TF32: timing.TF32_SPACING}
    results |= timing.measure(passes, truth, eps, seconds, rounds, clock, speed, truths, spacings)
    for name, run in passes.items():
        if results[name]["right"]:
            results[name] |= peak(run, device)
    results |= {name: {"right": False, "error": None, "skipped": reason} for name, reason in refused.items()}
    ratios = {name: result["ratio"] for name, result in results.items() if "ratio" in result}
    work = next((best / result["speed"] for result in results.values() if "speed" in result), None)
    row = blank(case, mode) | {"contenders": results, "ratios": ratios, "work_s": work}
    if case.ragged == "packed" and device == "cpu" and ceilings and seconds:
        with stopped():
            row["packing_s"] = machine.packing_seconds(case, mode)
    return judged(row, ceilings)


def blank(case, mode):
    """A row without figures."""
    row = {"case": str(case), "pass": mode, **dataclasses.asdict(case)}
    return row | {"contenders": {}, "ratios": {}, "flops": flops(case, mode), "work_s": None}


def failed(case, mode, names, error, ceilings):
    """The row of a case that cannot be set up."""
    return judged(blank(case, mode) | {"contenders": {name: timing.failure(error) for name in names}}, ceilings)


def judged(row, ceilings):
    """The row with what the ceilings say of it: its limit, and how undisturbed it was."""
    case = Case.of(row)
    row["limit_s"] = machine.limit(case, row["pass"], ceilings) if ceilings else None
    if row["limit_s"]:
        row["limit_s"] += row.get("packing_s", 0)
    row["undisturbed"] = min(1.0, best_work(ceilings) / row["work_s"]) if row["work_s"] else None
    return row


def best_work(ceilings):
    """Seconds that arithmetic takes at best, by which the machine's speed is told; any, where that is unknown."""
    return (ceilings or {}).get("work_s", 1.0)


def working_time(ceilings):
    """Seconds that arithmetic in registers takes just now, while no contender runs."""
    with stopped():
        return machine.working_time(ceilings)


@functools.lru_cache(maxsize=1)  # the passes of a case come one after the other
def company(case, device, names):
    """({name: a contender, in a process of its own where the device is one of APART}, {name: why it cannot run})."""
    found, _, refused = contenders(case, device, names)
    return {name: Apart(case, names, name) for name in found} if device in APART else found, refused


@functools.lru_cache(maxsize=2)
def whole_truth(case, device):
    return true_step(case, device)


def peak(run, device):
    try:
        return {"peak_bytes": run.peak() if device in APART else memory.peak(run, device)}
    except Exception as error:
        return {"memory_failed": timing.said_of(error)}


def count_launches(results, rows, device, seconds):
    """Add to the contenders of each row how many kernels they launch a step, for so many seconds."""
    end = time.perf_counter() + seconds
    for row, (case, mode, names) in zip(results, rows):
        timed = {name: figures for name, figures in row["contenders"].items() if figures["right"]}
        if time.perf_counter() > end:
            return
        for name, figures in timed.items():
            try:
                figures["launches_per_step"] = memory.launches(company(case, device, names)[0][name].run(mode)) / case.T
            except Exception as error:
                figures["launches_failed"] = timing.said_of(error)


def flops(case, mode):
    """Of the products of a pass: a backward has two for each of the forward."""
    return sum(case.products()) * {"backward": 2, "step": 3}.get(mode, 1)


def weight(case, mode):
    """About how long a row takes beside the others, in an arbitrary unit."""
    return 1 + flops(case, mode) / 2e10


def run(rows, seconds, facts, ceilings, path, options, watch=lambda row, done: None):
    """Measure `rows`, of (case, pass, contenders), and return the result; `watch` is told of each before it starts."""
    result = {"environment": facts, "suite": options.suite, "ceilings": ceilings, "complete": False, "results": []}
    if options.device in APART:
        ready()
    start = time.perf_counter()
    end = start + seconds
    pending = sum(weight(case, mode) for case, mode, _ in rows)
    shares = []

    def timed(number):
        case, mode, names = rows[number]
        watch(f"{case} {mode}", number)
        began = time.perf_counter()
        try:
            row = measure(case, mode, names, shares[number], options.rounds, options.device, ceilings)
        except Exception as error:
            row = failed(case, mode, names, error, ceilings)
        return row | {"seconds": round(time.perf_counter() - began, 2)}

    def save():
        result["seconds"] = round(time.perf_counter() - start, 1)
        timing.save(result, path)
        gc.collect()

    def check(number):
        if options.device == "cuda" and outcomes.context_is_lost():
            case, mode, _ = rows[number]
            raise ContextLost(f"{case} {mode}")

    def timed_again(number):
        row = timed(number)
        check(number)
        return row

    try:
        for number, (case, mode, _) in enumerate(rows):
            left = end - time.perf_counter()
            if left <= 0:
                result["ended"] = f"the budget of {seconds:.0f} s was used up after {number} of {len(rows)} rows"
                break
            share = min(MOST_SECONDS, TIMED * left * weight(case, mode) / pending)
            pending -= weight(case, mode)
            shares.append(0 if options.suite == "memory" else share)
            result["results"].append(timed(number))
            result["complete"] = number + 1 == len(rows)
            save()
            check(number)
        ceilings = result["ceilings"] = machine.higher(ceilings, machine.ceilings(options.dtype, options.device))
        for row in result["results"]:
            judged(row, ceilings)
        for number, row in again(result["results"], timed_again, AGAIN * seconds, ceilings):
            result["results"][number] = row
            save()
        if options.device == "cuda":
            count_launches(result["results"], rows, options.device, COUNTING * seconds)
    except KeyboardInterrupt:
        result["ended"] = f"interrupted after {len(result['results'])} of {len(rows)} rows; here is what was measured"
        result["interrupted"] = True
    except ContextLost as row:
        result["ended"] = f"{row} took the CUDA context with it, after {len(result['results'])} of {len(rows)} rows"
    finally:
        company.cache_clear()  # which ends the processes
    timing.save(result, path)
    return result


def again(results, timed, seconds, ceilings):
    """Yield (number, row anew) of rows that were disturbed, where that now went better, for so many seconds at most.

    What decides is a loop in registers before and after each round, and how long the contenders waited for a processor,
    never what they took.
    """
    end, tries = time.perf_counter() + seconds, collections.Counter()
    while time.perf_counter() < end and any(map(timing.disturbed, results)):
        if "work_s" in ceilings and ceilings["work_s"] < timing.CALM * working_time(ceilings):
            time.sleep(PAUSE)
            continue
        worst_first = lambda n: (tries[n], results[n]["undisturbed"])
        number = min((n for n, row in enumerate(results) if timing.disturbed(row)), key=worst_first)
        tries[number] += 1
        row = timed(number)
        if (row["undisturbed"] or 0) > results[number]["undisturbed"]:
            yield number, row | {"again": tries[number]}
