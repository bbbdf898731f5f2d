"""Every CUDA kernel against torch.nn: on a GPU where there is one, and always on the host executor (tests/simt)."""

import contextlib
import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from alone import Alone
from helpers import CELLS, DTYPES, HAS_CUDA, LAYERS, doubled, make, outcome, random, states
from ragged import LENGTHS, OPTIONS, B, I, T, given_on
from simt.extension import host_executor, host_executor_off, load
from tolerances import assert_all_close, assert_close
from torch.nn.utils.rnn import pack_padded_sequence

import fusedrnn
from fusedrnn.plan import plan

# An A100 of few multiprocessors and little shared memory a block: small layers are cut as large ones are.
SMALL = (80, 12, 40 * 1024, 0)
# One of two multiprocessors: few groups of many sequences, a chunk at a time.
NARROW = (80, 2, 160 * 1024, 0)
# name → strategy, the device imagined, hidden units, and among whom h travels then
CUTS = {
    "stepwise": ("stepwise", "A100", 20, None),
    "one block": ("persistent", "A100", 20, "block"),
    "a cluster": ("persistent", "H100", 150, "cluster"),
    "the grid": ("persistent", "A100", 150, "grid"),
}
CASES = [
    pytest.param(where, cut, dtype, id=f"{where}-{cut}-{str(dtype).removeprefix('torch.')}", marks=mark)
    for where, mark in [("host", pytest.mark.cpu), *([("cuda", pytest.mark.cuda)] if HAS_CUDA else [])]
    for cut in CUTS
    for dtype in DTYPES
    if cut == "stepwise" or dtype != torch.float64
]


@contextlib.contextmanager
def machine(where, cut):
    """Run what the context holds by the CUDA kernels, cut so; yields the torch device of the tensors."""
    strategy, imagined, _, _ = CUTS[cut]
    if where == "cuda":
        with fusedrnn.use_strategy(strategy):
            yield torch.device("cuda")
    else:
        with host_executor(imagined, strategy):
            yield torch.device("cpu")


def units(where, cut, kind, dtype, bidirectional=True):
    """How many hidden units are cut so: a GPU that is here may want more of them than the one that is imagined."""
    _, _, H, scope = CUTS[cut]
    if where == "host" or scope is None:
        return H
    for H in (10, 20, 150, 640, 1100):
        p = plan(kind, T, 11, H, dtype=dtype, bidirectional=bidirectional, device="cuda", strategy="auto")
        if p.forward.scope == p.backward.scope == scope:
            return H
    pytest.skip(f"{torch.cuda.get_device_name()} has no cut among {cut}")


# bfloat16 is float16's code with other conversions: it need not meet every option
def seldom(dtype):
    return dtype == torch.float16


# --- every option, for every cell, cut and dtype -------------------------------------------------------------------


@pytest.mark.parametrize("where, cut, dtype", CASES)
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("kind", LAYERS)
def test_plain_sequences(kind, bidirectional, where, cut, dtype):
    H = units(where, cut, kind, dtype, bidirectional)
    with machine(where, cut) as device:
        ours, torchs, truth = make(kind, I, H, dtype=dtype, device=device, bidirectional=bidirectional)
        x, hx = random(T, 11, I, dtype=dtype, device=device), None
        if bidirectional:
            hx = states(kind, 2, 11, H, dtype=dtype, device=device)
        assert_all_close(outcome(ours, x, hx), outcome(torchs, x, hx), outcome(truth, x.double(), doubled(hx)))


@pytest.mark.parametrize("where, cut, dtype", CASES)
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", LAYERS)
def test_lengths_and_resets(kind, option, where, cut, dtype):
    if seldom(dtype) and option != "lengths and reset to hx":
        pytest.skip("float16 runs the code of bfloat16")
    H = units(where, cut, kind, dtype)
    with machine(where, cut) as device:
        ours, torchs, truth = make(kind, I, H, dtype=dtype, device=device, bidirectional=True)
        x, hx = random(T, B, I, dtype=dtype, device=device), states(kind, 2, B, H, dtype=dtype, device=device)
        given = given_on(device, option)
        assert_all_close(
            outcome(ours, x, hx, **given),
            outcome(Alone(torchs), x, hx, **given),
            outcome(Alone(truth), x.double(), doubled(hx), **given),
        )


