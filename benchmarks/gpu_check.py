"""Everything to know about this version on this GPU, in one command: `python -m benchmarks.gpu_check`.

Four parts, each in processes of its own and within its share of the time: the extension is built for this GPU; the
tests run on it; compute-sanitizer watches every kernel at small sizes; and the layers race torch.nn's (cuDNN). One
JSON file gathers all, written anew after each part; what tests and race have found so far lies beside it, a line each.
Exits with 0, with 1 where a part failed, with 2 where there is no GPU, a package is missing or the file cannot be
written, and with 130 after Ctrl-C or SIGTERM, with what was found by then. It needs the CUDA toolkit, torch's build for
it, setuptools, ninja, numpy and pytest; rich prints nicer tables, pytest-xdist runs the tests side by side.
"""

import argparse
import contextlib
import datetime
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import missing

try:
    import torch

    from . import gpu_report, outcomes, timing
    from .timing import OURS, ROOT
except ModuleNotFoundError as error:
    missing(error, "python -m benchmarks.gpu_check", "install its build for your CUDA, from pytorch.org")

SECONDS = {"build": 180, "tests": 240, "sanitizer": 60, "benchmark": 90}  # shares of the time
NEEDED = ("setuptools", "ninja", "numpy", "pytest")  # besides torch
TOOLS = {  # and what they are told, as far as the installed ones know of it
    "memcheck": {"--destroy-on-device-error": "kernel"},  # or nothing runs after the first finding
    "racecheck": {"--racecheck-deadlock-timeout": "15000"},  # ms
    "synccheck": {},
}
STALLED = {"tests": 75, "benchmark": 30}  # seconds without anything that begins or ends: something hangs
MOST_RUNS = 8  # of what starts again after each test that hangs or takes the process with it
SAMPLED = 5  # seconds from one look at the GPU's clocks to the next, during the race
STOP = threading.Event()  # set by Ctrl-C and SIGTERM: what runs is killed, and what was found is written


# --- processes -----------------------------------------------------------------------------------------------------


def run(command, seconds, alive=lambda: True, **environment):
    """Run a command in the root folder and return (exit status, output); None for the status if it was killed.

    It is killed, with all that it started, after `seconds`, when `alive`, asked once a second, says no, and by STOP.
    """
    end = time.monotonic() + seconds
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        given = {"cwd": ROOT, "env": {**os.environ, **environment}, "start_new_session": True}
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **given)
        try:
            while process.poll() is None and time.monotonic() < end and not STOP.is_set() and alive():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(min(1, max(0, end - time.monotonic())))
            status = process.poll()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return status, output.read()


def ended(status, seconds):
    """How a process ended that should have returned 0, as what to add to a part's record."""
    if status == 0:
        return {"status": "passed"}
    killed = "interrupted" if STOP.is_set() else f"not done after {seconds:.0f} s"
    reason = killed if status is None else f"exit status {status}"
    return {"status": "failed", "reason": reason}


def tail(text, lines=30):
    return text.splitlines()[-lines:]


def this_module(*options):
    return [sys.executable, "-m", "benchmarks.gpu_check", *map(str, options)]


# --- the parts: each takes its seconds and returns its record ------------------------------------------------------


def architecture(major, minor):
    """The architecture to compile for; that of Hopper and Blackwell with the features of that chip alone."""
    return f"{major}.{minor}" + "a" * ((major, minor) in {(9, 0), (10, 0)})


def build(seconds, written=None):
    arch = architecture(*torch.cuda.get_device_capability())
    settings = {"FUSEDRNN_CUDA": "1", "TORCH_CUDA_ARCH_LIST": arch, "MAX_JOBS": str(os.cpu_count())}
    # Without ninja a build for the CPU alone, which lies there, would count as up to date.
    status, output = run([sys.executable, "setup.py", "build_ext", "--inplace", "--force"], seconds, **settings)
    record = {**ended(status, seconds), "settings": settings}
    if status != 0:
        return {**record, "output": tail(output)}
    status, info = run([sys.executable, "-m", "fusedrnn", "info"], 60)
    info = info.replace(f"{ROOT}{os.sep}", "")  # a result names no folders of its machine
    return {**record, **ended(status, 60), "info": tail(info)}


def to_its_end(part, command, written, seconds, done=(0,), meanwhile=lambda: None, **settings):
    """Run a command that writes outcomes, and again after each hang and crash: it goes on with what had not begun.

    command: of the seconds that are left. Returns (outcomes by name, last exit status, last output, how often it ran).
    """
    end, found = time.monotonic() + seconds, {}
    written.write_text("")

    def stirs():
        meanwhile()
        return time.time() - written.stat().st_mtime < STALLED[part]

    for runs in range(1, MOST_RUNS + 1):
        known = len(found)
        os.utime(written)  # from now on, a file that stays untouched for long means that something hangs
        left = end - time.monotonic()
        status, output = run(command(left), left, stirs, **settings)
        found = outcomes.read(written)
        if status in done or STOP.is_set() or time.monotonic() > end or len(found) == known:  # the last: it got nowhere
            break
    return found, status, output, runs


