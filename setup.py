"""Builds fusedrnn._C. What is built, and why, is decided by pure functions that tests call.

Nothing is downloaded. Environment: FUSEDRNN_CUDA=0|1 forces the CUDA part off or on (default: on where torch is a
CUDA build and nvcc is found), FUSEDRNN_OPENMP=0|1 OpenMP (default: on but on macOS, whose compiler has none);
TORCH_CUDA_ARCH_LIST and MAX_JOBS are honoured by torch's own build machinery.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
OLDER_THAN_AMPERE = ("Kepler", "Maxwell", "Pascal", "Volta", "Turing")  # names that torch knows
HOW_TO_GET_TORCH = (
    "pip install torch==2.13.0 (or the build for your CUDA) setuptools wheel ninja, "
    "then: pip install --no-build-isolation -e ."
)


def build_decision(request, torch_cuda, nvcc, toolkit, sources):
    """(with_cuda, one line that says why).

    request: value of FUSEDRNN_CUDA or None; torch_cuda: torch.version.cuda or None; nvcc: its path or None; toolkit:
    its version, or None; sources: number of CUDA sources in this version. Raises SystemExit when a request cannot be
    met.
    """
    if request not in (None, "", "0", "1"):
        raise SystemExit(f"fusedrnn: FUSEDRNN_CUDA must be 0 or 1; got {request!r}")
    if request == "0":
        return False, "CPU only: FUSEDRNN_CUDA=0"
    missing = []
    if not sources:
        missing.append("this version of fusedrnn has no CUDA kernels yet")
    if not torch_cuda:
        missing.append("the installed torch is a CPU build (install one for your CUDA from pytorch.org)")
    elif not nvcc:
        how = f"install CUDA {torch_cuda}, set CUDA_HOME to its folder"
        missing.append(f"no CUDA toolkit was found, of nvcc and its headers ({how})")
    elif toolkit and toolkit.split(".")[0] != torch_cuda.split(".")[0]:  # torch's build machinery refuses
        missing.append(f"{nvcc} is of CUDA {toolkit}, torch of {torch_cuda} (set CUDA_HOME to a toolkit {torch_cuda})")
    if not missing:
        return True, f"with CUDA {torch_cuda}: {nvcc}"
    if request == "1":
        raise SystemExit("fusedrnn: FUSEDRNN_CUDA=1 cannot be met: " + "; ".join(missing))
    return False, "CPU only: " + "; ".join(missing)


def openmp_flags(request, platform):
    """Compiler and linker flags. Without OpenMP the kernels start threads for each call (csrc/cpu/team.cpp).

    request: value of FUSEDRNN_OPENMP or None; platform: sys.platform. Raises SystemExit for what cannot be built.
    """
    if platform == "win32":
        raise SystemExit(
            "fusedrnn: the kernels need GCC or Clang and are not built on Windows; WSL 2 is a Linux that builds them"
        )
    if request not in (None, "", "0", "1"):
        raise SystemExit(f"fusedrnn: FUSEDRNN_OPENMP must be 0 or 1; got {request!r}")
    return ["-fopenmp"] if request == "1" or (request != "0" and platform != "darwin") else []


def check_compiler(request):
    """Raise SystemExit where there is no C++ compiler: without it the build's error lies under a page of others.

    request: value of CXX or None; a command, which may have options and a wrapper before it.
    """
    program, *_ = shlex.split(request or "") or ["c++"]
    if not shutil.which(program):
        raise SystemExit(
            f"fusedrnn: no C++ compiler: {program} is not on the PATH. Install one of C++20, such as g++ 12 (Debian: "
            "apt install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install), or set CXX to yours"
        )


def header_folders(environment, of_command=()):
    """The folders in which the compiler is to look for Python.h, each once, Python's own first.

    of_command: those that setuptools hands to the compiler
    """
    folders = [sysconfig.get_path("include"), sysconfig.get_path("platinclude"), *of_command]
    for variable in ("CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH"):
        folders += environment.get(variable, "").split(os.pathsep)
    for variable in ("CXX", "CPPFLAGS", "CFLAGS", "CXXFLAGS"):
        folders += re.findall(r"(?<!\S)-(?:I|isystem)\s*(\S+)", environment.get(variable, ""))
    return list(dict.fromkeys(filter(None, folders)))


def check_headers(folders):
    """Raise SystemExit where Python.h is in none of the folders: distributions pack it apart from Python."""
    if not any(Path(folder, "Python.h").is_file() for folder in folders):
        raise SystemExit(
            f"fusedrnn: no headers of Python {sys.version_info[0]}.{sys.version_info[1]}: Python.h is not in "
            f"{' or '.join(map(str, folders))}. Install them (Debian: apt install python3-dev; Fedora: dnf install "
            "python3-devel)"
        )


def find_nvcc(cuda_home):
    """The compiler of the toolkit that torch's build machinery has found and would use, or None.

    A folder without the toolkit's headers is none: there a link or a wrapper of nvcc lies.
    """
    if not cuda_home:
        return None
    headers = [Path(cuda_home, "include"), *Path(cuda_home).glob("targets/*/include")]
    whole = any((folder / "cuda_runtime_api.h").is_file() for folder in headers)
    return shutil.which("nvcc", path=str(Path(cuda_home, "bin"))) if whole else None


def cuda_home(environment):
    """CUDA_HOME as torch's build machinery is to have it, or None: leave it to that.

    That takes the folder above nvcc's. Where nvcc is a wrapper that stands elsewhere, nvcc itself says where its
    toolkit is.
    """
    nvcc = shutil.which("nvcc")
    if environment.get("CUDA_HOME") or environment.get("CUDA_PATH") or not nvcc or find_nvcc(Path(nvcc).parents[1]):
        return None
    said = subprocess.run([nvcc, "-x", "cu", "-E", "-dryrun", os.devnull], capture_output=True, text=True).stderr
    top = re.search(r"^#\$ TOP=(.*)$", said, re.MULTILINE)
    return str(Path(top[1]).resolve()) if top and find_nvcc(top[1]) else None


def toolkit_version(nvcc):
    """Such as "13.0", of what nvcc says of itself; None where it does not say."""
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    release = re.search(r"release (\d+\.\d+)", said)
    return release and release[1]


def capabilities_here(cuda):
    """Of the GPUs that torch can use, as pairs. cuda: torch.cuda, which counts those of too old a driver, too."""
    return [cuda.get_device_capability(i) for i in range(cuda.device_count())] if cuda.is_available() else []


def cuda_architectures(request, there):
    """(what torch's build machinery is to compile for, what was named but is too old for the kernels), lists of names.

    request: value of TORCH_CUDA_ARCH_LIST or None; there: compute capabilities of the GPUs here, such as (9, 0).
    Raises SystemExit where nothing is left to compile for.
    """
    named = (request or "").replace(";", " ").split()
    if not named or named == ["native"]:
        named = ["{}.{}".format(*capability) for capability in sorted(set(there))]
    choose = "set TORCH_CUDA_ARCH_LIST to what it is for, such as '8.0;9.0+PTX', or FUSEDRNN_CUDA=0 for the CPU alone"
    if not named:
        raise SystemExit(f"fusedrnn: no GPU is visible to build for: {choose}")
    capability = lambda name: float(re.match(r"\d+\.\d+|", name)[0] or "inf")
    old = [name for name in named if capability(name) < 8 or name.startswith(OLDER_THAN_AMPERE)]
    if old == named:
        raise SystemExit(
            f"fusedrnn: the CUDA kernels need compute capability 8.0 (Ampere), not {', '.join(old)}: {choose}"
        )
    return [name for name in named if name not in old], old


def extension():
    if (toolkit := cuda_home(os.environ)) is not None:
        os.environ["CUDA_HOME"] = toolkit  # before torch looks for it
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError as error:
        raise SystemExit(f"fusedrnn: building needs torch in this very environment ({error}). {HOW_TO_GET_TORCH}")
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 8):
        raise SystemExit(f"fusedrnn: torch {torch.__version__} is too old, 2.8 or newer is needed. {HOW_TO_GET_TORCH}")

    relative = lambda pattern: sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))
    cuda_sources = relative("csrc/cuda/*.cu")
    nvcc = find_nvcc(cpp_extension.CUDA_HOME)
    toolkit = nvcc and toolkit_version(nvcc)
    request = os.environ.get("FUSEDRNN_CUDA")
    with_cuda, why = build_decision(request, torch.version.cuda, nvcc, toolkit, len(cuda_sources))
    print(f"fusedrnn: building {why}", file=sys.stderr)

    sources = [s for folder in ("core", "cpu", "ops") for s in relative(f"csrc/{folder}/**/*.cpp")]
    if with_cuda:
        sources += cuda_sources
    else:
        sources = [s for s in sources if not s.endswith("_cuda.cpp") or s.startswith("csrc/core")]
    macros = [
        ("FUSEDRNN_TORCH_VERSION", torch.__version__),
        ("FUSEDRNN_CUDA_VERSION", torch.version.cuda if with_cuda else "none"),
    ]
    if with_cuda:
        macros.append(("FUSEDRNN_WITH_CUDA", None))
    openmp = openmp_flags(os.environ.get("FUSEDRNN_OPENMP"), sys.platform)
    cxx = ["-O3", "-std=c++20", *openmp, "-fno-math-errno", "-ffp-contract=fast"]
    cxx += ["-Wall", "-Wno-unknown-pragmas", "-fvisibility=hidden"]
    kind = cpp_extension.CUDAExtension if with_cuda else cpp_extension.CppExtension
    return kind(
        "fusedrnn._C",
        sources,
        depends=[s for pattern in ("h", "inc", "cuh") for s in relative(f"csrc/**/*.{pattern}")],
        define_macros=macros,
        extra_compile_args={"cxx": cxx, "nvcc": ["-O3", "-std=c++20"]} if with_cuda else cxx,
        extra_link_args=openmp,
    ), checked(cpp_extension.BuildExtension, torch.cuda if with_cuda else None)


def architectures_flag(cuda):
    """Tells the extension what its kernels are compiled for, and torch's build machinery what to leave out."""
    architectures, old = cuda_architectures(os.environ.get("TORCH_CUDA_ARCH_LIST"), capabilities_here(cuda))
    if old:
        print(f"fusedrnn: not built for {', '.join(old)}: the kernels need 8.0 (Ampere)", file=sys.stderr)
        os.environ["TORCH_CUDA_ARCH_LIST"] = ";".join(architectures)
    return f"-DFUSEDRNN_CUDA_ARCHITECTURES={','.join(architectures)}"


def checked(builder, cuda=None):
    """The command that looks for compiler, headers and GPUs when it is to compile: what only packs sources needs none.

    cuda: torch.cuda, where CUDA kernels are compiled
    """

    class Checked(builder):
        def run(self):
            check_compiler(os.environ.get("CXX"))
            check_headers(header_folders(os.environ, getattr(self, "include_dirs", None) or []))
            for module in self.extensions if cuda else ():
                # no macro of all: nvcc would cut it at its commas
                module.extra_compile_args["cxx"].append(architectures_flag(cuda))
            super().run()

    return Checked


if __name__ == "__main__":
    module, builder = extension()
    setup(ext_modules=[module], cmdclass={"build_ext": builder})
