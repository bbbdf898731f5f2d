"""Has the host executor run what nvcc makes of the kernels: their PTX, interpreted."""

import ctypes
import functools
import hashlib
import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"


def compiled(source, arch):
    """The PTX of a .cu file for arch, such as sm_90a, kept in build/ptx until a source changes. Needs nvcc."""
    headers = [*CSRC.rglob("*.h"), *CSRC.rglob("*.cuh"), *CSRC.rglob("*.inc")]
    command = ["nvcc", "-std=c++20", "-O3", f"-arch={arch}", "-ptx"]
    digest = hashlib.sha256(repr((command, str(source))).encode())
    for path in sorted([Path(source), *headers]):
        digest.update(path.read_bytes())
    target = ROOT / "build" / "ptx" / f"{Path(source).stem}-{arch}-{digest.hexdigest()[:16]}.ptx"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        for old in target.parent.glob(f"{Path(source).stem}-{arch}-*"):
            old.unlink(missing_ok=True)
        partial = target.with_suffix(f".{os.getpid()}")
        made = subprocess.run([*command, str(source), "-o", str(partial)], capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        partial.rename(target)
    return target.read_text()


def demangled(names):
    text = subprocess.run(["c++filt", "-p"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    return text.splitlines()


def kernel(name):
    """A kernel's name and template arguments, the same for the device's and for the host's."""
    name = name.replace("(anonymous namespace)::", "").replace("__nv_bfloat16", "BFloat16").replace("__half", "Half")
    name = re.sub(r"_GLOBAL__N__\w+::|_INTERNAL_\w+::", "", name)
    return re.sub(r"fusedrnn::cuda::|fusedrnn::|\s", "", re.sub(r"^void\s+", "", name))


def bind(library, ptx):
    """Let the host's kernels in the library, which has simt's, run as the entries of PTX texts that have their names."""
    c = ctypes.CDLL(str(library))
    c.simt_ptx_load.restype = c.simt_ptx_bind.restype = ctypes.c_char_p
    c.simt_ptx_load.argtypes = [ctypes.c_char_p]
    c.simt_ptx_bind.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    entries = []
    for text in ptx:
        error = c.simt_ptx_load(text.encode())
        assert not error, error.decode()
        entries += re.findall(r"\.entry\s+(\w+)", text)
    assert len(set(map(kernel, demangled(entries)))) == len(entries), "two kernels of one name"
    entries = dict(zip(map(kernel, demangled(entries)), entries, strict=True))
    listed = subprocess.run(["nm", "--defined-only", str(library)], capture_output=True, text=True, check=True).stdout
    symbols = {name: int(at, 16) for at, kind, name in map(str.split, listed.splitlines()) if kind in "tTwW"}
    start = ctypes.cast(c.simt_ptx_use, ctypes.c_void_p).value - symbols["simt_ptx_use"]
    bound = set()
    for (_, at), name in zip(symbols.items(), map(kernel, demangled(symbols)), strict=True):
        if name in entries:
            error = c.simt_ptx_bind(start + at, entries[name].encode())
            assert not error, error.decode()
            bound.add(name)
    assert bound == set(entries), f"no host kernel for {sorted(set(entries) - bound)}"
    return c


@functools.cache
def kernels(library, arch):
    """The library, with the PTX of all of csrc/cuda."""
    return bind(library, [compiled(source, arch) for source in sorted((CSRC / "cuda").glob("*.cu"))])


def use(arch, extension):
    """Have the extension's launches run PTX for arch from here on; None: the host's code."""
    if arch:
        kernels(extension.__file__, arch).simt_ptx_use(True)
