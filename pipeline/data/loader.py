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
