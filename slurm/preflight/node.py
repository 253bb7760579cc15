"""One node, looked at from inside: versions, GPUs, file systems, its name. One task of each node does this."""

import importlib.metadata
import os
import platform
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.filesize import decimal

import foreword
from foreword.files import atomic_write
from slurm.preflight.answer import NODE_PREFIX, Answer

DISTRIBUTIONS = ("torch", "deepspeed", "megatron-core")
BUSY_FRACTION = 0.1  # of a GPU's memory; the context of a process takes less
MIN_TEMPORARY_BYTES = 100 * 10**6
MIN_SHARED_MEMORY_BYTES = 32 * 10**6
VISIBLE_AFTER_S = 10.0  # a file server's clients may remember for a while that a file was not there
POLL_INTERVAL_S = 0.1


def look_at_node(
    node: str, *, gpus: int, needs_bytes: int, probe: Path, is_first: bool, environment: Mapping[str, str]
) -> Iterator[Answer]:
    """Look at everything but the network.

    Args:
        node: Slurm's name of it.
        gpus: how many it should have.
        needs_bytes: space that the run's directory should have.
        probe: a directory on the file system of the run, for files of this preflight.
        is_first: whether this is the node of rank 0, which writes what the others shall see.
        environment: what the processes will see.
    """
    for check, look in (
        ("versions", versions),
        ("GPUs", lambda: visible_gpus(gpus)),
        ("shared file system", lambda: shared_directory(node, probe, is_first)),
        ("disk", lambda: disk(probe.parent, needs_bytes)),
        ("host name", lambda: host_name(environment)),
    ):
        try:
            problem, found = look()
        except Exception as error:  # whatever is wrong with this node, it shall say so
            problem, found = True, f"{type(error).__name__}: {error}"
        yield Answer(node, check, not problem, found)


def versions() -> tuple[bool, str]:
    """What must be the same on all nodes."""
    found = {name: importlib.metadata.version(name) for name in DISTRIBUTIONS}
    own = {"python": platform.python_version(), "foreword": foreword.__version__}
    return False, ", ".join(f"{name} {version}" for name, version in (own | found).items())


def visible_gpus(expected: int) -> tuple[bool, str]:
    """GPUs that torch can use, and whether somebody else does."""
    if expected == 0:
        return False, "none expected"
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count != expected:
        return True, f"{count} of {expected} are there"
    return judge_gpus(torch.cuda.get_device_name(0), [torch.cuda.mem_get_info(index) for index in range(count)])


def judge_gpus(name: str, memory: list[tuple[int, int]]) -> tuple[bool, str]:
    """Whether GPUs are idle, by their free and whole memory in bytes."""
    busy = [index for index, (free, whole) in enumerate(memory) if whole - free > BUSY_FRACTION * whole]
    if busy:
        used = ", ".join(f"GPU {index}: {decimal(memory[index][1] - memory[index][0])}" for index in busy)
        return True, f"in use by somebody else: {used}"
    return False, f"{len(memory)} x {name}, idle"


def shared_directory(node: str, probe: Path, is_first: bool) -> tuple[bool, str]:
    """Write a file for the first node to find, and find the one that the first has written."""
    probe.mkdir(parents=True, exist_ok=True)
    first = probe / "first"
    if is_first:
        with atomic_write(first, "w") as file:  # whoever sees the name reads all of it
            file.write(probe.name)
    (probe / f"{NODE_PREFIX}{node}").write_text(probe.name)
    deadline = time.monotonic() + VISIBLE_AFTER_S
    while first.name not in os.listdir(probe):  # noqa: PTH208 - a listing asks the file server, a look-up may not
        if time.monotonic() > deadline:
            return True, f"what the first node wrote cannot be seen: {first}"
        time.sleep(POLL_INTERVAL_S)
    if first.read_text() != probe.name:
        return True, f"not what the first node wrote: {first}"
    return False, f"{probe.parent} is seen and written"


def disk(run_directory: Path, needs_bytes: int) -> tuple[bool, str]:
    """Free space where the run writes, where libraries keep temporary files, and in shared memory."""
    temporary, shared = Path(tempfile.gettempdir()), Path("/dev/shm")
    wanted = {run_directory: needs_bytes, temporary: MIN_TEMPORARY_BYTES}
    if shared.is_dir():
        wanted[shared] = MIN_SHARED_MEMORY_BYTES
    with tempfile.TemporaryFile() as file:
        file.write(b"x")
    free = {path: shutil.disk_usage(path).free for path in wanted}
    short = {path: needed for path, needed in wanted.items() if free[path] < needed}
    if short:
        return True, "; ".join(f"{decimal(free[path])} free in {path}, {decimal(short[path])} needed" for path in short)
    return False, ", ".join(f"{decimal(size)} free in {path}" for path, size in free.items())


def host_name(environment: Mapping[str, str]) -> tuple[bool, str]:
    """Whether gloo, which by default listens where the host's name leads, can be reached from other nodes."""
    interface, name = environment.get("GLOO_SOCKET_IFNAME"), socket.gethostname()
    if interface:
        known = [known for _, known in socket.if_nameindex()]
        absent = [wanted for wanted in interface.split(",") if wanted not in known]
        return bool(absent), f"GLOO_SOCKET_IFNAME={interface}; interfaces: {', '.join(known)}"
    address = socket.gethostbyname(name)
    alone = environment.get("SLURM_JOB_NUM_NODES", "1") == "1"
    if address.startswith("127.") and not alone:
        return True, f"{name} leads to {address}, where no other node can reach it: set GLOO_SOCKET_IFNAME"
    return False, f"{name} is {address}"