@pytest.mark.parametrize("where, cut, dtype", CASES)
@pytest.mark.parametrize("kind", LAYERS)
def test_packed_sequences(kind, where, cut, dtype):
    H = units(where, cut, kind, dtype)
    with machine(where, cut) as device:
        ours, torchs, truth = make(kind, I, H, dtype=dtype, device=device, bidirectional=True)
        x, hx = random(T, 5, I, dtype=dtype, device=device), states(kind, 2, 5, H, dtype=dtype, device=device)
        packed = pack_padded_sequence(x, [2, 6, 1, 6, 3], enforce_sorted=False)
        assert_all_close(
            outcome(ours, packed, hx), outcome(torchs, packed, hx), outcome(truth, packed.double(), doubled(hx))
        )


def assert_near_our_own_in_float64(run, kind, dtype, device, **kwargs):
    """Hold what `run` makes of a layer against our CPU kernels in float64, which other tests hold against torch.nn."""
    ours, _, truth = make(kind, I, dtype=dtype, device=device, **kwargs)
    wide = getattr(fusedrnn, LAYERS[kind][0])(I, **kwargs).double()
    wide.load_state_dict(truth.state_dict())
    mine = run(ours, device, dtype)
    with host_executor_off():
        expected = run(wide, torch.device("cpu"), torch.float64)
    for name, value in expected.items():
        error = (mine[name].cpu().double() - value).abs().max() / value.abs().max()
        assert error <= 32 * torch.finfo(dtype).eps, f"{name}: {error}"


@pytest.mark.parametrize("where, cut, dtype", CASES)
def test_all_cell_states_and_their_gradients(where, cut, dtype):
    x = random(T, B, I, dtype=dtype)

    def run(module, device, dtype):
        return outcome(module, x.to(device, dtype), lengths=LENGTHS, return_cell_states=True)

    H = units(where, cut, "lstm", dtype)
    with machine(where, cut) as device:
        assert_near_our_own_in_float64(run, "lstm", dtype, device, hidden_size=H, bidirectional=True)


