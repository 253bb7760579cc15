"""How a run is cut over its processes."""

from typing import Literal

from pydantic import PositiveInt, model_validator

from foreword.config import Section


class ParallelConfig(Section):
    """How the model and its state are cut over the processes.

    `zero_stage` 1 cuts optimizer state and masters over the data-parallel ranks, 2 the gradients as well, 3 the weights
    too. `offload_optimizer` keeps optimizer state and masters in the memory of the CPU, which then makes the update;
    `offload_parameters` keeps the weights there between their uses.

    `tensor_parallel_size` neighbouring ranks share each layer. With `sequence_parallel` they also share the tokens
    between the cut matrices, where without it each keeps all of them: less memory for a quarter more communication. The
    tokens of a micro-batch must be a multiple of `tensor_parallel_size` then. Neither changes the result of a step or
    what a checkpoint holds.
    """

    tensor_parallel_size: PositiveInt = 1
    sequence_parallel: bool = False
    zero_stage: Literal[0, 1, 2, 3] = 1
    offload_optimizer: bool = False
    offload_parameters: bool = False

    @model_validator(mode="after")
    def _sequence_parallel_has_ranks(self) -> "ParallelConfig":
        if self.sequence_parallel and self.tensor_parallel_size == 1:
            raise ValueError("sequence_parallel needs a tensor_parallel_size above 1: it cuts tokens over those ranks")
        return self

    @model_validator(mode="after")
    def _offload_fits_the_stage(self) -> "ParallelConfig":
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3")
        if self.offload_parameters and self.zero_stage != 3:
            raise ValueError("offload_parameters needs zero_stage 3")
        return self
