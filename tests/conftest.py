"""Fixtures: every test that takes `device` runs on the CPU, and on CUDA where there is one."""

import os

# Before torch loads OpenMP: threads that wait asleep. On a busy machine spinning ones slow the suite down tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Before the first product on a GPU, after which torch does not look again: deterministic algorithms ask for it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest  # noqa: E402
import torch  # noqa: E402
from helpers import HAS_CUDA  # noqa: E402

import fusedrnn  # noqa: E402
from fusedrnn import _ops  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "ignore:LSTM with projections is not supported with oneDNN:UserWarning")
    # functional_call and shared weights cannot lie in the one block that cuDNN likes; it copies them
    config.addinivalue_line("filterwarnings", "ignore:RNN module weights are not part of single contiguous:UserWarning")
    for name in ("cpu", "cuda"):
        config.addinivalue_line("markers", f"{name}: runs on that device")
    # torch's own error in float32 is the yardstick of ours: TF32 would make it a thousand times as long.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def devices():
    return ["cpu", "cuda"] if HAS_CUDA else ["cpu"]


@pytest.fixture(params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in devices()])
def device(request):
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# Those that multiply pairs of bfloat16 are the functions of others for all other types: test_bfloat16_pairs.py.
@pytest.fixture(
    params=[pytest.param(isa, marks=pytest.mark.cpu) for isa in _ops._C.available_isas() if not isa.endswith("_bf16")]
    + [pytest.param(name, marks=pytest.mark.cuda) for name in devices() if name == "cuda"]
)
def kernels(request):
    """Every set of kernels there is, in use; its device."""
    if request.param == "cuda":
        yield torch.device("cuda")
        return
    before = _ops.build_info()["cpu kernels"]
    _ops._C.use_isa(request.param)
    yield torch.device("cpu")
    _ops._C.use_isa(before)


@pytest.fixture
def threads():
    before = torch.get_num_threads()

    def use(count):
        torch.set_num_threads(count)
        _ops._C.pretend_processors(count)

    yield use
    torch.set_num_threads(before)
    _ops._C.pretend_processors(0)

@pytest.fixture
def batch_invariant():
    with fusedrnn.set_batch_invariant(True):
        yield


@pytest.fixture(params=[False, True], ids=["few rows", "any rows"])
def either_way(request):
    with fusedrnn.set_batch_invariant(request.param):
        yield
