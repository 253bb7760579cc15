"""The environment -> which process of how many this is, and where they meet.

It comes, in this order, from: torchrun's RANK and WORLD_SIZE (`foreword train --processes` sets them too); Slurm's
SLURM_PROCID and SLURM_NTASKS inside a job step; otherwise this is one process alone. Nothing is guessed: a half-set
environment is an error, and so is another number of processes than a job was planned for.
"""

import socket
from collections.abc import Mapping
from dataclasses import dataclass

from foreword.errors import MachineError

LISTENING_FD = "FOREWORD_LISTENING_FD"  # set for rank 0 by `foreword train --processes`
PLANNED_WORLD_SIZE = "FOREWORD_WORLD_SIZE"  # set by the scripts of `foreword submit`


@dataclass(frozen=True)
class Placement:
    """Which process of how many this is, and where they meet.

    Attributes:
        job: names this start, so that its processes know each other; empty where the launcher has no name for it.
        meets_alone: there is no launcher and nobody to meet; address and port mean nothing then.
        launcher_listens: the launcher listens at that port, so that rank 0 must not.
        listening_fd: on rank 0 of `foreword train --processes`, a socket that the launcher listens on at that port.
    """

    rank: int
    world_size: int
    local_rank: int
    address: str
    port: int
    job: str = ""
    meets_alone: bool = False
    launcher_listens: bool = False
    listening_fd: int | None = None


def find_placement(environment: Mapping[str, str]) -> Placement:
    """Read rank, world size and meeting point from the environment of torchrun or of a Slurm job step.

    Raises:
        MachineError: some of the variables are set and others that belong to them are not, or they tell of another
            number of processes than the job was planned for.
    """
    if "RANK" in environment or "WORLD_SIZE" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    elif "SLURM_STEP_ID" in environment and "SLURM_PROCID" in environment:
        names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "MASTER_ADDR", "MASTER_PORT")
    else:
        return Placement(rank=0, world_size=1, local_rank=0, address="", port=0, meets_alone=True)
    missing = [name for name in names if name not in environment]
    if missing:
        raise MachineError(
            f"{', '.join(missing)} not set although {names[0]} or {names[1]} is",
            where=socket.gethostname(),
            remedy="start under torchrun, with `foreword train --processes N`, or from a script of `foreword submit`",
        )
    rank, world_size, local_rank, address, port = names
    _refuse_other_plan(environment, world_size)
    return Placement(
        rank=_number(environment, rank),
        world_size=_number(environment, world_size),
        local_rank=_number(environment, local_rank),
        address=environment[address],
        port=_number(environment, port),
        job=_job(environment),
        launcher_listens=environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        listening_fd=_number(environment, LISTENING_FD) if LISTENING_FD in environment else None,
    )


def _refuse_other_plan(environment: Mapping[str, str], world_size: str) -> None:
    planned = environment.get(PLANNED_WORLD_SIZE)
    if planned is not None and _number(environment, PLANNED_WORLD_SIZE) != _number(environment, world_size):
        raise MachineError(
            f"{environment[world_size]} processes were started ({world_size}), and {planned} were planned"
            f" ({PLANNED_WORLD_SIZE})",
            where=socket.gethostname(),
            remedy="start as many as the script was made for, or submit again with the number that you want",
        )


def _job(environment: Mapping[str, str]) -> str:
    if "TORCHELASTIC_RUN_ID" in environment:
        restarts = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
        return f"torchrun job {environment['TORCHELASTIC_RUN_ID']}, restart {restarts}"
    if "SLURM_JOB_ID" in environment and "RANK" not in environment:
        restarts = environment.get("SLURM_RESTART_COUNT", "0")
        return f"Slurm job {environment['SLURM_JOB_ID']}, restart {restarts}, step {environment.get('SLURM_STEP_ID')}"
    return ""


def _number(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except ValueError:
        raise MachineError(f"{name} is {environment[name]!r}, not a number", where=socket.gethostname()) from None
