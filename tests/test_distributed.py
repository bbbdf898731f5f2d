"""Two processes train one model as one process does: DistributedDataParallel, FSDP2 and checkpoints between them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="torch without gloo"
)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What two processes of distributed_worker.py print; they take every check in one run."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*command, str(ROOT / "tests" / "distributed_worker.py"), str(tmp_path_factory.mktemp("checkpoints"))],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.parametrize(
    "check",
    [
        "DistributedDataParallel",
        "FSDP2",
        "DistributedDataParallel from a checkpoint of FSDP2",
        "FSDP2 from a checkpoint of DistributedDataParallel",
    ],
)
def test_two_processes_train_as_one(check, two_processes):
    lines = two_processes.stdout.splitlines()
    assert sum(line.endswith(f"agrees: {check}") for line in lines) == 2, two_processes.stderr
    assert two_processes.returncode == 0, two_processes.stderr
