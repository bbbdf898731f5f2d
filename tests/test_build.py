"""What setup.py decides and packs, and what `import fusedrnn` says when the extension is missing or foreign."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import fusedrnn

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def setup():
    spec = importlib.util.spec_from_file_location("fusedrnn_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "request_, torch_cuda, nvcc, toolkit, sources, expected",
    [
        (None, "13.0", "/cuda/bin/nvcc", "13.0", 3, True),
        (None, "13.0", "/cuda/bin/nvcc", "13.2", 3, True),
        (None, "13.0", "/cuda/bin/nvcc", None, 3, True),
        ("1", "13.0", "/cuda/bin/nvcc", "13.0", 3, True),
        ("0", "13.0", "/cuda/bin/nvcc", "13.0", 3, False),
        (None, None, "/cuda/bin/nvcc", "13.0", 3, False),
        (None, "13.0", "/cuda/bin/nvcc", "12.8", 3, False),
        (None, "13.0", None, None, 3, False),
        ("", "13.0", None, None, 3, False),
        (None, "13.0", "/cuda/bin/nvcc", "13.0", 0, False),
    ],
)
def test_cuda_is_built_where_it_can_be(setup, request_, torch_cuda, nvcc, toolkit, sources, expected):
    with_cuda, why = setup.build_decision(request_, torch_cuda, nvcc, toolkit, sources)
    assert with_cuda is expected and "\n" not in why
    assert ("with CUDA 13.0" in why) if expected else ("CPU only" in why)


@pytest.mark.parametrize(
    "torch_cuda, nvcc, parts",
    [
        (None, "/cuda/bin/nvcc", ["CPU build"]),
        ("13.0", None, ["nvcc", "13.0", "CUDA_HOME"]),
        ("13.0", "/cuda/bin/nvcc", ["/cuda/bin/nvcc is of CUDA 12.8", "torch of 13.0", "CUDA_HOME"]),
        (None, None, ["CPU build (install one for your CUDA from pytorch.org)"]),
    ],
)
def test_a_request_that_cannot_be_met_says_what_is_missing(setup, torch_cuda, nvcc, parts):
    with pytest.raises(SystemExit) as stop:
        setup.build_decision("1", torch_cuda, nvcc, nvcc and "12.8", 3)
    assert all(part in str(stop.value) for part in ["FUSEDRNN_CUDA=1", *parts])
    assert torch_cuda or "CUDA_HOME" not in str(stop.value), "a CPU build needs no toolkit"


@pytest.mark.parametrize(
    "request_, there, expected",
    [
        (None, [(9, 0)], "9.0"),
        ("", [(8, 6), (9, 0), (8, 6)], "8.6 9.0"),
        ("native", [(12, 0)], "12.0"),
        ("8.0;9.0a 10.0+PTX", [], "8.0 9.0a 10.0+PTX"),
        ("Ampere;Hopper", [(7, 5)], "Ampere Hopper"),
    ],
)
def test_architectures_are_those_asked_for_or_here(setup, request_, there, expected):
    assert setup.cuda_architectures(request_, there) == (expected.split(), [])


@pytest.mark.parametrize(
    "request_, there, expected, old",
    [
        ("7.5 8.0 8.6 9.0 10.0 12.0+PTX", [], "8.0 8.6 9.0 10.0 12.0+PTX", "7.5"),  # as NVIDIA's images for torch have it
        (None, [(7, 5), (8, 6)], "8.6", "7.5"),
        ("Turing;Ampere;7.0+PTX", [], "Ampere", "Turing 7.0+PTX"),
    ],
)
def test_what_is_too_old_is_left_out(setup, request_, there, expected, old):
    assert setup.cuda_architectures(request_, there) == (expected.split(), old.split())


@pytest.mark.parametrize(
    "request_, there, part",
    [
        (None, [], "no GPU is visible"),
        ("native", [], "no GPU is visible"),
        (None, [(7, 5)], "not 7.5:"),
        ("7.0+PTX;7.5", [(9, 0)], r"not 7\.0\+PTX, 7\.5:"),
        ("Turing", [], "not Turing:"),
    ],
)
def test_nothing_is_compiled_for_what_cannot_run_it(setup, request_, there, part):
    with pytest.raises(SystemExit, match=part) as stop:
        setup.cuda_architectures(request_, there)
    assert "TORCH_CUDA_ARCH_LIST" in str(stop.value) and "FUSEDRNN_CUDA=0" in str(stop.value)


def test_nonsense_is_refused(setup):
    with pytest.raises(SystemExit, match="must be 0 or 1; got 'yes'"):
        setup.build_decision("yes", None, None, None, 3)


class Cuda:
    """torch.cuda on a machine of two GPUs, whose driver is too old or not."""

    def __init__(self, usable):
        self.usable = usable

    def is_available(self):
        return self.usable

    def device_count(self):
        return 2

    def get_device_capability(self, index):
        if not self.usable:
            raise RuntimeError("The NVIDIA driver on your system is too old")
        return 8 + index, 0


def test_only_gpus_that_torch_can_use_are_asked(setup):
    assert setup.capabilities_here(Cuda(True)) == [(8, 0), (9, 0)]
    assert setup.capabilities_here(Cuda(False)) == []


@pytest.mark.parametrize("headers", ["include", "targets/x86_64-linux/include", None])
def test_a_toolkit_has_a_compiler_and_headers(setup, headers, tmp_path):
    """As torch's build machinery needs both from the folder that it has found; a link to nvcc lies in /usr/local/bin, too."""
    (tmp_path / "bin").mkdir()
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.write_text("#!/bin/sh\necho Cuda compilation tools, release 12.8, V12.8.93\n")
    nvcc.chmod(0o755)
    if headers:
        (tmp_path / headers).mkdir(parents=True)
        (tmp_path / headers / "cuda_runtime_api.h").touch()
    assert setup.find_nvcc(str(tmp_path)) == (str(nvcc) if headers else None)
    assert setup.find_nvcc(None) is None
    assert setup.toolkit_version(str(nvcc)) == "12.8"
    nvcc.write_text("#!/bin/sh\nexit 1\n")
    assert setup.toolkit_version(str(nvcc)) is None


