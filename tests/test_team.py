"""The threads of a call, with OpenMP and without it: teams whose members meet at every step."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fusedrnn import _ops

HERE = Path(__file__).parent


WITH_OPENMP = pytest.mark.skipif(sys.platform == "darwin", reason="macOS's compiler has no OpenMP")


@pytest.mark.parametrize(
    "flags, source",
    [pytest.param(["-fopenmp"], "OpenMP", marks=WITH_OPENMP), pytest.param(["-pthread"], "started for each call")],
    ids=["OpenMP", "threads"],
)
def test_teams_meet_at_every_step(flags, source, tmp_path):
    program = tmp_path / "team_check"
    files = [str(HERE / "team_check.cpp"), str(HERE.parent / "csrc/cpu/team.cpp")]
    subprocess.run(["g++", "-std=c++20", "-O2", "-Wall", *flags, *files, "-o", str(program)], check=True)
    run = subprocess.run([str(program)], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0 and run.stdout == f"{source}, 8, 8\n", run.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says where a thread runs")
def test_no_thread_stays_on_the_callers_processor(tmp_path):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two processors")
    home, other = sorted(os.sched_getaffinity(0))[:2]
    program = tmp_path / "placement_check"
    files = [str(HERE / "placement_check.cpp"), str(HERE.parent / "csrc/cpu/team.cpp")]
    subprocess.run(["g++", "-std=c++20", "-O2", "-Wall", "-fopenmp", *files, "-o", str(program)], check=True)
    run = subprocess.run([str(program), str(home), str(other)], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0 and run.stdout == 20 * f"{other} 2\n", run.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="puts a function of its own before the C library's")
def test_a_thread_that_is_refused_leaves_the_work_to_the_others(tmp_path):
    """Without OpenMP, where the system has no more threads: here, none from the second on."""
    program, refuse = tmp_path / "team_check", tmp_path / "refuse.cpp"
    refuse.write_text(
        "#include <cerrno>\n#include <pthread.h>\n"
        'extern "C" int pthread_create(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*) noexcept '
        "{ return EAGAIN; }\n"
    )
    files = [str(HERE / "team_check.cpp"), str(HERE.parent / "csrc/cpu/team.cpp"), str(refuse)]
    subprocess.run(["g++", "-std=c++20", "-O2", "-pthread", *files, "-o", str(program)], check=True)
    run = subprocess.run([str(program)], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0 and run.stdout == "started for each call, 1, 1\n", run.stdout


REFUSED = """
import ctypes, sys, torch, fusedrnn
from fusedrnn import _ops

_ops._C.pretend_processors(4)
refuse = ctypes.CDLL(sys.argv[1]).refuse if sys.argv[1:] else lambda first, end: 1
for cell, I, H, B, T, dtype in (
    ("LSTM", 63, 129, 4, 20, torch.bfloat16), ("GRU", 63, 129, 4, 20, torch.bfloat16), ("LSTM", 64, 128, 4, 20, torch.float32),
    ("RNN", 128, 128, 64, 30, torch.float32), ("GRU", 33, 31, 24, 40, torch.float32),
):
    torch.manual_seed(0)
    layer, x = getattr(fusedrnn, cell)(I, H, bidirectional=H == 31).to(dtype), torch.randn(T, B, I).to(dtype).requires_grad_()

    def outcome(threads, first, end):
        torch.set_num_threads(threads)
        refuse(first, end)
        y, h_n = layer(x)
        found = [y, *torch.autograd.grad(y.float().sum(), [x, *layer.parameters()])]
        assert refuse(0, 0) > 0 or threads == 1, "our regions do not come by"
        return found

    alone = outcome(1, 0, 0)
    for threads in (2, 4):
        for first, end in ((0, 0), (0, 99), (0, 1), (0, 2), (1, 2), (1, 99), (2, 3), (3, 4)):
            for expected, found in zip(alone, outcome(threads, first, end), strict=True):
                assert torch.equal(expected, found), (cell, I, H, dtype, threads, first, end)
print("as alone")
"""


@WITH_OPENMP
@pytest.mark.skipif(sys.platform != "linux", reason="puts a function of its own before OpenMP's")
@pytest.mark.parametrize("how", ["no region", "some regions"])
def test_threads_that_openmp_does_not_grant_do_not_show(how, tmp_path):
    """One thread then does what was planned for several: in all regions of a call, or in some, from the first to the second."""
    if _ops.build_info()["cpu threads"] != "OpenMP" or not _ops.build_info()["compiler"].startswith("gcc"):
        pytest.skip("a build without OpenMP, or with another one than GCC's")
    environment, arguments = {**os.environ, "OMP_WAIT_POLICY": "passive"}, []
    if how == "no region":
        environment["OMP_THREAD_LIMIT"] = "1"
    else:
        source, exported, library = tmp_path / "refuse.c", tmp_path / "exported.map", tmp_path / "refuse.so"
        exported.write_text("GOMP_4.0 { global: GOMP_parallel; };\nOURS { global: refuse; };\n")
        source.write_text("""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
static int region, first_refused, end_refused;
int refuse(int first, int end) {
  int before = region;
  region = 0, first_refused = first, end_refused = end;
  return before;
}
void GOMP_parallel(void (*body)(void *), void *data, unsigned threads, unsigned flags) {
  static void (*real)(void (*)(void *), void *, unsigned, unsigned);
  if (!real) real = dlvsym(RTLD_NEXT, "GOMP_parallel", "GOMP_4.0");
  Dl_info caller;
  if (dladdr(__builtin_return_address(0), &caller) && strstr(caller.dli_fname, "fusedrnn/_C")) {
    if (region >= first_refused && region < end_refused) threads = 1;
    ++region;
  }
  real(body, data, threads, flags);
}
""")
        command = ["gcc", "-shared", "-fPIC", "-O1", f"-Wl,--version-script={exported}", str(source), "-ldl", "-o", str(library)]
        subprocess.run(command, check=True)
        environment["LD_PRELOAD"], arguments = str(library), [str(library)]
    run = subprocess.run(
        [sys.executable, "-c", REFUSED, *arguments], env=environment, cwd=HERE.parent, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0 and run.stdout == "as alone\n", f"{run.returncode}: {run.stdout}{run.stderr[-3000:]}"