def tests(seconds, written):
    command = [sys.executable, "-m", "pytest", "tests", "-p", "benchmarks.outcomes_plugin", "-m", "cuda and not slow"]
    command.append("--continue-on-collection-errors")
    settings = {"FUSEDRNN_OUTCOMES": str(written)}
    if importlib.util.find_spec("xdist"):
        workers = min(8, os.cpu_count())
        command += ["-n", str(workers)]
        settings["OMP_NUM_THREADS"] = str(max(1, os.cpu_count() // workers))
    with tempfile.TemporaryDirectory() as folder:
        settings["FUSEDRNN_OUTCOMES_BEFORE"] = before = str(Path(folder) / "before.jsonl")

        def command_anew(left):
            shutil.copyfile(written, before)
            return command

        done = 0, 1, 5  # all passed, some failed, none left
        found, status, output, runs = to_its_end("tests", command_anew, written, seconds, done, **settings)
    return judged(found, status in done, runs, tail(output))


def judged(found, complete, runs, output):
    """The record of the tests, from their outcomes by name."""
    by_outcome = {outcome: [] for outcome in ("passed", "failed", "skipped", "begun")}
    for name, test in found.items():
        by_outcome[test["outcome"]].append(name)
    counts = {outcome: len(names) for outcome, names in by_outcome.items() if outcome != "begun"}
    unfinished = by_outcome["begun"]  # they hung, crashed, or the time was up
    slowest = sorted(found, key=lambda name: -found[name].get("seconds", 0))[:10]
    record = {
        "status": "passed" if complete and counts["passed"] and not counts["failed"] and not unfinished else "failed",
        "complete": complete,
        "runs": runs,
        "counts": counts,
        "failures": [{"test": name, "message": found[name]["message"]} for name in by_outcome["failed"]],
        "unfinished": unfinished,
        "slowest": {name: found[name].get("seconds", 0) for name in slowest},
    }
    return record if record["status"] == "passed" else {**record, "output": output}


def sanitizer(seconds, written=None):
    """The tools side by side: most of their time goes by before the first kernel."""
    program = sanitizer_program()
    if not program:
        return {"status": "skipped", "reason": "compute-sanitizer is neither in the toolkit nor on the PATH"}
    known = run([program, "--help"], 20)[1]
    names = "--kernel-name" if "--kernel-name" in known else "--kernel-regex"  # the latter until 2023.3

    def watch(tool):
        options = ["--tool", tool, "--error-exitcode", "9", "--print-limit", "20", names, "kns=fusedrnn"]
        options += [word for option in TOOLS[tool].items() if option[0] in known for word in option]
        # without torch's cache each tensor is an allocation of its own, with bounds to be watched
        uncached = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        status, output = run([program, *options, *this_module("--sanitize-target")], seconds, **uncached)
        findings = [line for line in output.splitlines() if line.startswith("=========")]
        record = {**ended(status, seconds), "findings": findings[:40]}
        return tool, record if status == 0 else {**record, "output": tail(output)}

    with ThreadPoolExecutor(len(TOOLS)) as pool:
        tools = dict(pool.map(watch, TOOLS))
    failed = [f"{tool}: {record['reason']}" for tool, record in tools.items() if record["status"] == "failed"]
    verdict = {"status": "failed", "reason": "; ".join(failed)} if failed else {"status": "passed"}
    return {**verdict, "tools": tools}


def sanitizer_program():
    """That of the toolkit that the extension is built with, or another one, or None."""
    from torch.utils.cpp_extension import CUDA_HOME  # only here: it needs setuptools

    places = [os.path.join(CUDA_HOME, "bin")] if CUDA_HOME else []
    places += [os.environ.get("PATH", os.defpath), "/usr/local/cuda/bin"]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(places))


def benchmark(seconds, written):
    sampled, due = [], time.monotonic()

    def sample():
        nonlocal due
        if time.monotonic() >= due:
            sampled.append(clocks())
            due = time.monotonic() + SAMPLED

    command = lambda left: this_module("--race-to", written, "--budget", 0.9 * left)
    found, status, output, runs = to_its_end("benchmark", command, written, seconds, meanwhile=sample)
    rows = joined(found)
    record = {**ended(status, seconds), "rows": rows, "runs": runs, "clocks": sampled}
    wrong = [row["case"] for row in rows for result in row["contenders"].values() if not result["right"]]
    wrong += [f"{row['case']}: {row['refused']['auto']}" for row in rows if "auto" in row["refused"]]
    if status == 0 and (wrong or not rows):
        record |= {"status": "failed", "reason": f"wrong or refused: {'; '.join(wrong) or 'every row'}"}
    return record if status == 0 else {**record, "output": tail(output)}


def joined(found):
    """The rows of the race, of the outcomes of each rival in each; their ratio is that of fusedrnn's own choice."""
    rows = {}
    for record in found.values():
        row = rows.setdefault(record["row"]["case"], {**record["row"], "contenders": {}, "refused": {}, "ratio": None})
        if record["outcome"] == "refused":
            row["refused"][record["rival"].removeprefix(f"{OURS} ")] = record["message"]
            continue
        begun = timing.failure(RuntimeError("it hung, took the process with it, or the time was up"))
        row["contenders"][record["rival"]] = record.get("result", begun)
        if record["rival"] == f"{OURS} auto":
            row["ratio"] = record.get("result", {}).get("ratio")
    return list(rows.values())


# --- what is said and written --------------------------------------------------------------------------------------


def query(*fields):
    """What nvidia-smi says, by field, of the GPU that torch calls the first; nothing where it says nothing."""
    uuid = getattr(torch.cuda.get_device_properties(0), "uuid", None)
    which = f"GPU-{uuid}" if uuid else "0"  # which may be another one's number, by CUDA_VISIBLE_DEVICES
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", f"--id={which}"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        if done.returncode == 0:
            return dict(zip(fields, map(str.strip, done.stdout.splitlines()[0].split(","))))
    return {}


def clocks():
    return query("clocks.sm", "clocks.mem", "clocks.max.sm", "temperature.gpu", "power.draw")


def environment():
    properties = torch.cuda.get_device_properties(0)
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": timing.commit(),
        "device": properties.name,
        "compute capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory": properties.total_memory,
        **query("driver_version"),
        "clocks": clocks(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }


def check(names, budget, output, parts, facts):
    """Run the parts one after the other, whatever becomes of each, writing the result after every one."""
    result = {"environment": facts, "complete": False, "parts": {}}
    end = time.monotonic() + budget
    for i, name in enumerate(names):
        start = time.monotonic()
        seconds = max(1, (end - start) * SECONDS[name] / sum(SECONDS[later] for later in names[i:]))
        print(f"{name}: at most {seconds:.0f} s", flush=True)
        written = output.with_name(f"{output.stem}-{name}.jsonl")  # until the result has what it says
        try:
            record = parts[name](seconds, written)
        except Exception as error:  # a broken part must not keep the others from running
            record = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
        result["parts"][name] = {"seconds": round(time.monotonic() - start, 1), **record}
        result["complete"] = name == names[-1] and not STOP.is_set()
        timing.save(result, output)
        written.unlink(missing_ok=True)
        if STOP.is_set():
            print("interrupted; here is what was found", flush=True)
            break
    return result


def stop(number, frame):
    """Let what runs be killed and what was found be written; the second time, end at once."""
    STOP.set()
    signal.signal(number, signal.SIG_DFL)


def parse(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__.splitlines()[0])
    some = lambda text: [name for name in PARTS if name in check_names(text.split(","))]
    parser.add_argument("--parts", type=some, default=list(PARTS), metavar=",".join(PARTS), help="those that run")
    parser.add_argument("--budget", type=float, default=sum(SECONDS.values()), metavar="SECONDS", help="%(default)s")
    usual = "benchmarks/results/gpu-check-NAME-DATE-TIME.json"
    parser.add_argument("--output", type=Path, metavar="FILE.json", help=usual)
    parser.add_argument("--sanitize-target", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--race-to", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def check_names(names):
    unknown = set(names) - PARTS.keys()
    if unknown:
        raise argparse.ArgumentTypeError(f"parts are {', '.join(PARTS)}; got {', '.join(sorted(unknown))}")
    return names


def main(arguments=None):
    options = parse(arguments)
    if not torch.cuda.is_available():
        why = "is a CPU build" if torch.version.cuda is None else "finds no GPU, or no driver that suits it"
        print(f"no CUDA device: torch {torch.__version__} {why}")
        return 2
    if options.sanitize_target or options.race_to:
        from . import gpu_targets  # only here: it imports fusedrnn, which the first part builds

        if options.sanitize_target:
            return int(gpu_targets.sanitize() > 0)
        gpu_targets.race(options.race_to, options.budget)
        return 0
    absent = [name for name in NEEDED if not importlib.util.find_spec(name)]
    if absent:
        print(f"python -m benchmarks.gpu_check needs {', '.join(absent)}: pip install {' '.join(absent)}")
        return 2
    facts = environment()
    slug = re.sub(r"[^a-z0-9]+", "-", f"{facts['device']} {facts['date'][:19]}".lower()).strip("-")
    output = options.output or ROOT / "benchmarks" / "results" / f"gpu-check-{slug}.json"
    refused = timing.unwritable(output)
    if refused:
        print(f"python -m benchmarks.gpu_check: {output} cannot be written: {refused}")
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    result = check(options.parts, options.budget, output, PARTS, facts)
    gpu_report.show(result)
    print(f"written to {os.path.relpath(output)}")
    return 130 if STOP.is_set() else int(any(part["status"] == "failed" for part in result["parts"].values()))


PARTS = {"build": build, "tests": tests, "sanitizer": sanitizer, "benchmark": benchmark}

if __name__ == "__main__":
    sys.exit(main())
