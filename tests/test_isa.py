"""Kernels of a processor that is not here, under emulation: isa_check.cpp, which needs no torch.

NEON: g++-aarch64-linux-gnu and qemu-user-static (or qemu-user), as Debian calls them. AVX-512: emulate_avx512.sh.
"""

import concurrent.futures
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parent / "csrc"
COMPILER = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")


@pytest.mark.slow
@pytest.mark.skipif(not (COMPILER and EMULATOR), reason="needs aarch64-linux-gnu-g++ and qemu-aarch64")
def test_neon_agrees_with_the_portable_kernels(tmp_path):
    program = str(tmp_path / "isa_check")
    sources = [HERE / "isa_check.cpp", CSRC / "core/plan.cpp", CSRC / "core/cells/list.cpp", *(CSRC / "cpu").glob("*.cpp")]
    flags = ["-std=c++20", "-O3", "-Wall", "-Werror", "-fno-math-errno", "-ffp-contract=fast", "-pthread"]

    def compiled(source):
        target = tmp_path / f"{source.stem}.o"
        subprocess.run([COMPILER, *flags, "-c", str(source), "-o", str(target)], check=True)
        return str(target)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, sources))
    subprocess.run([COMPILER, "-static", "-pthread", *objects, "-o", program], check=True)
    run = subprocess.run([EMULATOR, program], capture_output=True, text=True)
    assert run.returncode == 0 and re.match(r"neon, portable, portable_bf16: \d{3} cases, 0 differences", run.stdout), run.stdout
    faulty = subprocess.run([EMULATOR, program, "1e-4"], capture_output=True, text=True)
    assert faulty.returncode == 1 and "neon: rnn_tanh" in faulty.stdout, faulty.stdout