@pytest.mark.parametrize(
    "request_, platform, expected",
    [(None, "linux", True), ("", "linux", True), ("0", "linux", False), (None, "darwin", False), ("1", "darwin", True)],
)
def test_openmp_is_used_where_the_compiler_has_it(setup, request_, platform, expected):
    assert setup.openmp_flags(request_, platform) == (["-fopenmp"] if expected else [])


def test_an_unknown_openmp_request_and_windows_are_refused(setup):
    with pytest.raises(SystemExit, match="must be 0 or 1; got 'libomp'"):
        setup.openmp_flags("libomp", "linux")
    with pytest.raises(SystemExit, match="WSL"):
        setup.openmp_flags(None, "win32")


@pytest.mark.parametrize("named", [None, "CUDA_HOME", "CUDA_PATH"])
def test_a_wrapper_of_nvcc_says_where_its_toolkit_is(named, setup, tmp_path, monkeypatch):
    toolkit, wrapper = tmp_path / "cuda", tmp_path / "bin" / "nvcc"
    for path, text in (
        (toolkit / "include" / "cuda_runtime_api.h", ""),
        (toolkit / "bin" / "nvcc", "#!/bin/sh\necho '#$ _SPACE_=' >&2; echo '#$ TOP=%s/bin/..' >&2\n" % toolkit),
        (wrapper, f'#!/bin/sh\nexec {toolkit}/bin/nvcc "$@"\n'),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    given = {named: "/elsewhere"} if named else {}
    monkeypatch.setenv("PATH", str(wrapper.parent))
    assert setup.cuda_home(given) == (None if named else str(toolkit))
    monkeypatch.setenv("PATH", str(toolkit / "bin"))
    assert setup.cuda_home({}) is None, "torch finds that one itself"
    monkeypatch.setenv("PATH", str(toolkit))
    assert setup.cuda_home({}) is None


def test_a_missing_compiler_is_named_with_how_to_get_one(setup, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for request, program in ((None, "c++"), ("", "c++"), ("ccache g++ -m64", "ccache")):
        with pytest.raises(SystemExit) as stop:
            setup.check_compiler(request)
        said = str(stop.value)
        assert f"{program} is not on the PATH" in said and "apt install g++" in said and "\n" not in said
    (tmp_path / "ccache").touch(mode=0o755)
    setup.check_compiler("ccache g++ -m64")


def test_missing_headers_of_python_are_named_with_how_to_get_them(setup, tmp_path):
    with pytest.raises(SystemExit, match="Python.h is not in nowhere or .*python3-dev;.*python3-devel") as stop:
        setup.check_headers(["nowhere", tmp_path])
    assert "\n" not in str(stop.value)
    (tmp_path / "Python.h").touch()
    setup.check_headers(["nowhere", tmp_path])


@pytest.mark.parametrize(
    "given",
    [
        {"CPATH": "elsewhere:{}"},
        {"C_INCLUDE_PATH": "{}"},
        {"CPLUS_INCLUDE_PATH": ":{}"},
        {"CXX": "c++ -isystem {}"},
        {"CPPFLAGS": "-O2 -I{} -g"},
        {"CFLAGS": "-I {}"},
        {"CXXFLAGS": "-I{}"},
    ],
    ids="".join,
)
def test_headers_are_looked_for_where_the_compiler_finds_them(given, setup, tmp_path):
    folders = setup.header_folders({name: value.format(tmp_path) for name, value in given.items()})
    assert str(tmp_path) in folders and "" not in folders


def test_headers_are_looked_for_where_python_and_setuptools_say_they_are(setup, monkeypatch):
    monkeypatch.setattr(setup.sysconfig, "get_path", lambda name: f"/of/{name}")
    own = ["/of/include", "/of/platinclude"]
    assert setup.header_folders({"CPATH": "/a"}, ["/of/include", "/b"]) == [*own, "/b", "/a"]


def test_an_older_setuptools_can_read_the_metadata():
    """Of 65 and of 70, as images for GPUs have it: project.license as SPDX's name takes 77."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '"setuptools>=65"' in text and not re.search("^license", text, re.MULTILINE)
    assert "License :: OSI Approved :: BSD License" in text


def test_the_compiler_is_looked_for_before_anything_is_compiled(setup, tmp_path, monkeypatch):
    class Builder:
        def run(self):
            raise AssertionError("compiles")

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(SystemExit, match="no C\\+\\+ compiler"):
        setup.checked(Builder)().run()
    (tmp_path / "c++").touch(mode=0o755)
    with monkeypatch.context() as without:
        without.setattr(setup.sysconfig, "get_path", lambda name: str(tmp_path))
        for variable in ("CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "CPPFLAGS", "CFLAGS", "CXXFLAGS"):
            without.delenv(variable, raising=False)
        with pytest.raises(SystemExit, match="no headers of Python"):
            setup.checked(Builder)().run()
    with pytest.raises(AssertionError, match="compiles"):
        setup.checked(Builder)().run()


def ours(*folders):
    """The files of these folders, and those at the root, as git has or would have them."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True) if shutil.which("git") else None
    if not run or run.returncode:
        pytest.skip("needs git, and this folder as its checkout")
    names = [name for name in run.stdout.splitlines() if (ROOT / name).is_file()]
    return [name for name in names if "/" not in name or name.split("/")[0] in folders]


def a_copy(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    return folder


def test_an_sdist_has_what_any_machine_compiles_and_the_rest(tmp_path):
    """Made without a compiler, on a machine that may have no CUDA, beside what others left behind."""
    names = ours("fusedrnn", "csrc", "benchmarks", "docs", "examples", "tests")
    copy = a_copy(tmp_path / "copy", names)
    left = {"benchmarks/out/x.html", "tests/__pycache__/x.cpython-311.pyc", "tests/x.so"}
    for name in left:
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).touch()
    command = [sys.executable, "setup.py", "-q", "sdist", "--dist-dir", str(tmp_path)]
    run = subprocess.run(command, cwd=copy, capture_output=True, text=True, env={**os.environ, "PATH": str(tmp_path)})
    assert run.returncode == 0, run.stderr
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        packed = {member.name.partition("/")[2] for member in archive}
    assert packed >= {name for name in names if "/" in name} | {"CHANGELOG.md", "LICENSE", "Makefile", "README.md"}
    assert not packed & left


def packages(tmp_path, kind):
    """Unpack what our pyproject.toml makes of a checkout named fusedrnn whose modules only say where they are."""
    checkout = a_copy(tmp_path / "above" / "fusedrnn", ours("fusedrnn"))
    for name in ("tests/test_x.py", "benchmarks/__init__.py", *(f"{p}__init__.py" for p in ("fusedrnn/", "fusedrnn/modules/"))):
        (checkout / name).parent.mkdir(exist_ok=True)
        (checkout / name).write_text("print(__file__)\n")
    (checkout / "setup.py").write_text("from setuptools import setup\n\nsetup()\n")  # nothing is compiled
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, check=True)
    site = tmp_path / "site"
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    return checkout, site


def test_an_editable_install_is_found_from_the_folder_above_the_checkout(tmp_path):
    """There the checkout itself would be an empty package of that name, before any finder that setuptools installs."""
    checkout, site = packages(tmp_path, "editable")
    code = f"import site; site.addsitedir({str(site)!r}); import fusedrnn"
    command = [sys.executable, "-S", "-c", code]  # -S: not what this environment has installed
    run = subprocess.run(command, cwd=checkout.parent, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(checkout / "fusedrnn" / "__init__.py")


def test_a_wheel_has_the_package_alone(tmp_path):
    _, site = packages(tmp_path, "wheel")
    files = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file() and ".dist-info" not in str(path)}
    assert files == {name for name in ours("fusedrnn") if "/" in name}
    assert "fusedrnn/py.typed" in files


def import_a_copy(tmp_path, extension=None):
    """Import the package from a copy whose extension is `extension` (bytes), or absent."""
    copy = tmp_path / "fusedrnn"
    copy.mkdir()
    for source in Path(fusedrnn.__file__).parent.rglob("*.py"):
        target = copy / source.relative_to(Path(fusedrnn.__file__).parent)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(source.read_bytes())
    if extension is not None:
        built = next(Path(fusedrnn.__file__).parent.glob("_C.*"))
        (copy / built.name).write_bytes(extension)
    code = "import sys; sys.path.insert(0, sys.argv[1]); import fusedrnn"
    return subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path)


def test_a_missing_extension_names_the_mending_command(tmp_path):
    run = import_a_copy(tmp_path)
    assert run.returncode == 1
    assert "ImportError" in run.stderr and "has not been built" in run.stderr
    assert "pip install --no-build-isolation" in run.stderr


def test_an_extension_that_does_not_load_names_the_mending_command(tmp_path):
    run = import_a_copy(tmp_path, extension=b"not a shared object")
    assert run.returncode == 1
    assert "ImportError" in run.stderr and "does not load with torch" in run.stderr
    assert "pip install --no-build-isolation" in run.stderr


def test_an_extension_of_another_torch_names_both_versions(monkeypatch):
    monkeypatch.setattr("torch.__version__", "2.99.0")
    with pytest.raises(ImportError, match=r"built against torch .* but torch 2\.99\.0 is installed.*\s.*pip install"):
        fusedrnn._ops._load()
