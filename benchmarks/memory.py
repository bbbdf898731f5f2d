"""How much memory a pass takes at its peak, beyond what is there before it, and how many kernels it launches.

On the CPU torch.profiler reports every allocation and release of torch's allocator in the order of time, and the peak
is the largest running sum. That counts tensors, what autograd keeps, and our kernels' workspace, which a thread would
keep from call to call but hands back before, to the byte and alike in every run; it does not see what oneDNN and MKL
allocate for themselves, which flatters torch.nn if anything. On CUDA it is torch's own peak of allocated bytes.
"""

import torch
from torch.profiler import ProfilerActivity, profile

import fusedrnn

from .timing import prepare


def peak(run, device="cpu"):
    """Peak bytes of a pass, without its `prepare`."""
    prepare(run)
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    fusedrnn.release_scratch()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watch:
        run()
    events = [event for event in watch.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def launches(run):
    """How many kernels a pass puts on the GPU, copies and fills included."""
    prepare(run)
    with profile(activities=[ProfilerActivity.CUDA]) as watch:
        run()
        torch.cuda.synchronize()
    cuda = torch.autograd.DeviceType.CUDA
    return sum(event.device_type() == cuda for event in watch.profiler.kineto_results.events())
