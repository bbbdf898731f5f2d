"""What the machine is, what it can do at best, and how long a layer would take if it did: the roofline.

The ceilings are measured in the run that uses them, before and after its rows, and the higher count: the rate of
large products at the run's dtype and threads (by torch.mm or, where that is faster, by oneDNN with weights that it has
packed before; float64 counts half of float32 there, for registers hold half as many), the rate of reading buffers of
many sizes over and over (from the first byte to the last or, where that is faster, forth and back in pieces), what a
meeting of all threads costs (on CUDA: a launch in a graph), the rate of the logistic function over values in the first
cache, and what the smallest of modules with as many inputs as a layer has takes, one that joins five numbers, without
and with their gradients (the last two on the CPU alone). The limit of a pass is, with P the rate of products, W the
recurrent weights' bytes, R the rate of reading so many bytes (of the measured size nearest to it), A that of reading
as many as all weights have, F the rate of functions, and of what stands before and after a bar whichever takes longer,

    walk     = input products / P | input weights / A, + T · (a step's recurrent products / P | W / R, + meeting)
               + what W / A takes longer than such a step, in the first one
    forward  = walk + sigmoids and tanhs / F (5 a unit and step of an LSTM, 3 of a GRU, 1 of an RNN)
    backward = walk + (input products + recurrent products) / P | all weights / A, for the weights' gradients
    step     = forward + backward

for each layer, and once the call, and what torch's packing and unpacking takes where rows come packed. On the CPU it is
the lower of what one thread can do, which meets nobody, and all together; and where there are rows enough for every
thread, threads need not meet. It is a yardstick and no law: weights that a kernel keeps in registers or, on CUDA, on the
chip are read faster than any buffer here, and a figure may exceed 100 %.

A limit is what an undisturbed machine allows. On one that others use too, a loop that needs nothing but registers
tells between the rounds how much of the processor was there.
"""

import ctypes
import datetime
import functools
import math
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

import torch

import fusedrnn
from fusedrnn import _ops

from . import timing
from .cases import FUNCTIONS, GATES, packing

