"""Processes -> the groups they train in. The one file with global state, because megatron-core keeps its own.

Rank r of W processes with tensor-parallel size T has tensor-parallel rank r % T and data-parallel rank r // T: the
processes of a tensor-parallel group are neighbours, so that they share a node.

Where the rank comes from, in this order: torchrun's RANK and WORLD_SIZE; Slurm's SLURM_PROCID and SLURM_NTASKS inside a
job step; otherwise this is one process alone. Nothing is guessed: a half-set environment is an error.
"""

import os
import socket
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from foreword.errors import ConfigError, MachineError

TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class Placement:
    """Which process of how many this is, and where they meet."""

    rank: int
    world_size: int
    local_rank: int
    address: str
    port: int


class ModelParallelUnit:
    """megatron-core's parallel state under the names that DeepSpeed asks its `mpu` for."""

    def get_model_parallel_rank(self) -> int:  # noqa: D102
        return parallel_state.get_tensor_model_parallel_rank()

    def get_model_parallel_world_size(self) -> int:  # noqa: D102
        return parallel_state.get_tensor_model_parallel_world_size()

    def get_model_parallel_group(self) -> dist.ProcessGroup:  # noqa: D102
        return parallel_state.get_tensor_model_parallel_group()

    get_slice_parallel_rank = get_model_parallel_rank
    get_slice_parallel_world_size = get_model_parallel_world_size
    get_slice_parallel_group = get_model_parallel_group
    get_tensor_model_parallel_rank = get_model_parallel_rank
    get_tensor_model_parallel_world_size = get_model_parallel_world_size
    get_tensor_model_parallel_group = get_model_parallel_group

    def get_data_parallel_rank(self) -> int:  # noqa: D102
        return parallel_state.get_data_parallel_rank()

    def get_data_parallel_world_size(self) -> int:  # noqa: D102
        return parallel_state.get_data_parallel_world_size()

    def get_data_parallel_group(self) -> dist.ProcessGroup:  # noqa: D102
        return parallel_state.get_data_parallel_group()


@dataclass(frozen=True)
class Parallel:
    """This process's place among the others."""

    rank: int
    world_size: int
    tensor_parallel_rank: int
    tensor_parallel_size: int
    data_parallel_rank: int
    data_parallel_size: int
    device: torch.device
    mpu: ModelParallelUnit

    @property
    def data_parallel_group(self) -> dist.ProcessGroup:
        """The processes that hold the same slice of the model and read different rows."""
        return self.mpu.get_data_parallel_group()

    @property
    def is_main(self) -> bool:
        """Whether this process writes what is written once per run."""
        return self.rank == 0

    def destroy(self) -> None:
        """Leave all process groups."""
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def initialize(tensor_parallel_size: int = 1) -> Parallel:
    """Join the other processes: NCCL where there is CUDA, gloo elsewhere.

    Raises:
        ConfigError: the number of processes is not a multiple of `tensor_parallel_size`.
        MachineError: the environment is incomplete, or the others do not come within 10 minutes.
    """
    placement = find_placement(os.environ)
    if placement.world_size % tensor_parallel_size:
        raise ConfigError(
            f"{placement.world_size} processes cannot form groups of tensor_parallel_size {tensor_parallel_size}",
            where="parallel.tensor_parallel_size",
            remedy="start a number of processes that is a multiple of it",
        )
    os.environ["LOCAL_RANK"] = str(placement.local_rank)  # DeepSpeed asks the environment for it
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", placement.local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
        # tensor parallelism overlaps its gradient all-reduce with computation only with one hardware queue
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            init_method=f"tcp://{placement.address}:{placement.port}",
            rank=placement.rank,
            world_size=placement.world_size,
            timeout=TIMEOUT,
        )
    except (dist.DistError, ValueError) as error:
        where = f"rank {placement.rank} of {placement.world_size} on {socket.gethostname()}"
        meeting = f"{placement.address}:{placement.port}"
        raise MachineError(f"could not meet the other processes at {meeting}: {error}", where=where) from None
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=tensor_parallel_size, create_gloo_process_groups=False
    )
    return Parallel(
        rank=placement.rank,
        world_size=placement.world_size,
        tensor_parallel_rank=parallel_state.get_tensor_model_parallel_rank(),
        tensor_parallel_size=tensor_parallel_size,
        data_parallel_rank=parallel_state.get_data_parallel_rank(),
        data_parallel_size=parallel_state.get_data_parallel_world_size(),
        device=device,
        mpu=ModelParallelUnit(),
    )


def find_placement(environment: "os._Environ[str] | dict[str, str]") -> Placement:
    """Read rank, world size and meeting point from the environment of torchrun or of a Slurm job step.

    Raises:
        MachineError: some of the variables are set and others that belong to them are not.
    """
    if "RANK" in environment or "WORLD_SIZE" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    elif "SLURM_STEP_ID" in environment and "SLURM_PROCID" in environment:
        names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "MASTER_ADDR", "MASTER_PORT")
    else:
        return Placement(rank=0, world_size=1, local_rank=0, address="127.0.0.1", port=free_port())
    missing = [name for name in names if name not in environment]
    if missing:
        raise MachineError(
            f"{', '.join(missing)} not set although {names[0]} or {names[1]} is",
            where=socket.gethostname(),
            remedy="start under torchrun, with `foreword train --processes N`, or from a script of `foreword submit`",
        )
    rank, world_size, local_rank, address, port = (environment[name] for name in names)
    return Placement(int(rank), int(world_size), int(local_rank), address, int(port))


def free_port() -> int:
    """A TCP port of this machine that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
