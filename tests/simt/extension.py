"""Builds fusedrnn's CUDA path for the host executor, and switches the operators over to it."""

import contextlib
import functools
import os
import sysconfig
from pathlib import Path

from fusedrnn import _ops

from . import ptx

ROOT = Path(__file__).parents[2]
SOURCES = [
    "csrc/core/cells/list.cpp",
    "csrc/core/plan_cuda.cpp",
    "csrc/ops/check.cpp",
    "csrc/ops/layer_cuda.cpp",
    "csrc/ops/problem_cuda.cpp",
    "csrc/ops/products_cuda.cpp",
    "csrc/ops/recompute.cpp",
    "csrc/ops/settings.cpp",
    "tests/simt/binding.cpp",
    "tests/simt/executor.cpp",
    "tests/simt/kernels.cpp",
    "tests/simt/ptx.cpp",
    "tests/simt/ptx_opcodes.cpp",
    "tests/simt/ptx_parse.cpp",
]
KERNELS = ["tests/simt/executor.cpp", "tests/simt/kernels.cpp"]  # the others allocate what these touch


@functools.cache
def load():
    """Return the extension, built if a source has changed (a minute on one core, the first time).

    FUSEDRNN_SIMT_SANITIZE=1 takes a build whose kernels AddressSanitizer watches; its library has to be preloaded. What
    else there is, which takes the compiler longest, comes from the build without it, which has to be there.
    """
    from torch.utils import cpp_extension

    folder, sources, watched, others = ROOT / "build" / "simt", SOURCES, [], []
    if os.environ.get("FUSEDRNN_SIMT_SANITIZE") == "1":
        others = [str(folder / Path(source).with_suffix(".o").name) for source in SOURCES if source not in KERNELS]
        folder, sources = ROOT / "build" / "simt-address", KERNELS
        watched = ["-fsanitize=address", "-fno-omit-frame-pointer"]
        (folder / "fusedrnn_simt.so").unlink(missing_ok=True)  # ninja does not know of the others' changes
    folder.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), environment["PATH"]])  # ninja may be there alone
    os.environ.pop("LD_PRELOAD", None)  # the compiler needs no watching
    try:
        return cpp_extension.load(
            "fusedrnn_simt",
            [str(ROOT / source) for source in sources],
            extra_include_paths=[str(ROOT / "tests")],
            extra_cflags=["-O2", "-std=c++20", "-DFUSEDRNN_SIMT", "-fno-trapping-math", "-fvisibility=hidden", *watched],
            extra_ldflags=[*others, *watched],
            build_directory=str(folder),
        )
    finally:
        os.environ.update(environment)


@contextlib.contextmanager
def host_executor(device="A100", strategy="auto", seed=0):
    """Run fusedrnn's operators on CPU tensors by the CUDA kernels, as on a device, in a drawn order of threads.

    device: a name of fusedrnn.plan.KNOWN_DEVICES, or figures as those of `_device_figures`

    FUSEDRNN_SIMT_PTX=sm_90a, say, has the kernels' PTX for that architecture interpreted (see ptx.cpp), instead of running
    what the host's compiler makes of their source.
    """
    simt = load()
    ptx.use(os.environ.get("FUSEDRNN_SIMT_PTX"), simt)
    name, figures = (device, _ops._C.cuda_devices()[device]) if isinstance(device, str) else ("imagined", device)
    simt.use_device(name, *figures)
    simt.use_strategy(strategy)
    simt.seed(seed)
    simt.enable(True)
    try:
        yield simt
    finally:
        simt.enable(False)


@contextlib.contextmanager
def host_executor_off():
    """Run the CPU's own kernels for a while, within `host_executor` or not."""
    simt = load()
    was_on = simt.enabled()
    simt.enable(False)
    try:
        yield
    finally:
        simt.enable(was_on)