# Variables that hold fusedrnn and what it is compared with to an instruction set. A comparison needs all of them, or none.
INSTRUCTION_SETS = ("FUSEDRNN_ISA", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY")

# Bytes: 32 KB to 128 MB, from the first cache to memory, twice an octave: where a cache ends, its rate does not hold for twice
# as much any more.
SIZES = [round(2 ** (k / 2 - 12)) * 2**12 for k in range(30, 55)]
SIZES_CUDA = [2**k for k in range(20, 31, 2)]
# Floats of a piece, where a buffer is read forth and back, so that a pass begins with what the last one ended with: 64 KB then come
# twice as fast as they do in one direction.
PIECES = (0, 4096, 8192)
WORK, WORK_ROUNDS = 200_000, 5  # about 0.3 ms each
VALUES = 1024  # kValues of probes.c
ROUNDS = 7  # the fastest counts: a ceiling is what the machine can do, not what it did


def load():
    """How many processes wanted the processor in the last minute, where the system counts them."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def environment(device="cpu", command=None):
    """What a reader needs to judge, or to repeat, the figures; taken before the run, for the load is ours in it."""
    cpu, clock = platform.processor(), None
    if Path("/proc/cpuinfo").exists():
        lines = [line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line]
        facts = {name.strip(): value.strip() for name, value in reversed(lines)}
        cpu, clock = facts.get("model name", cpu), facts.get("cpu MHz")
    found = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "commit": timing.commit(),
        "device": "cpu",
        "cpu": cpu,
        "MHz": clock and round(float(clock)),
        "cores": os.cpu_count(),
        "load": load(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "oneDNN": named_version("oneDNN") or named_version("MKL-DNN"),
        "MKL": named_version("oneAPI Math Kernel Library") or named_version("Math Kernel Library"),
        "python": platform.python_version(),
        "fusedrnn": fusedrnn.__version__,
        "build": _ops.build_info(),
        "told": {name: os.environ[name] for name in INSTRUCTION_SETS if os.environ.get(name)} or None,
    }
    if device == "cuda":
        from .gpu_check import clocks, query

        properties = torch.cuda.get_device_properties(0)
        found |= {"device": properties.name, "multiprocessors": properties.multi_processor_count, "clocks": clocks()}
        found |= {"compute capability": f"{properties.major}.{properties.minor}", **query("driver_version")}
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        found |= {"TF32": torch.backends.cuda.matmul.allow_tf32}
    return found


def named_version(library):
    """What torch says of a library that it was built with, or None."""
    lines = (line.strip(" -") for line in torch.__config__.show().splitlines())
    return next((line for line in lines if library in line), None)


# --- ceilings ------------------------------------------------------------------------------------------------------


def ceilings(dtype="float32", device="cpu"):
    """{flops: a second, read: {bytes: bytes a second}, meeting_s, threads}; what cannot be measured is left empty."""
    found = ceilings_cuda() if device == "cuda" else ceilings_cpu()
    clock = timing.cuda_clock if device == "cuda" else timing.wall_clock
    rate = lambda product, n: 2 * n**3 / fastest(lambda: clock(product, 1))
    found["flops"] = 0
    for n in (512, 1024, 2048) if device == "cpu" else (2048, 4096, 8192):
        a, b = (torch.randn(n, n).to(device, getattr(torch, dtype)) for _ in range(2))
        rates = [rate(lambda: torch.mm(a, b), n)]
        # torch.mm asks MKL, which leaves AVX-512 alone on processors not of its maker's; torch.nn's LSTM asks oneDNN
        if device == "cpu" and hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
            pairs = dtype == "bfloat16" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
            a, b = (matrix.to(torch.bfloat16 if pairs else torch.float32) for matrix in (a, b))
            packed = torch.ops.mkldnn._reorder_linear_weight(b, n)
            linear = functools.partial(torch.ops.mkldnn._linear_pointwise, a, packed, None, "none", [], "")
            rates.append(rate(linear, n) / (2 if dtype == "float64" else 1))
        found["flops"] = max(found["flops"], *rates)
    return found


def fastest(measure):
    """The least of several measurements; fewer where one takes long."""
    first = measure()
    return min(first, *(measure() for _ in range(ROUNDS if first < 0.2 else 2)))


def ceilings_cpu():
    threads, probes = torch.get_num_threads(), compiled_probes()
    found = {"threads": threads, "read": {}, "meeting_s": 0.0}
    if probes is None:
        return found
    data, sum_ = torch.ones(SIZES[-1] // 4), ctypes.c_float()
    for size in SIZES:
        times = max(1, 2**27 // size)
        buffer = ctypes.c_void_p(data.data_ptr()), ctypes.c_long(size // 4), times
        read = lambda piece: probes.read_seconds(*buffer, ctypes.c_long(piece), threads, ctypes.byref(sum_))
        found["read"][size] = times * size / min(fastest(functools.partial(read, piece)) for piece in PIECES)
    found["meeting_s"] = fastest(lambda: probes.barrier_seconds(2000, threads)) if threads > 1 else 0.0
    found["work_s"] = min(working_times(threads))
    found["functions"] = threads * VALUES * 1000 / fastest(
        lambda: probes.function_seconds(1000, threads, ctypes.byref(sum_))
    )
    found["call_s"] = call_seconds()
    return found


class Join(torch.nn.Module):
    """As many inputs as a layer of one direction has, one operator, and a gradient for each."""

    def __init__(self):
        super().__init__()
        for name in ("w_ih", "w_hh", "b_ih", "b_hh"):
            self.register_parameter(name, torch.nn.Parameter(torch.ones(1)))

    def forward(self, x):
        return torch.cat((x, self.w_ih, self.w_hh, self.b_ih, self.b_hh))


def call_seconds():
    """{pass: seconds} of a module that has next to nothing to do."""
    layer, x, d_y = Join(), torch.ones(1, requires_grad=True), torch.ones(5)
    arguments = [x, *layer.parameters()]

    def infer():
        with torch.no_grad():
            layer(x)

    def step():
        torch.autograd.grad(layer(x), arguments, d_y)

    clocked = {"infer": infer, "train-forward": lambda: layer(x), "step": step}
    found = {mode: fastest(lambda f=f: timing.wall_clock(f, 100)) for mode, f in clocked.items()}
    return found | {"backward": max(0.0, found["step"] - found["train-forward"])}


def packing_seconds(case, mode):
    """What torch takes to pack and unpack the rows of a packed case, which no layer between the two can spare."""
    passes = {name: fastest(lambda run=run: timing.wall_clock(run, 1)) for name, run in packing(case).items()}
    return max(0.0, passes["step"] - passes["train-forward"]) if mode == "backward" else passes[mode]


def working_times(threads):
    """Seconds that the same arithmetic in registers takes, time and again; nothing runs on afterwards."""
    sum_, probes = ctypes.c_float(), compiled_probes()
    try:
        return [probes.work_seconds(WORK, threads, ctypes.byref(sum_)) for _ in range(WORK_ROUNDS)]
    finally:
        probes.rest()


def working_time(ceilings):
    """Seconds that arithmetic in registers takes just now, in the median."""
    return statistics.median(working_times(ceilings["threads"]))


def higher(some, others):
    """The ceilings of two measurements at one: other users of the machine only ever lower them."""
    if not some or not others:
        return some or others
    least, most = {"meeting_s", "work_s", "call_s"}, {"flops", "read", "functions"}
    found = dict(some)
    for name in (least | most) & some.keys() & others.keys():
        a, b, choose = some[name], others[name], min if name in least else max
        found[name] = {key: choose(a[key], b[key]) for key in a} if isinstance(a, dict) else choose(a, b)
    return found


@functools.cache
def compiled_probes():
    """The functions of probes.c, or None without a compiler."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if not compiler:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "probes.so"
        # The instructions of the kernels: a run that is held to AVX2 has its ceilings there.
        kernels = {"portable": [], "avx2": ["-mavx2", "-mfma"]}.get(_ops.build_info()["cpu kernels"], ["-march=native"])
        flags = ["-O3", *kernels, "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC"]
        source = Path(__file__).with_name("probes.c")
        if subprocess.run([compiler, *flags, source, "-o", library], capture_output=True).returncode:
            return None
        probes = ctypes.CDLL(str(library))
    for name in ("read_seconds", "barrier_seconds", "work_seconds", "function_seconds"):
        getattr(probes, name).restype = ctypes.c_double
    return probes


def ceilings_cuda():
    one, read = torch.zeros(1, device="cuda"), {}
    for size in SIZES_CUDA:
        data = torch.ones(size // 4, device="cuda")
        read[size] = size / fastest(replay_of(data.sum, max(1, 2**26 // size)))
    return {"threads": 1, "read": read, "meeting_s": fastest(replay_of(lambda: one.add_(1), 1000))}


def replay_of(call, times):
    """What measures the seconds of a call, of so many in one graph: Python launches more slowly than small ones run."""
    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            call()
    return lambda: timing.cuda_clock(graph.replay, 1) / times


# --- the limit -----------------------------------------------------------------------------------------------------


def read_rate(read, size):
    """Bytes a second at which so many are read: that of the measured size nearest to it."""
    sizes = {int(measured): rate for measured, rate in read.items()}  # JSON makes the keys text
    return sizes[min(sizes, key=lambda measured: abs(math.log(measured / size)))]


def limit(case, mode, found):
    """Seconds that a pass takes at the ceilings; None where they are not known."""
    if not found.get("flops") or not found["read"]:
        return None
    itemsize = torch.finfo(getattr(torch, case.dtype)).bits // 8
    kernels = min(at_ceilings(case, mode, found, itemsize, n) for n in {1, found["threads"]})
    return kernels + found.get("call_s", {}).get(mode, 0.0)


def at_ceilings(case, mode, found, itemsize, threads):
    share, sides = threads / found["threads"], 1 + case.bidirectional
    P = found["flops"] * share
    of_inputs, of_recurrence = case.products()
    steps, weights = case.T * case.layers, sides * GATES[case.cell] * case.H**2 * itemsize
    of_x = weights * (1 + (case.layers - 1) * sides)  # all layers' weights of their inputs
    everything = of_x + case.layers * weights
    A = read_rate(found["read"], everything) * share
    alone = found["threads"] > 1 and (threads == 1 or case.B * sides >= threads)
    step = max(of_recurrence / steps / P, weights / (read_rate(found["read"], weights) * share))
    first = case.layers * max(0.0, weights / A - step)
    walk = max(of_inputs / P, of_x / A) + first + steps * (step + (0 if alone else found["meeting_s"]))
    backward = walk + max((of_inputs + of_recurrence) / P, everything / A)
    # As many as the recurrent products have outputs for each gate; in wider numbers a register holds fewer.
    functions = of_recurrence / (2 * case.H * GATES[case.cell]) * FUNCTIONS[case.cell] * max(1, itemsize / 4)
    forward = walk + (functions / (found["functions"] * share) if found.get("functions") else 0)
    return {"backward": backward, "step": forward + backward}.get(mode, forward)
