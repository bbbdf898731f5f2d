"""What a call on the CPU keeps for the next ones: working memory, and freed tensors' memory in the process."""

import os
import subprocess
import sys
import threading

import pytest
import torch
from helpers import random
from torch.profiler import ProfilerActivity, profile

import fusedrnn


def test_scratch_stays_with_its_thread_and_can_be_handed_back(batch_invariant):
    small, large = fusedrnn.LSTM(8, 64), fusedrnn.LSTM(8, 1024)  # 4·H·(I + H) weights are packed: 74 kB, 17 MB
    x = random(5, 2, 8, dtype=torch.float32)
    fusedrnn.release_scratch()
    assert fusedrnn.release_scratch() == 0
    with torch.no_grad():
        first = small(x)[0]
        kept = fusedrnn.release_scratch()
        assert 74_000 < kept < 1 << 20
        assert torch.equal(small(x)[0], first)
        in_another_thread = []
        worker = threading.Thread(target=lambda: in_another_thread.append(fusedrnn.release_scratch()))
        worker.start()
        worker.join()
        assert in_another_thread == [0] and fusedrnn.release_scratch() == kept
        large(x)
        assert fusedrnn.release_scratch() == 0, "so much is not kept"
        fusedrnn.LSTM(8, 512)(x)
        small(x)
        assert fusedrnn.release_scratch() > 4 << 20
        fusedrnn.LSTM(8, 512)(x)
    small(x)[0].sum().backward()
    assert fusedrnn.release_scratch() < 1 << 20, "what was many times too large is gone before the weights' gradients"


def test_what_is_handed_back_is_freed_and_no_longer_kept():
    layer, x = fusedrnn.LSTM(8, 64), random(50, 2, 8, dtype=torch.float32)
    fusedrnn.release_scratch()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watch:
        layer(x)
        said = fusedrnn.release_scratch(), fusedrnn.release_scratch()
    events = [event for event in watch.profiler.kineto_results.events() if event.name() == "[memory]"]
    freed = -max(events, key=lambda event: event.start_ns()).nbytes()  # at last
    assert freed > 0 and said == (freed, 0)


# Prints how many bytes more are mapped by themselves while a tensor of 30 MB lives, after a layer was called.
MAPPED = """
import ctypes
import fusedrnn, torch

class Counts(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

counts = ctypes.CDLL(None).mallinfo2
counts.restype = Counts

def mapped():
    before = counts().hblkhd
    tensor = torch.empty(30 << 20, dtype=torch.uint8)
    return counts().hblkhd - before

layer = fusedrnn.RNN(8, 128)
with torch.no_grad():
    layer(torch.ones(100, 8, 8))  # 400 KB come out
print(mapped())
"""


def glibc():
    try:
        return tuple(map(int, os.confstr("CS_GNU_LIBC_VERSION").split()[1].split(".")))
    except (AttributeError, ValueError, OSError):
        return (0, 0)


@pytest.mark.skipif(glibc() < (2, 33), reason="needs glibc's mallinfo2")
@pytest.mark.parametrize("thresholds", ["glibc's own", "the user's"])
def test_freed_tensors_leave_their_memory_to_the_next_ones(thresholds):
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "LD_PRELOAD"))}
    if thresholds == "the user's":
        settings["MALLOC_MMAP_THRESHOLD_"] = str(1 << 20)
    run = subprocess.run([sys.executable, "-c", MAPPED], capture_output=True, text=True, env=settings, check=True)
    mapped = int(run.stdout)
    if thresholds == "the user's":
        assert mapped >= 30 << 20, "who has set the thresholds has them as they were"
    else:
        assert mapped == 0, "what is freed stays with the process"
