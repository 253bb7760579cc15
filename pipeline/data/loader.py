"""The rows of each optimizer step -> this process's micro-batches, prepared one step ahead.

The rows of a step are a pure function of the position in the run (`order`), the same for every number of processes: a
data-parallel rank takes its contiguous part of the global batch and cuts it into micro-batches.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from data_prep.shards import Split
from foreword.errors import ConfigError
from pipeline.config import BatchConfig
from pipeline.data.batch import Batch, make_batch
from pipeline.data.order import DataOrder
from pipeline.distributed.parallel import Parallel


@dataclass(frozen=True)
class Share:
    """A data-parallel rank's part of every global batch."""

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
    def of(cls, parallel: Parallel, batch: BatchConfig) -> "Share":
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


class TrainLoader:
    """Micro-batches of one step after another, the next step prepared by a thread while this one trains.

    Args:
        split: the rows.
        order: which row stands at which position.
        share: this rank's part.
        causal: whether every prefix boundary is read as 0 (causal attention, loss on every token).
        samples_consumed: the position to start from.
    """

    def __init__(self, split: Split, order: DataOrder, share: Share, *, causal: bool, samples_consumed: int) -> None:
        self.split, self.order, self.share, self.causal = split, order, share, causal
        self.samples_consumed = samples_consumed
        self.wait_s = 0.0  # how long the last step waited for its data
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._next: Future[list[Batch]] = self._worker.submit(self._prepare, samples_consumed)

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        started = time.perf_counter()
        micro_batches = self._next.result()
        self.wait_s = time.perf_counter() - started
        self.samples_consumed += self.share.global_batch_size
        self._next = self._worker.submit(self._prepare, self.samples_consumed)
        return micro_batches

    def close(self) -> None:
        """Stop the thread."""
        self._worker.shutdown(cancel_futures=True)

    def _prepare(self, samples_consumed: int) -> list[Batch]:
        positions = self.share.positions(samples_consumed)
        rows = self.order.rows_at(positions.reshape(-1)).reshape(positions.shape)
        return [read_batch(self.split, micro_rows, causal=self.causal) for micro_rows in rows]


def read_batch(split: Split, rows: np.ndarray, *, causal: bool) -> Batch:
    """Read `rows` (int64 [B]) of `split` into one batch; `causal` reads every prefix boundary as 0."""
    read = [split.row(int(row)) for row in rows]
    segments = [row.segments for row in read]
    if causal:
        segments = [without_prefixes(row_segments) for row_segments in segments]
    return make_batch(np.stack([row.tokens for row in read]), segments, rows)


def without_prefixes(segments: np.ndarray) -> np.ndarray:
    """The same segments (int32 [k, 2]) with every prefix length 0; the padding segment's -1 stays."""
    causal = segments.copy()
    causal[:, 1] = np.minimum(causal[:, 1], 0)
    return causal
