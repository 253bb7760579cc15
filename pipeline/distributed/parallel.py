"""Processes -> the groups they train in. The one file with global state, because megatron-core keeps its own.

Rank r of W processes with tensor-parallel size T has tensor-parallel rank r % T and data-parallel rank r // T: the
processes of a tensor-parallel group are neighbours, so that they share a node.
"""

import os
import socket
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from foreword.errors import ConfigError, MachineError
from pipeline.distributed.placement import LISTENING_FD, Placement, find_placement

TIMEOUT = timedelta(minutes=10)


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

    @property
    def alone(self) -> "Parallel":
        """The same process, as one that has all rows to itself."""
        return replace(self, data_parallel_rank=0, data_parallel_size=1)

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
            on_all_ranks=True,
        )
    os.environ["LOCAL_RANK"] = str(placement.local_rank)  # DeepSpeed asks the environment for it
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", placement.local_rank) if cuda else torch.device("cpu")
    if cuda and tensor_parallel_size > 1:
        # it overlaps its collectives with products only with one hardware queue, as in Megatron-LM; ZeRO's collectives,
        # which wait for gradients, would hold up in it what comes after them. CUDA reads this when it starts
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    if cuda:
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            **_meeting(placement),
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


def _meeting(placement: Placement) -> dict[str, Any]:
    """Where the processes meet, as arguments of `init_process_group`."""
    if placement.meets_alone:
        return {"store": dist.HashStore()}  # in memory: no port that somebody else could take
    if placement.listening_fd is None:
        return {"init_method": f"tcp://{placement.address}:{placement.port}"}
    os.environ.pop(LISTENING_FD, None)  # for this one meeting, and not for processes that this one starts
    store = dist.TCPStore(
        placement.address,
        placement.port,
        placement.world_size,
        is_master=True,
        timeout=TIMEOUT,
        master_listen_fd=placement.listening_fd,
    )
    return {"store": dist.PrefixStore(_TORCHS_PREFIX, store)}


_TORCHS_PREFIX = "default_pg"  # what torch puts before the keys of a store that it makes by itself
