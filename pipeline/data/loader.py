"""The rows of each optimizer step -> this process's micro-batches, prepared one step ahead.

The rows of a step are a pure function of the position in the run (`rows`), the same for every number of processes; this
process's part of them is its `share`.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from pipeline.data.batch import Batch
from pipeline.data.rows import TrainingRows
from pipeline.data.share import Share


class TrainLoader:
    """Micro-batches of one step after another, the next step prepared by a thread while this one trains.

    Args:
        rows: what stands at each position of the run.
        share: this rank's part.
        samples_consumed: the position to start from.
        batch_sizes: rows of the global batch of each step from there on.
        pin_memory: whether batches come in page-locked memory, for a GPU.
    """

    def __init__(
        self,
        rows: TrainingRows,
        share: Share,
        *,
        samples_consumed: int,
        batch_sizes: Iterator[int],
        pin_memory: bool = False,
    ) -> None:
        self.rows, self.share, self.pin_memory = rows, share, pin_memory
        self._samples_consumed = samples_consumed  # behind the step that is being prepared
        self._batch_sizes = batch_sizes
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._next: Future[list[Batch]] = self._prepare_next()

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        micro_batches = self._next.result()
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
        batches = [self.rows.batch_at(positions) for positions in self.share.positions(samples_consumed, batch_size)]
        return [batch.pin_memory() for batch in batches] if self.pin_memory else batches
