"""A contender in a process of its own, where heap, caches and threads are those of a program that runs nothing else.

In one process contenders live in each other's heap: what one keeps at its end keeps the allocator from handing memory
back to the system, and the other is spared the page faults that its own program would pay for at every step (torch.nn's
LSTM, B=64 T=128 H=128: 11,000 faults in a training step by itself). The processes are forked from one that has imported
torch but has not computed yet, and take turns: while one is timed the others stand still, their spinning threads too.
"""

import contextlib
import functools
import math
import multiprocessing
import os
import signal
import weakref

import torch

from . import memory, timing
from .cases import contenders

LAZY = ("torch.fx.experimental.symbolic_shapes", "torch._inductor.standalone_compile")  # 2 s for gradients and profiles


class Died(RuntimeError):
    """The process ended before it answered."""


@functools.cache
def ready():
    """Start the process that the others are forked from, and return when it has imported what they need: seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *LAZY])
    first = context.Process(target=int, daemon=True)
    first.start()
    first.join()
    return context


class Apart:
    """The contender `name` of a case, in a process that ends when this object does."""

    living = weakref.WeakSet()

    def __init__(self, case, names, name):
        context = ready()
        self.pipe, theirs = context.Pipe()
        arguments = theirs, case, names, name, torch.get_num_threads()
        self.process = context.Process(target=serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self.living.add(self)

    def run(self, mode):
        """A function of nothing that runs the pass there and returns what it computes, as tensors to be verified."""
        return Pass(self, mode)

    def ask(self, *request):
        """What the process answers; raises what goes wrong there under the same name, and Died where it is gone."""
        try:
            self.pipe.send(request)
            fine, answer = self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            raise Died(f"the contender's process ended with status {self.process.exitcode}") from None
        if not fine:
            name, message = answer
            raise type(name, (RuntimeError,), {})(message)
        return answer

    def receive(self, shape, dtype):
        if not math.prod(shape):
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(bytearray(self.pipe.recv_bytes()), dtype=dtype).view(shape)


@contextlib.contextmanager
def stopped(besides=None):
    """All these processes, besides one, stand still meanwhile."""
    others = [other.process.pid for other in Apart.living if other is not besides]

    def signal_all(number):
        for process in others:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.kill(process, number)

    try:
        signal_all(signal.SIGSTOP)
        yield
    finally:
        signal_all(signal.SIGCONT)


class Pass:
    """A pass of a contender that is apart."""

    def __init__(self, apart, mode):
        self.apart, self.mode = apart, mode

    def __call__(self):
        return [self.apart.receive(*described) for described in self.apart.ask(self.mode, "outputs")]

    def clock(self, repeats):
        """Seconds that a pass takes, on the average of `repeats`, and what part of the machine was there."""
        with stopped(besides=self.apart):
            return self.apart.ask(self.mode, "clock", repeats)

    def peak(self):
        """Peak bytes of a pass."""
        return self.apart.ask(self.mode, "peak")


class Served:
    """What the other process does for a pass: each request yields its answer, and goes on when that is sent."""

    def __init__(self, pipe, run):
        self.pipe, self.run, self.took = pipe, run, math.inf

    def outputs(self):
        """Run the pass and yield the shapes and dtypes of the results, whose bytes follow."""
        results = [result.detach().contiguous() for result in timing.prepare(self.run)()]
        yield [(tuple(result.shape), result.dtype) for result in results]
        for result in results:
            if result.numel():
                self.pipe.send_bytes(memoryview(result.view(-1).view(torch.uint8).numpy()))

    def clock(self, repeats):
        if self.took < 10 * timing.SAMPLE_SECONDS:
            timing.wall_clock(self.run, repeats)  # the others have had the caches
        seconds, share = timing.watched(timing.wall_clock)(self.run, repeats)
        self.took = repeats * seconds
        yield seconds, share

    def peak(self):
        yield memory.peak(self.run)


def serve(pipe, case, names, name, threads):
    """Answer requests, of a pass and what is asked of it, until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the asking process's to handle
    torch.set_num_threads(threads)
    contender = current = served = None
    while True:
        try:
            mode, request, *arguments = pipe.recv()
        except EOFError:
            return
        try:
            contender = contender or contenders(case, "cpu", names)[0][name]
            if mode != current:
                current, served = mode, Served(pipe, contender.run(mode))
            answer = getattr(served, request)(*arguments)
            pipe.send((True, next(answer)))
        except Exception as error:
            pipe.send((False, (type(error).__name__, str(error))))
        else:
            next(answer, None)
