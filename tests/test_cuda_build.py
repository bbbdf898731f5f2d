"""nvcc compiles every kernel for every architecture without a warning, and none of them spills."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fusedrnn import _ops

ROOT = Path(__file__).parents[1]
KERNELS = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
ARCHITECTURES = ["80", "86", "89", "90a", "100a", "120"]
ALWAYS = ["80", "90a"]  # the others take as long again: FUSEDRNN_ALL_ARCHITECTURES=1
AS_TORCH_DOES = [f"-D__CUDA_NO_{name}__" for name in ("HALF_OPERATORS", "HALF_CONVERSIONS", "BFLOAT16_CONVERSIONS", "HALF2_OPERATORS")]
REGISTERS = 64 * 1024  # of a multiprocessor
NVCC = shutil.which("nvcc")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NVCC is None, reason="needs nvcc, which is not on the PATH"),
]


def sources():
    return sorted(p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".h", ".cuh", ".cu"))


@pytest.fixture(scope="module")
def built():
    """architecture → kernel source → what nvcc and ptxas said of it. Kept in build/ until a source changes."""
    architectures = ARCHITECTURES if os.environ.get("FUSEDRNN_ALL_ARCHITECTURES") == "1" else ALWAYS
    digest = hashlib.sha256()
    for source in [*sources(), Path(__file__)]:
        digest.update(source.read_bytes())
    folder = ROOT / "build" / "nvcc" / digest.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)

    def compile(job):
        architecture, source = job
        log = folder / f"{source.stem}-{architecture}.log"
        if not log.exists():
            run = subprocess.run(
                [
                    NVCC, "-std=c++20", "-O3", "-Xptxas", "-v", "-Werror", "all-warnings", "-c", str(source),
                    f"-gencode=arch=compute_{architecture},code=sm_{architecture}",
                    *AS_TORCH_DOES, "-o", str(log.with_suffix(".o")),
                ],
                capture_output=True, text=True,
            )  # fmt: skip
            text = run.stdout + run.stderr
            if run.returncode:
                return architecture, source.stem, f"FAILED\n{text}"
            log.write_text(text)
        return architecture, source.stem, log.read_text()

    jobs = [(architecture, source) for source in KERNELS for architecture in architectures]
    reports = {architecture: {} for architecture in architectures}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for architecture, name, text in pool.map(compile, jobs):
            reports[architecture][name] = text
    return reports


def entries(report):
    """name → (registers, bytes spilled, bytes of stack) of each kernel in a report of ptxas."""
    found = {}
    for name, properties in re.findall(r"Compiling entry function '(\w+)'(.*?)(?=Compiling entry|\Z)", report, re.S):
        registers = int(re.search(r"Used (\d+) registers", properties)[1])
        stack, stores, loads = map(int, re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+)", properties).groups())
        found[name] = registers, stores + loads, stack
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_compiles_and_none_spills(architecture, built):
    if architecture not in built:
        pytest.skip("only with FUSEDRNN_ALL_ARCHITECTURES=1")
    kernels = {}
    for name, report in built[architecture].items():
        assert not report.startswith("FAILED"), f"{name}.cu: {report}"
        kernels.update(entries(report))
    cells = _ops.CELLS
    assert sum("persistent_forward" in name for name in kernels) == 3 * len(cells)  # float32 and two of 16 bits
    assert sum("persistent_backward" in name for name in kernels) == 3 * len(cells)
    for name, (registers, spilled, stack) in kernels.items():
        assert (spilled, stack) == (0, 0), f"{name} spills {spilled} bytes and has {stack} bytes of stack"
        assert registers * 256 <= REGISTERS, f"{name}: 256 threads of {registers} registers each"


def test_the_report_of_a_spilling_kernel_would_be_seen():
    report = """ptxas info    : Compiling entry function '_Z4kernelPf' for 'sm_80'
ptxas info    : Function properties for _Z4kernelPf
    40 bytes stack frame, 44 bytes spill stores, 48 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers
"""
    assert entries(report) == {"_Z4kernelPf": (255, 92, 40)}


def test_what_binds_the_kernels_to_torch_compiles_without_a_cuda_build_of_torch(tmp_path):
    from torch.utils import cpp_extension

    toolkit = Path(subprocess.run(
        [NVCC, "-x", "cu", "-E", "-dryrun", os.devnull], capture_output=True, text=True
    ).stderr.split("#$ TOP=")[1].splitlines()[0])  # fmt: skip
    include = next(p for p in (toolkit / "include", *toolkit.glob("targets/*-linux/include")) if p.is_dir())
    command = ["c++", "-std=c++20", "-fsyntax-only", "-Wall", "-DC10_USING_CUSTOM_GENERATED_MACROS", "-DFUSEDRNN_WITH_CUDA"]
    command += ["-DFUSEDRNN_CUDA_ARCHITECTURES=8.0,9.0a", "-DFUSEDRNN_CUDA_VERSION=13.0", "-DFUSEDRNN_TORCH_VERSION=2.13.0"]
    command += ["-DTORCH_EXTENSION_NAME=_C"]
    includes = [*cpp_extension.include_paths(), str(include), sysconfig.get_paths()["include"]]
    command += [f"-isystem{path}" for path in includes]
    for name in ("device_cuda.cpp", "python.cpp"):
        run = subprocess.run([*command, str(ROOT / "csrc" / "ops" / name)], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        assert "warning" not in run.stderr, run.stderr


class Command:
    """In place of torch's build command."""

    ran = False

    def run(self):
        self.ran = True


def test_the_build_for_cuda_takes_every_kernel_and_every_binding(monkeypatch):
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("setup_for_test", ROOT / "setup.py")
    setup = module_from_spec(spec)
    spec.loader.exec_module(setup)
    from torch.utils import cpp_extension

    monkeypatch.setattr(setup, "find_nvcc", lambda home: NVCC)  # which may be a wrapper, without headers beside it
    monkeypatch.setattr(torch.version, "cuda", setup.toolkit_version(NVCC))
    monkeypatch.setattr(cpp_extension, "CUDAExtension", lambda name, sources, **kwargs: (sources, kwargs))
    monkeypatch.setattr(cpp_extension, "BuildExtension", Command)
    monkeypatch.setenv("FUSEDRNN_CUDA", "1")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5;8.0;9.0a")
    monkeypatch.chdir(ROOT)
    (taken, kwargs), builder = setup.extension()
    assert {str(k.relative_to(ROOT)) for k in KERNELS} <= set(taken)
    assert {"csrc/ops/layer_cuda.cpp", "csrc/ops/device_cuda.cpp"} <= set(taken)
    assert ("FUSEDRNN_WITH_CUDA", None) in kwargs["define_macros"]
    assert not any("," in (value or "") for _, value in kwargs["define_macros"]), "nvcc cuts a macro at its commas"
    flag = "-DFUSEDRNN_CUDA_ARCHITECTURES=8.0,9.0a"
    assert flag not in kwargs["extra_compile_args"]["cxx"], "what only packs the sources asks for no GPU"
    command = builder()
    command.extensions = [SimpleNamespace(**kwargs)]
    command.run()
    assert command.ran and flag in kwargs["extra_compile_args"]["cxx"]
    assert os.environ["TORCH_CUDA_ARCH_LIST"] == "8.0;9.0a"
    assert sys.platform != "linux" or kwargs["extra_compile_args"]["nvcc"]
