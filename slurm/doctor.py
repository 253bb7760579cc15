"""What this machine has for training, and what to do about what is missing.

What comes out is a list of findings. Only a finding that is `required` and missing means that training cannot work
here; a note is something that a person may want to know or to change. Nothing is installed, written or reached over
the network.
"""

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from pipeline.telemetry.wandb_run import key_place

MINIMUM_PYTHON = (3, 11)
LOW_DISK_BYTES = 10 * 10**9
LOW_SHARED_MEMORY_BYTES = 2**30
SLURM_CLIENTS = ("sbatch", "srun", "scontrol", "squeue", "scancel")

Status = Literal["ok", "note", "missing"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what was looked at.
        status: "missing" when training here cannot work without it.
        found: what is there.
        remedy: what to do, or None when there is nothing to do.
    """

    name: str
    status: Status
    found: str
    remedy: str | None = None


def examine(directory: Path) -> list[Finding]:
    """Look at everything; `directory` is where the disk space is looked at."""
    return [
        python(),
        *dependencies("foreword"),
        *gpus(),
        *slurm_clients(),
        cores(),
        memory(),
        disk(directory),
        shared_memory(Path("/dev/shm")),
        wandb_key(dict(os.environ), Path.home()),
    ]


def can_train(findings: list[Finding]) -> bool:
    """Whether nothing is missing that training on this machine needs."""
    return all(finding.status != "missing" for finding in findings)


def table(findings: list[Finding]) -> str:
    """The findings as aligned lines, each remedy under its finding, and a last line that sums up."""
    name_width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:<8}{finding.name:<{name_width + 2}}{finding.found}")
        if finding.remedy:
            lines.append(f"{'':<{name_width + 10}}-> {finding.remedy}")
    missing = [finding.name for finding in findings if finding.status == "missing"]
    verdict = f"training here cannot work without: {', '.join(missing)}" if missing else "training here can work"
    return "\n".join([*lines, "", verdict])


def python() -> Finding:
    """The Python that runs this."""
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < MINIMUM_PYTHON:
        return Finding("python", "missing", found, "use Python 3.11 or newer")
    return Finding("python", "ok", found)


def dependencies(distribution: str) -> Iterator[Finding]:
    """Every package that `distribution` declares, against the range it declares; nothing is imported."""
    for text in importlib.metadata.requires(distribution) or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        yield dependency(requirement)


def dependency(requirement: Requirement) -> Finding:
    """One package against the range it should be in."""
    install = f"pip install {str(requirement.name) + str(requirement.specifier)!r}"
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(requirement.name, "missing", "not installed", install)
    if not requirement.specifier.contains(version, prereleases=True):
        return Finding(requirement.name, "missing", f"{version}, needs {requirement.specifier}", install)
    return Finding(requirement.name, "ok", version)


def gpus() -> Iterator[Finding]:
    """The CUDA devices that torch sees; none is no obstacle, training then runs on the CPU."""
    try:
        import torch
    except ImportError:
        return  # named among the dependencies
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(count):
        properties = torch.cuda.get_device_properties(index)
        yield Finding(f"GPU {index}", "ok", f"{properties.name}, {properties.total_memory / 10**9:.0f} GB")
    if count == 0 and shutil.which("nvidia-smi"):
        yield Finding(
            "GPU",
            "note",
            f"the driver is here, but torch {torch.__version__} sees no device",
            "install a torch build for this driver's CUDA version; without it training runs on the CPU",
        )
    elif count == 0:
        yield Finding("GPU", "note", "none: training runs on the CPU, over gloo")


def slurm_clients() -> Iterator[Finding]:
    """The commands that `foreword submit` and its scripts call."""
    absent = [name for name in SLURM_CLIENTS if shutil.which(name) is None]
    if absent:
        remedy = "only `foreword submit`, `status` and `cancel` need them: run those on a login node of the cluster"
        yield Finding("Slurm", "note", f"no {', '.join(absent)}", remedy)
    else:
        yield Finding("Slurm", "ok", ", ".join(SLURM_CLIENTS))


def cores() -> Finding:
    """The cores that this process may use, which in a job or a container are fewer than the machine's."""
    return Finding("cores", "ok", f"{len(os.sched_getaffinity(0))} usable of {os.cpu_count()}")


def memory() -> Finding:
    """The machine's physical memory."""
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Finding("memory", "ok", f"{size / 10**9:.0f} GB")


def disk(directory: Path) -> Finding:
    """The free space of the file system that holds `directory`."""
    free = shutil.disk_usage(directory).free
    found = f"{free / 10**9:.0f} GB free at {directory}"
    if free < LOW_DISK_BYTES:
        return Finding("disk", "note", found, "a checkpoint takes 12 bytes a parameter, a corpus 2 to 4 bytes a token")
    return Finding("disk", "ok", found)


def shared_memory(directory: Path) -> Finding:
    """The shared memory through which processes on one machine exchange gradients."""
    if not directory.is_dir():
        return Finding("shared memory", "missing", f"no {directory}", "mount a tmpfs there")
    size = shutil.disk_usage(directory).total
    found = f"{size / 10**9:.1f} GB at {directory}"
    if size < LOW_SHARED_MEMORY_BYTES:
        return Finding("shared memory", "note", found, "containers get more with --shm-size or --ipc=host")
    return Finding("shared memory", "ok", found)


def wandb_key(environment: dict[str, str], home: Path) -> Finding:
    """Whether runs go to Weights & Biases by themselves; the key itself is never shown."""
    place = key_place(environment, home)
    if place is not None:
        return Finding("W&B key", "ok", f"in {place}")
    return Finding(
        "W&B key", "note", "none: runs are recorded offline", "`wandb login`, then `wandb sync` for past runs"
    )
