"""Processes -> the groups they train in. The one file with global state, because megatron-core keeps its own.

Rank r of W processes with tensor-parallel size T has tensor-parallel rank r % T and data-parallel rank r // T: the
processes of a tensor-parallel group are neighbours, so that they share a node.
"""

import math
import os
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from foreword.errors import ConfigError
from pipeline.distributed.meeting import join
from pipeline.distributed.placement import find_placement

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


def initialize(tensor_parallel_size: int = 1, timeout: timedelta = TIMEOUT) -> Parallel:
    """Join the other processes: NCCL where there is CUDA, gloo elsewhere.

    Args:
        tensor_parallel_size: processes that share one copy of the model.
        timeout: how long a collective waits for the others before it is an error.

    Raises:
        ConfigError: the number of processes is not a multiple of `tensor_parallel_size`.
        MachineError: the environment is incomplete.
        ProcessesApartError: the others do not come within 10 minutes, or do not belong to this one.
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
    join(placement, device.type, timeout=timeout)
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=tensor_parallel_size,
        create_gloo_process_groups=False,
        distributed_timeout_minutes=math.ceil(timeout.total_seconds() / 60),
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
