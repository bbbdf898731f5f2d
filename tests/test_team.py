"""The threads of a call, with OpenMP and without it: teams whose members meet at every step."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
