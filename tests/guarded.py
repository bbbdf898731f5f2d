"""Runs layers forward and backward on tensors beside a page that nobody may touch: `python guarded.py ISA`.

Each of the tensors that the operators are given ends at such a page in one turn and begins behind one in the next, so
that to read one element too many ends this process. The last line that was printed says which layer did.
"""

import ctypes
import itertools
import mmap
import os
import signal
import sys

import torch
from helpers import layer_arguments, random

from fusedrnn import _ops

PAGE, ROOM = mmap.PAGESIZE, 1 << 16  # a tensor's room, whole pages
GATES = {"rnn_tanh": 1, "gru": 3, "lstm": 4}


class Rooms:
    """Memory for the tensors of one call, each in a room of its own between two pages that may not be touched."""

    def __init__(self):
        self.rooms = []

    def again(self, at_end):
        self.at_end, self.used = at_end, 0

    def put(self, tensor):
        """The same tensor, in the next room."""
        if not isinstance(tensor, torch.Tensor) or not tensor.numel():
            return tensor
        if self.used == len(self.rooms):
            self.rooms.append(room())
        offset = PAGE + (ROOM - tensor.nbytes if self.at_end else 0)
        placed = torch.frombuffer(self.rooms[self.used], dtype=tensor.dtype, count=tensor.numel(), offset=offset)
        self.used += 1
        return placed.view(tensor.shape).copy_(tensor)


def room():
    memory = mmap.mmap(-1, PAGE + ROOM + PAGE)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (begin, begin + PAGE + ROOM):
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), 0) == 0
    return memory


def dies(touch):
    """Whether it ends a process with a fault."""
    child = os.fork()
    if not child:
        touch()
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1]) in (signal.SIGSEGV, signal.SIGBUS)


def run(cell, T, B, I, H, P, dtype, rooms):
    """One layer forward and backward, with every input and every gradient there is."""
    given = {"x": (T, B, I), "h_0": (1, B, P or H), "w_ih": (GATES[cell] * H, I), "w_hh": (GATES[cell] * H, P or H)}
    given |= {"b_ih": (GATES[cell] * H,), "b_hh": (GATES[cell] * H,)}
    if cell == "lstm":
        given["c_0"] = 1, B, H
    if P:
        given["w_hr"] = P, H
    given = {name: rooms.put(random(*shape, dtype=dtype)) for name, shape in given.items()}
    given = {name: [value] if name[:2] in ("w_", "b_") else value for name, value in given.items()}
    arguments = layer_arguments(cell=cell, **given)[:-1]
    y, h_n, c_n, c, saved = (rooms.put(t) for t in torch.ops.fusedrnn.layer_forward(*arguments, True, cell == "lstm"))
    gradients = [rooms.put(torch.ones_like(t)) if t.numel() else None for t in (y, h_n, c_n, c)]
    # the other of which writes over what was saved
    for backward in (torch.ops.fusedrnn.layer_backward, torch.ops.fusedrnn.layer_backward_):
        backward(*gradients, *arguments, y, c, saved, [True] * 8)


def main(isa):
    rooms = Rooms()
    rooms.again(at_end=True)
    last = ctypes.cast(rooms.put(torch.ones(3)).data_ptr(), ctypes.POINTER(ctypes.c_float))
    assert not dies(lambda: last[2]) and dies(lambda: last[3]), "there is no page that may not be read"
    torch.set_num_threads(1)
    _ops._C.use_isa(isa)
    widths, dtypes = [1, 3, 7, 8, 9, 15, 16, 17, 31, 33], [torch.bfloat16]
    if not isa.endswith("_bf16"):  # whose functions of other types are those of the set without
        dtypes += [torch.float32, torch.float64]
    for at_end, dtype, cell in itertools.product([True, False], dtypes, GATES):
        for T, B, I, H in itertools.product([1, 4], [1, 3], [1, 5, 16, 17], widths):
            for P in [0, (H + 1) // 2] if cell == "lstm" and H > 1 else [0]:
                where = "at the end" if at_end else "at the beginning"
                print(f"{isa} {cell} T={T} B={B} I={I} H={H} P={P} {dtype} {where}", flush=True)
                rooms.again(at_end)
                run(cell, T, B, I, H, P, dtype, rooms)


if __name__ == "__main__":
    main(sys.argv[1])