@pytest.mark.parametrize("where, cut, dtype", [case for case in CASES if "stepwise" in case.id])
@pytest.mark.parametrize("option", ["plain", "packed", *OPTIONS])
def test_projections(option, where, cut, dtype):
    x, hx = random(T, B, I, dtype=dtype), states("lstm", 2, B, 20, P=6, dtype=dtype)

    def run(module, device, dtype):
        inputs = x.to(device, dtype)
        if option == "packed":
            inputs = pack_padded_sequence(inputs, [6, 4, 4, 1])
        given = given_on(device, option) if option in OPTIONS else {}
        return outcome(module, inputs, tuple(state.to(device, dtype) for state in hx), **given)

    with machine(where, cut) as device:
        assert_near_our_own_in_float64(run, "lstm", dtype, device, hidden_size=20, proj_size=6, bidirectional=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("given", ["hx", "zeros"])
@pytest.mark.parametrize("kind", CELLS)
def test_cells(kind, given, dtype):
    ours, torchs, truth = make(kind, 5, 9, table=CELLS, dtype=dtype)
    x, hx = random(4, 5, dtype=dtype), states(kind, 4, 9, dtype=dtype) if given == "hx" else None
    with host_executor():
        mine = outcome(ours, x, hx)
    assert_all_close(mine, outcome(torchs, x, hx), outcome(truth, x.double(), doubled(hx)))


@pytest.mark.parametrize("T, B", [(0, 3), (5, 0), (1, 1)])
@pytest.mark.parametrize("kind", LAYERS)
def test_nothing_and_next_to_nothing(kind, T, B):
    ours = make(kind, 5, 9, dtype=torch.float32, bidirectional=True)[0]
    x, hx = random(T, B, 5, dtype=torch.float32), states(kind, 2, B, 9, dtype=torch.float32)
    expected = outcome(ours, x, hx)
    with host_executor():
        mine = outcome(ours, x, hx)
    for name in expected:
        torch.testing.assert_close(mine[name], expected[name], msg=name)


def test_lengths_out_of_range_are_refused():
    ours = fusedrnn.GRU(5, 9)
    with host_executor(), pytest.raises(ValueError, match=r"0\.\.T = 0\.\.6; got 7 at 1"):
        ours(torch.randn(6, 2, 5), lengths=[6, 7])


# As set by torch's newer switch; test_cuda_device.py tries the older one, on a device.
@pytest.mark.parametrize("precision, bound", [("ieee", 5e-6), ("tf32", 5e-3)])
def test_persistent_kernels_follow_torchs_precision(precision, bound):
    ours, _, truth = make("lstm", 5, 40, dtype=torch.float32)
    x = random(30, 4, 5, dtype=torch.float32)
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this torch has only the older switch")
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = precision
    try:
        with host_executor("A100", "persistent"):
            error = (ours(x)[0].double() - truth(x.double())[0]).abs().max().item()
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert (precision == "tf32") * 2e-5 < error < bound


def test_a_strategy_that_serves_the_forward_alone_is_refused_in_the_backward():
    layer, x = fusedrnn.LSTM(3, 160).half(), torch.randn(4, 56, 3).half().requires_grad_()
    with host_executor((80, 4, 99 * 1024, 0), "persistent"):
        y = layer(x)[0]
        with pytest.raises(ValueError, match="persistent"):
            y.sum().backward()


# --- edges of the cut ------------------------------------------------------------------------------------------------

EDGES = [(5, 1), (8, 16), (9, 17), (16, 33), (17, 48), (40, 64), (3, 129)]


@pytest.mark.parametrize("device", [SMALL, NARROW], ids=["small", "narrow"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("B, H", EDGES)
@pytest.mark.parametrize("kind", LAYERS)
def test_every_edge_of_tiles_chunks_and_groups(kind, B, H, dtype, device):
    ours, torchs, truth = make(kind, I, H, dtype=dtype, bidirectional=H < 100)
    x = random(3, B, I, dtype=dtype)
    with host_executor(device):
        assert_all_close(outcome(ours, x), outcome(torchs, x), outcome(truth, x.double()))


# sequences that are not the first of their group, or of their chunk
@pytest.mark.parametrize("device", [SMALL, NARROW], ids=["small", "narrow"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("option", ["hx", "packed", "lengths and reset", "lengths and reset to hx"])
@pytest.mark.parametrize("kind", LAYERS)
def test_options_in_every_group_and_chunk(kind, option, dtype, device):
    B, H, T = 40, 33, 5
    ours, torchs, truth = make(kind, I, H, dtype=dtype, bidirectional=True)
    x, hx = random(T, B, I, dtype=dtype), states(kind, 2, B, H, dtype=dtype)
    lengths, given = (torch.arange(B) * 7 % (T + 1)).tolist(), {}
    if option == "packed":
        x = pack_padded_sequence(x, [max(1, length) for length in lengths], enforce_sorted=False)
    elif option != "hx":
        given = {"lengths": lengths, "reset": torch.arange(T * B).view(T, B) * 11 % 17 < 5}
        given["reset_to"] = "hx" if option.endswith("hx") else "zeros"
        torchs, truth = Alone(torchs), Alone(truth)
    with host_executor(device, "persistent"):
        mine = outcome(ours, x, hx, **given)
    assert_all_close(mine, outcome(torchs, x, hx, **given), outcome(truth, x.double(), doubled(hx), **given))


@pytest.mark.parametrize("strategy", ["persistent", "stepwise"])
def test_more_lengths_than_one_upload_carries(strategy):
    ours, torchs, truth = make("gru", 1, 2, dtype=torch.float32)
    x, lengths = random(5, 600, 1, dtype=torch.float32), [b % 6 for b in range(600)]
    with host_executor("A100", strategy):
        mine = outcome(ours, x, lengths=lengths)
    theirs, expected = outcome(Alone(torchs), x, lengths=lengths), outcome(Alone(truth), x.double(), lengths=lengths)
    assert_all_close(mine, theirs, expected)


@pytest.mark.parametrize("cut", CUTS)
def test_padding_is_not_read(cut):
    ours = make("lstm", I, CUTS[cut][2], dtype=torch.float32)[0]
    x, ended = random(T, B, I, dtype=torch.float32), torch.arange(T).view(T, 1) >= torch.tensor(LENGTHS)

    def run(padding):
        for parameter in ours.parameters():
            parameter.grad = None
        with host_executor(CUTS[cut][1], CUTS[cut][0]):
            y = ours(x.masked_fill(ended.unsqueeze(2), padding), lengths=LENGTHS)[0]
            y.backward(torch.ones_like(y).masked_fill(ended.unsqueeze(2), padding))
        return [y, *(parameter.grad for parameter in ours.parameters())]

    for of_numbers, of_nan in zip(run(0.0), run(torch.nan), strict=True):
        assert torch.equal(of_numbers, of_nan)


@pytest.mark.parametrize("T", [0, 5])
def test_a_projection_wider_than_the_state(T):
    """torch.nn's modules refuse it, the functions do not."""
    P, H = 5, 2
    shapes = [(4 * H, I), (4 * H, P), (4 * H,), (4 * H,), (P, H)]
    own = [random(*shape, dtype=torch.float32).requires_grad_() for shape in shapes]
    x = random(T, B, I, dtype=torch.float32).requires_grad_()

    def run():
        y, (h_n, c_n) = fusedrnn.functional.lstm(x, [fusedrnn.functional.Weights(*own)])
        return [y, h_n, c_n, *torch.autograd.grad(y.sum() + h_n.sum() + c_n.sum(), own)]

    with host_executor("A100"):
        mine = run()
    for found, expected in zip(mine, run(), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("cut", CUTS)
def test_what_was_saved_may_come_back_in_another_layout(cut):
    """As torch.autograd.graph.saved_tensors_hooks may bring it."""
    ours, x = make("lstm", I, CUTS[cut][2], dtype=torch.float32)[0], random(T, B, I, dtype=torch.float32)

    def apart(saved):
        return torch.stack([saved, saved], -1)[..., 0]

    with host_executor(CUTS[cut][1], CUTS[cut][0]):
        expected = outcome(ours, x)
        with torch.autograd.graph.saved_tensors_hooks(apart, lambda saved: saved):
            found = outcome(ours, x)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


@pytest.mark.parametrize("T, B", [(70_000, 1), (2, 70_000)], ids=["steps", "sequences"])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_more_than_65535_steps_or_sequences(kind, T, B):
    ours, torchs, truth = make(kind, 1, 2, dtype=torch.float32)
    x = random(T, B, 1, dtype=torch.float32)
    with torch.no_grad(), host_executor("A100", "stepwise"):
        (y, _), (theirs, _), (truth, _) = ours(x), torchs(x), truth(x.double())
    assert_close(y, theirs, truth, "y")


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("kind", LAYERS)
def test_the_order_of_blocks_and_threads_does_not_show(kind, cut):
    strategy, device, H, _ = CUTS[cut]
    ours, _, _ = make(kind, I, H, dtype=torch.float32, bidirectional=True)
    x = random(4, 9, I, dtype=torch.float32)
    results = []
    for seed in range(4):
        with host_executor(device, strategy, seed):
            results.append(outcome(ours, x))
    for other in results[1:]:
        assert all(torch.equal(results[0][name], other[name]) for name in other)


# --- the kernels and their plan ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [cut for cut in CUTS if cut != "stepwise"])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_launch_is_what_the_plan_says(kind, cut):
    strategy, device, H, scope = CUTS[cut]
    ours, _, _ = make(kind, I, H, dtype=torch.bfloat16)
    p = plan(kind, T, 9, H, dtype=torch.bfloat16, device=device, strategy=strategy)
    x = random(T, 9, I, dtype=torch.bfloat16)
    with host_executor(device, strategy) as simt:
        y, _ = ours(x)
        launches = [(simt.last_launch(), p.forward, T - 1)]
        y.sum().backward()
        launches.append((simt.last_launch(), p.backward, T))
    for launch, planned, exchanges in launches:
        assert planned.scope == scope
        for name in ("blocks", "threads", "shared_bytes"):
            assert launch[name] == getattr(planned, name), name
        assert launch["cluster"] == (planned.slices if scope == "cluster" else 1)
        assert launch["cooperative"] is (scope == "grid")
        clusters = planned.blocks // planned.slices
        assert launch["cluster_barriers"] == (clusters if scope == "cluster" else 0)  # before the first step
        assert launch["transfers"] == (planned.blocks * exchanges if scope == "cluster" else 0)
        assert launch["releases"] == (planned.blocks * exchanges if scope == "grid" else 0)


@functools.cache
def refusals():
    return {
        "float64": (("lstm", T, 4, 64), {"dtype": torch.float64}, ["float64", "stepwise"]),
        "projection": (("lstm", T, 4, 64), {"proj_size": 8}, ["projection", "stepwise"]),
        "too large": (("lstm", T, 4, 8192), {"dtype": torch.float16}, ["8192", "512", "108", "stepwise"]),
        "no room": (("lstm", T, 4, 1400), {"dtype": torch.float32}, ["bytes of shared memory", "166912", "stepwise"]),
    }


@pytest.mark.parametrize("case", refusals())
def test_a_strategy_that_cannot_serve_is_refused_with_the_numbers(case):
    sizes, given, parts = refusals()[case]
    with pytest.raises(ValueError) as error:
        plan(*sizes, device="A100", strategy="persistent", **given)
    assert all(part in str(error.value) for part in ["persistent", *parts]), str(error.value)


def test_a_refused_strategy_raises_where_the_layer_is_called():
    ours = fusedrnn.LSTM(I, 20, proj_size=4)
    with host_executor("A100", "persistent"), pytest.raises(ValueError, match="projection.*stepwise"):
        ours(torch.randn(T, B, I))


# --- once more, otherwise -------------------------------------------------------------------------------------------------


def assert_passes(left_out, environment):
    """This file's tests pass in a process with that environment, but for those whose names have something of left_out."""
    here, names = Path(__file__), " and ".join(f"not {name}" for name in left_out)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", str(here), "-x", "-s", "-p", "no:cacheprovider", "-k", names],
        cwd=here.parents[1], env={**os.environ, **environment}, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0 and "passed" in run.stdout, run.stdout + run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_what_nvcc_makes_of_the_kernels(arch):
    """The above once more, by the PTX that nvcc makes of the kernels: tests/simt/ptx.cpp.

    Without what would take minutes for the same code; for the older architecture, which has no clusters, the plain cases alone.
    """
    if not shutil.which("nvcc"):
        pytest.skip("needs nvcc")
    seldom = ["65535", "order", "relu", "(bfloat16 and not plain)", "(float32 and lengths)"]
    left_out = seldom + (["cluster", "lengths", "options", "packed"] if arch == "sm_80" else ["stepwise"])
    assert_passes(left_out, {"FUSEDRNN_SIMT_PTX": arch})


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="preloads AddressSanitizer's library")
def test_no_kernel_reads_or_writes_beyond_its_memory():
    """The above once more, in a build whose kernels' every access AddressSanitizer watches.

    Without what reads and writes as others do: bfloat16 as float16, relu as tanh, and some of float64 and float32.
    """
    found = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
        for name in ("libasan.so", "libstdc++.so.6")
    ]
    if not os.path.isabs(found[0]):
        pytest.skip("needs g++'s libasan.so")
    load()  # that build takes over what is no kernel
    environment = {
        "LD_PRELOAD": " ".join(found),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "FUSEDRNN_SIMT_SANITIZE": "1",
    }
    left_out = ["order", "65535", "bfloat16", "relu", "(float64 and not plain)", "(float32 and gru)", "(float32 and rnn)"]
    assert_passes(left_out, environment)
