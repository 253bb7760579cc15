"""The rows of each optimizer step -> this process's micro-batches, prepared one step ahead.

The rows of a step are a pure function of the position in the run (`order`), the same for every number of processes;
this process's part of them is its `share`.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from data_prep.shards import Split
from pipeline.data.batch import Batch, make_batch
from pipeline.data.order import DataOrder
from pipeline.data.share import Share


class TrainLoader:
    """Micro-batches of one step after another, the next step prepared by a thread while this one trains.

    Args:
        split: the rows.
        order: which row stands at which position.
        share: this rank's part.
        causal: whether every prefix boundary is read as 0 (causal attention, loss on every token).
        samples_consumed: the position to start from.
        batch_sizes: rows of the global batch of each step from there on.
    """

    def __init__(
        self,
        split: Split,
        order: DataOrder,
        share: Share,
        *,
        causal: bool,
        samples_consumed: int,
        batch_sizes: Iterator[int],
    ) -> None:
        self.split, self.order, self.share, self.causal = split, order, share, causal
        self._samples_consumed = samples_consumed  # behind the step that is being prepared
        self._batch_sizes = batch_sizes
        self.wait_s = 0.0  # how long the last step waited for its data
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._next: Future[list[Batch]] = self._prepare_next()

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        started = time.perf_counter()
        micro_batches = self._next.result()
        self.wait_s = time.perf_counter() - started
        self._next = self._prepare_next()
        return micro_batches

    def close(self) -> None:
        """Stop the thread."""
        self._worker.shutdown(cancel_futures=True)

    def _prepare_next(self) -> Future[list[Batch]]:
        start, batch_size = self._samples_consumed, next(self._batch_sizes)
        self._samples_consumed += batch_size
        return self._worker.submit(self._prepare, start, batch_size)

    def _prepare(self, samples_consumed: int, batch_size: int) -> list[Batch]:
        positions = self.share.positions(samples_consumed, batch_size)
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
