"""The executor that runs CUDA kernels on the host: it shows every planted fault, and none where there is none.

The kernels are run as the host's compiler makes them and as nvcc does, whose PTX is interpreted; the right ones on
a GPU as well where there is one. So both sides of csrc/cuda/primitives.cuh are held to the same results.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from simt import ptx

TESTS = Path(__file__).parent
SOURCES = [TESTS / "simt" / name for name in ("faults.cu", "executor.cpp", "ptx.cpp", "ptx_opcodes.cpp", "ptx_parse.cpp")]
CSRC = TESTS.parent / "csrc"
HEADERS = [*sorted((TESTS / "simt").glob("*.h")), CSRC / "cuda" / "primitives.cuh", CSRC / "core" / "config.h"]
HOST = ["g++", "-x", "c++", "-std=c++20", "-O2", "-g1", "-Wall", "-Wextra", "-DFUSEDRNN_SIMT", f"-I{TESTS}"]
SEEDS = range(30)


def built(name, command):
    """What the command makes of SOURCES, kept in build/simt until a source or the command changes."""
    digest = hashlib.sha256(repr(command).encode() + b"".join(p.read_bytes() for p in [*SOURCES, *HEADERS]))
    target = TESTS.parent / "build" / "simt" / f"{digest.hexdigest()[:16]}-{name}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        for old in target.parent.glob(f"*-{name}"):
            old.unlink(missing_ok=True)
        partial = target.with_name(f"{target.name}.{os.getpid()}")
        made = subprocess.run([*command, "-o", partial], capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        partial.rename(target)
    return target


class Kernels:
    """The exported functions: tensors go in as addresses, errors come out as text."""

    def __init__(self, path, device, interpreted=False):
        self.library, self.device, self.interpreted = ctypes.CDLL(path), device, interpreted

    def __getattr__(self, name):
        function = getattr(self.library, f"run_{name}")
        function.restype = ctypes.c_char_p

        def call(*args):
            if self.device.type == "cpu":
                self.library.simt_ptx_use(self.interpreted)
            convert = {torch.Tensor: lambda t: ctypes.c_void_p(t.data_ptr()), bool: ctypes.c_bool, int: ctypes.c_int}
            error = function(*(a if type(a) not in convert else convert[type(a)](a) for a in args)).decode()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            return error

        return call

    def seed(self, value):
        if self.device.type == "cpu":
            self.library.simt_seed(ctypes.c_uint64(value))


@pytest.fixture(scope="session")
def host():
    if not shutil.which("g++"):
        pytest.skip("needs g++")
    return Kernels(built("faults.so", [*HOST, "-fPIC", "-shared", *SOURCES]), torch.device("cpu"))


def nvcc():
    return shutil.which("nvcc") or pytest.skip("needs nvcc")


@pytest.fixture(scope="session")
def interpreted(host):
    if not shutil.which("nvcc"):
        pytest.skip("needs nvcc")
    path = host.library._name
    ptx.bind(path, [ptx.compiled(SOURCES[0], "sm_90a")])
    return Kernels(path, host.device, interpreted=True)


@pytest.fixture(params=["source", "ptx"])
def right(request, device, host):
    """The kernels on the device: as they are, and so are their results to be."""
    if request.param == "ptx":
        return request.getfixturevalue("interpreted") if device.type == "cpu" else pytest.skip("has a GPU to run it")
    if device.type == "cpu":
        return host
    arch = "sm_{}{}".format(*torch.cuda.get_device_capability())
    command = [nvcc(), "-std=c++17", f"-arch={arch}", "-shared", "-Xcompiler=-fPIC", SOURCES[0]]  # no executor
    return Kernels(built("faults-cuda.so", command), device)


def numbers(*shape, device="cpu"):
    return torch.randint(-8, 9, shape, dtype=torch.float32).to(device)  # their sums are exact


def nan(*shape, device="cpu"):
    return torch.full(shape, float("nan"), device=device)


def wrong_seeds(kernels, run):
    """The seeds under which run, which returns (error, got, expected), does not give what is expected."""
    wrong = []
    for seed in SEEDS:
        kernels.seed(seed)
        error, got, expected = run()
        assert error == ""
        if not torch.equal(got, expected):
            wrong.append(seed)
    return wrong


def only_the_faulty(kernels, run, *faulty):
    assert wrong_seeds(kernels, lambda: run(*([True] * len(faulty)))) == []
    if kernels.device.type == "cpu":
        assert wrong_seeds(kernels, lambda: run(*faulty))


# -- races ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [40, 256])
def test_a_missing_barrier_shows(n, right, device):
    x, y = numbers(n, device=device), nan(n, device=device)
    only_the_faulty(right, lambda ok: (right.reverse(x, y.fill_(torch.nan), n, ok), y, x.flip(0)), False)


def test_a_missing_barrier_before_writing_again_shows(right, device):
    x, y = numbers(100, device=device), nan(100, device=device)
    only_the_faulty(right, lambda ok: (right.prefix_sum(x, y.fill_(torch.nan), 100, ok), y, x.cumsum(0)), False)


@pytest.mark.parametrize("faulty", [(False, True), (True, False)], ids=["not waited for", "comes early"])
def test_an_asynchronous_copy_shows_when(faulty, right, device):
    x, y = numbers(2, 64, 4, device=device), nan(2, 64, 4, device=device)

    def run(waits, waits_for_readers):
        error = right.staged(x, y.fill_(torch.nan), 64, waits, waits_for_readers)
        return error, y, x.roll(-1, 1)

    only_the_faulty(right, run, *faulty)


def test_groups_of_asynchronous_copies(right, device):
    x, y = numbers(5, 96, device=device), nan(5, 96, device=device)
    assert wrong_seeds(right, lambda: (right.pipelined(x, y.fill_(torch.nan), 96, 5), y, x)) == []


@pytest.mark.parametrize("faulty", [(False, True), (True, False)], ids=["before reading", "before leaving"])
@pytest.mark.parametrize("cluster", [2, 8])
def test_a_missing_cluster_barrier_shows(cluster, faulty, right, device):
    if device.type == "cuda" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("needs a GPU with thread-block clusters")
    x, y = numbers(8, 32, device=device), nan(8, 32, device=device)
    expected = x.view(-1, cluster, 32).roll(-1, 1).reshape(8, 32)

    def run(waits, stays):
        return right.neighbours(x, y.fill_(torch.nan), 8, 32, cluster, waits, stays), y, expected

    only_the_faulty(right, run, *faulty)


@pytest.mark.parametrize("fault", ["nobody waits", "half of it is expected"])
@pytest.mark.parametrize("cluster", [2, 8])
def test_stores_to_peers_that_are_not_waited_for_show(cluster, fault, right, device):
    if device.type == "cuda" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("needs a GPU with thread-block clusters")
    threads, steps = 32, 5
    x = torch.randint(-8, 9, (16, threads, 4), dtype=torch.int32, device=device)
    expected = x.view(-1, cluster, threads, 4)
    for _ in range(steps):
        expected = expected.sum(1, keepdim=True, dtype=torch.int32).roll(-1, 2).expand_as(expected)
    expected = expected.reshape(x.shape)

    def wrong(seed, share, waits):
        right.seed(seed)
        y = torch.zeros_like(x)
        error = right.all_to_all(x, y, 16, threads, cluster, steps, 16 * threads * cluster // share, waits)
        return bool(error) or not torch.equal(y, expected)

    assert not any(wrong(seed, 1, True) for seed in SEEDS)
    if device.type == "cpu":
        assert any(wrong(seed, *((1, False) if fault == "nobody waits" else (2, True))) for seed in SEEDS)


@pytest.mark.parametrize("bytes, times, starts, said", [
    (0, 1, True, ""),
    (32, 1, True, "dead-lock\n  block 0: transfer_wait, 32 bytes missing: 1 of 1 thread arrived (0)"),
    (0, 0, True, "transfer_wait, nobody has said how many bytes it expects"),
    (16, 2, True, "transfer_expect twice in a phase"),
    (1 << 20, 1, True, "1048576 bytes, a barrier counts to 1048575"),
    (0, 1, False, "transfer_expect: no transfer_init of this barrier came before"),
])
def test_what_a_transfer_barrier_cannot_do_is_named(bytes, times, starts, said, host, interpreted):
    for kernels in (host, interpreted):
        error = kernels.expects(bytes, times, starts)
        assert said in error and bool(said) == bool(error)


def grid_sum(kernels, blocks, cooperative, ok, device="cpu"):
    x, y, partial = (numbers(blocks, 64, device=device), nan(blocks, device=device), nan(blocks, 64, device=device))
    counter = torch.tensor([-16], dtype=torch.int32, device=device)
    error = kernels.grid_sum(x, partial, counter, y, blocks, 64, cooperative, ok)
    return error, y, x.sum().expand(blocks)


def test_a_flag_set_before_the_block_is_done_shows(right, device):
    only_the_faulty(right, lambda ok: grid_sum(right, 6, True, ok, device), False)


def test_a_flag_that_releases_nothing_shows_in_weak_memory(right, device):
    x, y, partial = numbers(6, 64, device=device), nan(6, device=device), nan(6, 64, device=device)
    counter = torch.zeros(1, dtype=torch.int32, device=device)

    def run(ok):
        error = right.grid_sum_relaxed(x, partial.fill_(torch.nan), counter.zero_(), y, 6, 64, ok)
        return error, y, x.sum().expand(6)

    assert wrong_seeds(right, lambda: run(True)) == []
    assert bool(wrong_seeds(right, lambda: run(False))) is right.interpreted or device.type == "cuda"


# -- dead-locks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first, said", [(1, "31 of 32 threads arrived (1..31); 1 thread has left the kernel (0)"),
                                         (16, "16 of 32 threads arrived (16..31); 16 threads have left the kernel")])
def test_a_barrier_that_part_of_a_block_misses_is_named(first, said, host):
    error = host.barrier_for_some(1, 32, first)
    assert "kernel barrier_for_some (1 block of 32 threads): dead-lock" in error
    assert f"block 0: __syncthreads: {said}" in error
    assert host.barrier_for_some(1, 32, 0) == ""  # the executor is whole again


def test_blocks_that_wait_for_each_other_must_be_in_flight_together(host):
    error, *_ = grid_sum(host, 8, False, True)
    assert "dead-lock" in error and "wait_at_least(4294967288), the counter is" in error
    assert "not started: only blocks of a cooperative grid or of a cluster may wait for each other" in error


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs the executor's own switching, of x86-64")
def test_a_stack_that_overflows_is_named(host):
    assert ": the stack overflows" in host.deep(torch.zeros(1, dtype=torch.uint8))


def test_spinning_for_ever_is_named(right, host, device):
    assert right.spin(torch.zeros(1, dtype=torch.int32, device=device), True) == ""
    assert "load_acquire, spinning: 1 of 1 thread arrived" in host.spin(torch.zeros(1, dtype=torch.int32), False)


@pytest.mark.parametrize("kind, said", [
    (0, "__shfl_sync of warp 0, mask 0xffffffff: 31 of 32 threads arrived (1..31); 1 thread has left the kernel (0)"),
    (1, "__shfl_sync with mask 0x"),
    (2, "a shuffle reads lane 20, which its mask does not name"),
], ids=["lane leaves", "masks differ", "reads outside"])
def test_a_warp_collective_without_all_its_lanes_is_named(kind, said, host):
    for seed in SEEDS:
        host.seed(seed)
        error = host.lanes_astray(nan(32), 32, kind)
        assert said in error and "kernel lanes_astray" in error


def test_a_mask_beyond_the_block_is_named(host):
    assert "names lanes that the block does not have" in host.shuffles(numbers(40), nan(8, 40), 40)


# -- memory -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at, said", [(100, "written at byte 100 of 100"), (355, "written at byte 355 of 100"),
                                      (-1, "written 1 bytes before its start")])
def test_a_write_beyond_shared_memory_is_found(at, said, host):
    assert host.write_shared(2, 100, 99) == ""
    assert said in host.write_shared(2, 100, at)


def test_shared_memory_begins_as_nan(host):
    y = numbers(1)
    assert host.read_shared(y, 128, 31) == "" and y.isnan()


@pytest.fixture(scope="session")
def sanitized():
    if not shutil.which("g++"):
        pytest.skip("needs g++")
    command = [*HOST, "-O1", "-fsanitize=address", "-DFAULTS_MAIN", *SOURCES]
    program = built("faults-sanitized", command)
    return lambda case: subprocess.run([program, case], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("case", ["global read", "shared read", "shared write"])
def test_address_sanitizer_sees_an_access_outside(case, sanitized):
    done, kernel = sanitized(case), "_".join(reversed(case.split()))
    assert done.returncode != 0 and "heap-buffer-overflow" in done.stderr and kernel in done.stderr


def test_address_sanitizer_sees_an_access_to_a_block_that_has_left(sanitized):
    assert "use-after-poison" in sanitized("peer left").stderr


@pytest.mark.parametrize("case, said", [("right", ""), ("dead-lock", "dead-lock")])
def test_address_sanitizer_has_nothing_to_say_of_the_executor(case, said, sanitized):
    done = sanitized(case)
    assert done.returncode == 0 and "ERROR" not in done.stderr and said in done.stdout


# -- launches -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks, threads, shared, cluster, cooperative, said", [
    (1, 0, 0, 1, False, "a block has 1 to 1024 threads"),
    (1, 1025, 0, 1, False, "a block has 1 to 1024 threads"),
    (1, 32, 232449, 1, False, "232449 bytes of shared memory, a block has at most 232448"),
    (34, 32, 0, 17, False, "a cluster has 1 to 16 blocks"),
    (9, 32, 0, 2, False, "blocks are no multiple of the cluster's"),
    (133, 32, 0, 1, True, "133 blocks cannot be in flight together, at most 132 can"),
    (132, 33, 232448, 1, False, ""), (32, 1, 0, 16, True, ""), (0, 32, 0, 1, False, ""),
])
def test_shapes_that_no_device_has_are_refused(blocks, threads, shared, cluster, cooperative, said, host):
    args = ctypes.c_int64(blocks), threads, ctypes.c_int64(shared), cluster, cooperative
    error = host.shape(*args)
    assert said in error and bool(said) == bool(error)


def test_limits_can_be_set(host):
    set_limits = host.library.simt_set_limits
    set_limits(ctypes.c_int64(1000), ctypes.c_int64(4), 2)
    try:
        assert "at most 1000" in host.write_shared(1, 1001, 0)
        assert "at most 4 can" in grid_sum(host, 5, True, True)[0]
    finally:
        set_limits(ctypes.c_int64(232448), ctypes.c_int64(132), 16)


def test_a_launch_is_counted(host):
    count = host.library.simt_last_launch
    count.restype, count.argtypes = ctypes.c_int64, [ctypes.c_char_p]
    assert host.prefix_sum(numbers(64), nan(64), 64, True) == ""
    expected = {"blocks": 1, "threads": 64, "shared_bytes": 256, "barriers": 12, "collectives": 0, "releases": 0}
    assert {key: count(key.encode()) for key in expected} == expected and count(b"instructions") == 0


def test_instructions_of_ptx_are_counted(interpreted):
    count = interpreted.library.simt_last_launch
    count.restype, count.argtypes = ctypes.c_int64, [ctypes.c_char_p]
    found = []
    for n in (64, 128):  # two and four warps, and one round more of adding neighbours
        assert interpreted.prefix_sum(numbers(n), nan(n), n, True) == ""
        found.append(count(b"instructions"))
    assert 2 * found[0] < found[1] < 3 * found[0]


# -- warps: what each lane holds and receives ---------------------------------------------------------------


def test_shuffles_and_votes(right, device):
    n = 64
    x, y = numbers(n, device=device), nan(8, n, device=device)
    lanes = torch.arange(n, device=device)
    warp, lane = lanes // 32 * 32, lanes % 32
    low = torch.tensor([sum(1 << int(i) for i in range(16) if x[int(w) + i] > 0) for w in warp]).to(x)
    expected = torch.stack([
        x[warp + 5],
        x[warp + (lane ^ 9)],
        x[warp + torch.where(lane + 3 < 32, lane + 3, lane)],
        x[warp + torch.where(lane % 8 + 3 < 8, lane + 3, lane)],
        low,
        torch.zeros(n, device=device),
        torch.ones(n, device=device),
        x[warp + torch.where(lane < 16, lane ^ 1, lane ^ 2)],
    ])
    assert wrong_seeds(right, lambda: (right.shuffles(x, y.fill_(torch.nan), n), y, expected)) == []


# Where the elements of the operands stand, after the PTX ISA: (row, column) of element i of lane 4g + t.
def a_16(g, t, i):
    return g + (0 if i < 2 or 4 <= i < 6 else 8), 2 * t + i % 2 + (8 if i >= 4 else 0)


def b_16(g, t, i):
    return 2 * t + i % 2 + (8 if i >= 2 else 0), g


def a_tf32(g, t, i):
    return g + (0 if i in (0, 2) else 8), t + (0 if i < 2 else 4)


def b_tf32(g, t, i):
    return t + 4 * i, g


def accumulator(g, t, i):
    return g + (0 if i < 2 else 8), 2 * t + i % 2


def fragment(matrix, place, count):
    """(32, count): each lane's elements of the matrix."""
    return torch.tensor([[matrix[place(lane // 4, lane % 4, i)] for i in range(count)] for lane in range(32)])


@pytest.mark.parametrize("case", ["rows", "columns", "random"])
@pytest.mark.parametrize("kind, dtype", list(enumerate([torch.float16, torch.bfloat16, torch.float32])))
def test_products(kind, dtype, case, right, device):
    K = 8 if dtype == torch.float32 else 16
    a, b, c = numbers(16, K), numbers(K, 8), numbers(16, 8)
    if case == "rows":  # the product is b's rows, then zeros
        a, c = torch.eye(16, K), torch.zeros(16, 8)
    if case == "columns":  # the product is a's columns
        b, c = torch.eye(K, 8), torch.zeros(16, 8)
    a_own, b_own = (fragment(a, a_tf32, 4), fragment(b, b_tf32, 2)) if K == 8 else (
        fragment(a, a_16, 8), fragment(b, b_16, 4))
    a_own, b_own = (m.to(dtype).view(torch.int32).contiguous() for m in (a_own, b_own))
    if K == 8:
        a_own += 0x1000 + torch.randint(-0x1000, 0xfff, a_own.shape, dtype=torch.int32)  # bits tf32 has not
    acc, expected = fragment(c, accumulator, 4).to(device), fragment(c + a @ b, accumulator, 4).to(device)
    assert right.product(a_own.to(device), b_own.to(device), acc, kind) == ""
    assert torch.equal(acc, expected)


def test_matrix_rows(right, device):
    rows, order = torch.randint(0, 1 << 15, (32, 8), dtype=torch.int16), torch.randperm(32).int()
    r = torch.zeros(32, 6, dtype=torch.int32, device=device)
    assert right.matrix_rows(rows.to(device), order.to(device), r) == ""
    matrices = rows.view(4, 8, 4, 2)  # row g of matrix j: four pairs of elements
    expected = matrices.permute(1, 2, 0, 3).reshape(32, 4, 2).contiguous().view(torch.int32).view(32, 4)
    assert torch.equal(r.cpu(), torch.cat([expected, expected[:, :2]], 1))


# -- numbers, atomics, memory -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_16_bit_numbers(dtype, right, device):
    every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).short().view(dtype).to(device)
    out = torch.zeros(1 << 16, device=device)
    assert right.to_float(every, out, 1 << 16, dtype == torch.float16) == ""
    assert torch.equal(out.nan_to_num(12345), every.float().nan_to_num(12345))

    exact = every.float()[every.isfinite()].sort().values
    halfway = (exact[1:].double() + exact[:-1].double()).div(2).float()  # ties, and just beside them
    infinite = torch.full_like(halfway, torch.inf)
    beside = halfway.nextafter(infinite), halfway.nextafter(-infinite)
    large = torch.tensor([65519.0, 65520.0, 1e38, 3.4e38, torch.inf, -torch.inf], device=device)
    x = torch.cat([halfway, *beside, exact, large])
    back = torch.zeros(x.numel(), dtype=dtype, device=device)
    assert right.from_float(x, back, x.numel(), dtype == torch.float16) == ""
    assert torch.equal(back.view(torch.int16), x.to(dtype).view(torch.int16))


def test_tf32_rounds_to_nearest_ties_away_from_zero(right, device):
    x = torch.tensor([1.0, -3.5, 1 + 2**-11, -1 - 2**-11, 1 + 2**-11 - 2**-23, 1 + 3 * 2**-11], device=device)
    out = torch.zeros(6, dtype=torch.int32, device=device)
    assert right.tf32(x, out, 6) == ""
    expected = torch.tensor([1.0, -3.5, 1 + 2**-10, -1 - 2**-10, 1.0, 1 + 2 * 2**-10], device=device)
    assert torch.equal(out.view(torch.float32), expected)


def test_atomics(right, device):
    f, i = torch.zeros(1, device=device), torch.zeros(1, dtype=torch.int32, device=device)
    u = torch.zeros(321, dtype=torch.int32, device=device)
    assert right.atomics(f, i, u, 5, 64) == ""
    assert (f.item(), i.item(), u[0].item()) == (160.0, -320, 320) and u[1:].eq(1).all()


@pytest.mark.parametrize("size", [2, 4, 8, 16])
def test_loads_and_stores_past_the_first_level(size, right, host, device):
    x = torch.randint(-128, 128, (33, size), dtype=torch.int8)
    y = torch.zeros_like(x, device=device)
    assert right.through_l2(x.to(device), y, 33, size) == "" and torch.equal(y.cpu(), x)
    assert "load_l2: address not aligned" in host.through_l2(x.view(-1)[1:], torch.zeros_like(x), 32, size)


@pytest.mark.parametrize("arch", ["80", "90a"])
def test_nvcc_assembles_every_primitive(arch):
    command = [nvcc(), "-std=c++17", "-Werror=all-warnings", f"-arch=sm_{arch}", "-Xcompiler=-Wall,-Wextra", "-c"]
    assert built(f"faults-{arch}.o", [*command, SOURCES[0]]).exists()
