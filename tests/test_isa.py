"""The kernels without torch, by isa_check.cpp: those of a processor that is not here, under emulation, and all that are
here with every access to memory watched. And those here through torch, on tensors beside pages that may not be read.

NEON: g++-aarch64-linux-gnu and qemu-user-static (or qemu-user), as Debian calls them. AVX-512: emulate_avx512.sh.
"""

import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fusedrnn import _ops

HERE = Path(__file__).parent
CSRC = HERE.parent / "csrc"
COMPILER = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")




def build(tmp_path, compiler, compiling, linking=()):
    """The path of isa_check, compiled and linked with these flags."""
    program = str(tmp_path / "isa_check")
    sources = [HERE / "isa_check.cpp", CSRC / "core/plan.cpp", CSRC / "core/cells/list.cpp", *(CSRC / "cpu").glob("*.cpp")]
    flags = ["-std=c++20", "-Wall", "-Werror", "-fno-math-errno", "-ffp-contract=fast", "-pthread", *compiling]

    def compiled(source):
        target = tmp_path / f"{source.stem}.o"
        subprocess.run([compiler, *flags, "-c", str(source), "-o", str(target)], check=True)
        return str(target)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, sources))
    subprocess.run([compiler, "-pthread", *linking, *objects, "-o", program], check=True)
    return program


@pytest.mark.slow
@pytest.mark.skipif(not (COMPILER and EMULATOR), reason="needs aarch64-linux-gnu-g++ and qemu-aarch64")
def test_neon_agrees_with_the_portable_kernels(tmp_path):
    program = build(tmp_path, COMPILER, ["-O3"], ["-static"])
    run = subprocess.run([EMULATOR, program], capture_output=True, text=True)
    assert run.returncode == 0 and re.match(r"neon, portable, portable_bf16: \d{3} cases, 0 differences", run.stdout), run.stdout
    faulty = subprocess.run([EMULATOR, program, "1e-4"], capture_output=True, text=True)
    assert faulty.returncode == 1 and "neon: rnn_tanh" in faulty.stdout, faulty.stdout


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_no_kernel_reads_or_writes_beyond_its_memory(tmp_path):
    watched = ["-O1", "-g1", "-fsanitize=address"]
    beyond = tmp_path / "beyond"
    source = "int main(int n, char**) { volatile char* p = new char[8]; return p[8 * n]; }"
    if subprocess.run(["g++", *watched, "-x", "c++", "-", "-o", str(beyond)], input=source, text=True).returncode:
        pytest.skip("g++ has no AddressSanitizer here")
    assert "heap-buffer-overflow" in subprocess.run([str(beyond)], capture_output=True, text=True).stderr
    run = subprocess.run([build(tmp_path, "g++", watched, watched)], capture_output=True, text=True)
    assert run.returncode == 0 and re.search(r"portable, portable_bf16: \d{3} cases, 0 differences", run.stdout), run.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork, and mprotect")
@pytest.mark.parametrize("isa", _ops._C.available_isas())
@pytest.mark.cpu
def test_no_kernel_reads_beside_the_tensors_that_it_is_given(isa):
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(HERE / "guarded.py"), isa]
    run = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert run.returncode == 0, "\n".join([*run.stdout.splitlines()[-1:], run.stderr[-2000:]])
    assert run.stdout.count("\n") > 1000
