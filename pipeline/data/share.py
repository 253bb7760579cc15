"""How a global batch is cut: into contiguous parts for the data-parallel ranks, and those into micro-batches."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from foreword.errors import ConfigError
from pipeline.config import BatchConfig

if TYPE_CHECKING:
    from pipeline.distributed.parallel import Parallel


@dataclass(frozen=True)
class Share:
    """A data-parallel rank's part of every global batch.

    Raises:
        ConfigError: the ranks cannot have equal parts of whole micro-batches.
    """

    data_parallel_rank: int
    data_parallel_size: int
    global_batch_size: int
    micro_batch_size: int

    def __post_init__(self) -> None:
        per_pass = self.data_parallel_size * self.micro_batch_size
        if self.global_batch_size % per_pass:
            raise ConfigError(
                f"global_batch_size {self.global_batch_size} is not a multiple of data-parallel size "
                f"{self.data_parallel_size} x micro_batch_size {self.micro_batch_size}",
                where="batch.global_batch_size",
                remedy=f"use a multiple of {per_pass}, a smaller micro-batch, or another number of processes",
            )

    @classmethod
    def of(cls, parallel: "Parallel", batch: BatchConfig) -> "Share":
        """The share of this process."""
        return cls(
            parallel.data_parallel_rank, parallel.data_parallel_size, batch.global_batch_size, batch.micro_batch_size
        )

    @property
    def gradient_accumulation_steps(self) -> int:
        """Micro-batches of one rank per optimizer step."""
        return self.global_batch_size // (self.data_parallel_size * self.micro_batch_size)

    def positions(self, samples_consumed: int) -> np.ndarray:
        """Positions of this rank's rows in the step that starts at `samples_consumed`: int64 [micro-batches, rows]."""
        rows_per_rank = self.global_batch_size // self.data_parallel_size
        first = samples_consumed + self.data_parallel_rank * rows_per_rank
        return np.arange(first, first + rows_per_rank).reshape(-1, self.micro_batch_size)
