"""How a global batch is cut: into contiguous parts for the data-parallel ranks, and those into micro-batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from foreword.errors import ConfigError
from pipeline.schedule import Schedule

if TYPE_CHECKING:
    from pipeline.distributed.parallel import Parallel


@dataclass(frozen=True)
class Share:
    """A data-parallel rank's part of every global batch.

    Args:
        data_parallel_rank: which rank.
        data_parallel_size: of how many.
        batch_sizes: the rows that a global batch can have: one size, or those it grows through.
        micro_batch_size: rows of a forward pass.

    Raises:
        ConfigError: the ranks cannot have equal parts of whole micro-batches.
    """

    data_parallel_rank: int
    data_parallel_size: int
    batch_sizes: Sequence[int]
    micro_batch_size: int

    def __post_init__(self) -> None:
        per_pass = self.data_parallel_size * self.micro_batch_size
        uneven = [size for size in self.batch_sizes if size % per_pass]
        if uneven:
            growing = len(self.batch_sizes) > 1
            raise ConfigError(
                f"{'a growing ' * growing}global_batch_size {uneven[0]} is not a multiple of data-parallel size "
                f"{self.data_parallel_size} x micro_batch_size {self.micro_batch_size}",
                where="batch.warmup" if growing else "batch.global_batch_size",
                remedy=f"use a multiple of {per_pass}, a smaller micro-batch, or another number of processes",
            )

    @classmethod
    def of(cls, parallel: "Parallel", schedule: Schedule) -> "Share":
        """The share of this process."""
        return cls(
            parallel.data_parallel_rank,
            parallel.data_parallel_size,
            schedule.all_batch_sizes,
            schedule.batch.micro_batch_size,
        )

    @property
    def max_accumulation_steps(self) -> int:
        """Micro-batches of one rank in the largest optimizer step."""
        return max(self.batch_sizes) // (self.data_parallel_size * self.micro_batch_size)

    def positions(self, samples_consumed: int, batch_size: int) -> np.ndarray:
        """Positions of this rank's rows in the step of `batch_size` rows that starts at `samples_consumed`.

        Returns:
            int64 [micro-batches, rows].
        """
        rows_per_rank = batch_size // self.data_parallel_size
        first = samples_consumed + self.data_parallel_rank * rows_per_rank
        return np.arange(first, first + rows_per_rank).reshape(-1, self.micro_batch_size)
