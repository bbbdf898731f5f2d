"""What setup.py decides, and what `import fusedrnn` says when the extension is missing or foreign."""

import importlib.util
import subprocess
import sys
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
    "request_, torch_cuda, nvcc, sources, expected",
    [
        (None, "13.0", "/cuda/bin/nvcc", 3, True),
        ("1", "13.0", "/cuda/bin/nvcc", 3, True),
        ("0", "13.0", "/cuda/bin/nvcc", 3, False),
        (None, None, "/cuda/bin/nvcc", 3, False),
        (None, "13.0", None, 3, False),
        ("", "13.0", None, 3, False),
        (None, "13.0", "/cuda/bin/nvcc", 0, False),
    ],
)
def test_cuda_is_built_where_it_can_be(setup, request_, torch_cuda, nvcc, sources, expected):
    with_cuda, why = setup.build_decision(request_, torch_cuda, nvcc, sources)
    assert with_cuda is expected and "\n" not in why
    assert ("with CUDA 13.0" in why) if expected else ("CPU only" in why)


@pytest.mark.parametrize(
    "torch_cuda, nvcc, parts",
    [(None, "/cuda/bin/nvcc", ["CPU build"]), ("13.0", None, ["nvcc", "13.0", "CUDA_HOME"]), (None, None, ["nvcc", "CPU build"])],
)
def test_a_request_that_cannot_be_met_says_what_is_missing(setup, torch_cuda, nvcc, parts):
    with pytest.raises(SystemExit) as stop:
        setup.build_decision("1", torch_cuda, nvcc, 3)
    assert all(part in str(stop.value) for part in ["FUSEDRNN_CUDA=1", *parts])


@pytest.mark.parametrize(
    "request_, there, expected",
    [
        (None, [(9, 0)], "9.0"),
        ("", [(8, 6), (9, 0), (8, 6)], "8.6,9.0"),
        ("native", [(12, 0)], "12.0"),
        ("8.0;9.0a 10.0+PTX", [], "8.0,9.0a,10.0+PTX"),
        ("Ampere;Hopper", [(7, 5)], "Ampere,Hopper"),
    ],
)
def test_architectures_are_those_asked_for_or_here(setup, request_, there, expected):
    assert setup.cuda_architectures(request_, there) == expected


@pytest.mark.parametrize(
    "request_, there, part",
    [
        (None, [], "no GPU is visible"),
        ("native", [], "no GPU is visible"),
        (None, [(7, 5), (8, 6)], "not 7.5:"),
        ("7.0+PTX;8.0", [], r"not 7\.0\+PTX:"),
        ("Turing;Ampere", [], "not Turing:"),
    ],
)
def test_nothing_is_compiled_for_what_cannot_run_it(setup, request_, there, part):
    with pytest.raises(SystemExit, match=part) as stop:
        setup.cuda_architectures(request_, there)
    assert "TORCH_CUDA_ARCH_LIST" in str(stop.value) and "FUSEDRNN_CUDA=0" in str(stop.value)


def test_nonsense_is_refused(setup):
    with pytest.raises(SystemExit, match="must be 0 or 1; got 'yes'"):
        setup.build_decision("yes", None, None, 3)


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
