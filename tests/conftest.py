"""Fixtures: every test that takes `device` runs on the CPU, and on CUDA where there is one."""

import os

# Before torch loads OpenMP: threads that wait asleep. On a busy machine spinning ones slow the suite down tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest  # noqa: E402
import torch  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "ignore:LSTM with projections is not supported with oneDNN:UserWarning")
    # functional_call and shared weights cannot lie in the one block that cuDNN likes; it copies them
    config.addinivalue_line("filterwarnings", "ignore:RNN module weights are not part of single contiguous:UserWarning")
    for name in ("cpu", "cuda"):
        config.addinivalue_line("markers", f"{name}: runs on that device; -m 'not cpu' leaves what a GPU adds")
    # torch's own error in float32 is the yardstick of ours: TF32 would make it a thousand times as long.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def devices():
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in devices()])
def device(request):
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
