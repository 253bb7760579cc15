"""A real Slurm of two nodes on this machine, for as long as the tests of this directory run."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_of_nodes import Cluster

SLURM_LOCAL = Path(__file__).parent / "slurm_local.sh"
REQUIRED = bool(os.environ.get("FOREWORD_REQUIRE_SLURM"))


def absent(reason: str) -> None:
    """Skip, or fail where `make test-slurm` promised a Slurm."""
    if REQUIRED:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """Two nodes with addresses of their own, in network namespaces."""
    if shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        absent("Slurm is not installed here: `make test-slurm` installs it")
    if os.geteuid() != 0:
        absent("only root can give the nodes network namespaces of their own")
    directory = Path(tempfile.mkdtemp(prefix="foreword-slurm-"))  # not tmp_path: munge refuses private parents
    directory.chmod(0o755)
    settings = {"SL_DIR": str(directory), "SL_MODE": "ns", "SL_NODES": "2", "SL_CPUS": "8", "SL_GPUS": "0"}
    environment = os.environ | settings | {"SLURM_CONF": str(directory / "slurm.conf")}
    started = subprocess.run([SLURM_LOCAL, "up"], env=environment, capture_output=True, text=True, check=False)
    try:
        if started.returncode:
            absent(f"Slurm did not start: {started.stderr.strip()}")
        yield Cluster(environment)
    finally:
        subprocess.run([SLURM_LOCAL, "down"], env=environment, capture_output=True, check=False)
        shutil.rmtree(directory, ignore_errors=True)
