"""A real Slurm on this machine, for as long as the tests of this directory run.

Jobs that say nothing else run on its first two nodes. Tests that harm nodes have partitions of their own, so that they
can go on side by side: most of their time is waiting.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_of_nodes import SLURM_LOCAL, Cluster

# partition -> its nodes; "debug" comes first and is where jobs go that name none
PARTITIONS = {
    "debug": "node[1-2]",
    "pair": "node[3-4]",
    "stopped": "node[5-6]",
    "hung": "node[7-9]",
    "lost": "node[10-13]",
    "cut": "node[14-15]",
    "short": "node16",
    "unfit": "node[17-22]",
    "shared": "node23",
}
SETTINGS = {"KillWait": 30, "SlurmdTimeout": 60}  # a busy machine is not a dead node
REQUIRED = bool(os.environ.get("FOREWORD_REQUIRE_SLURM"))


def absent(reason: str) -> None:
    """Skip, or fail where `make test-slurm` promised a Slurm."""
    if REQUIRED:
        pytest.fail(reason)
    pytest.skip(reason)


def extra_configuration() -> str:
    """Lines of slurm.conf."""
    default = {"debug": " Default=YES"}
    partitions = [f"PartitionName={name} Nodes={nodes}{default.get(name, '')}" for name, nodes in PARTITIONS.items()]
    return "\n".join([*(f"{name}={value}" for name, value in SETTINGS.items()), *partitions])


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """Nodes with addresses of their own, in network namespaces."""
    if shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        absent("Slurm is not installed here: `make test-slurm` installs it")
    if os.geteuid() != 0:
        absent("only root can give the nodes network namespaces of their own")
    directory = Path(tempfile.mkdtemp(prefix="foreword-slurm-"))  # not tmp_path: munge refuses private parents
    directory.chmod(0o755)
    settings = {"SL_DIR": str(directory), "SL_MODE": "ns", "SL_NODES": "23", "SL_CPUS": "8", "SL_GPUS": "0"}
    settings |= {"SL_PARTS": "all", "SL_EXTRA": extra_configuration()}
    environment = os.environ | settings | {"SLURM_CONF": str(directory / "slurm.conf")}
    started = subprocess.run([SLURM_LOCAL, "up"], env=environment, capture_output=True, text=True, check=False)
    try:
        if started.returncode:
            absent(f"Slurm did not start: {started.stderr.strip()}")
        yield Cluster(environment)
    finally:
        subprocess.run([SLURM_LOCAL, "down"], env=environment, capture_output=True, check=False)
        shutil.rmtree(directory, ignore_errors=True)
