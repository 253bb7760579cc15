"""A split -> the batches that are scored: this rank's part of always the same rows."""

from collections.abc import Iterator

import numpy as np

from data_prep.shards import Corpus
from pipeline.data.batch import Batch
from pipeline.data.corpora import require_rows
from pipeline.data.masking import TokenMasking
from pipeline.data.objective import SegmentObjectives
from pipeline.data.rows import NO_ROW, RowReader
from pipeline.distributed.parallel import Parallel


def split_batches(
    corpus: Corpus,
    split: str,
    *,
    rows: int | None,
    micro_batch_size: int,
    parallel: Parallel,
    objectives: SegmentObjectives | None = None,
    masking: TokenMasking | None = None,
) -> Iterator[Batch]:
    """This rank's part of `rows` rows spread evenly over a split (all of them with None), always the same rows.

    Every rank gets the same number of batches of `micro_batch_size` rows; where rows run out, rows of padding take
    their places. Prefixes end where the shards say; or `objectives` and `masking` draw them and masked tokens, always
    the same ones.

    Raises:
        DataError: the split has no rows, or one that cannot be read.
    """
    reader = RowReader([corpus], split, objectives, masking)
    size = len(require_rows(reader.splits[0]))
    count = size if rows is None else min(rows, size)
    chosen = np.arange(count) * size // count
    per_round = micro_batch_size * parallel.data_parallel_size
    padded = np.pad(chosen, (0, -count % per_round), constant_values=NO_ROW)
    for numbers in padded.reshape(-1, micro_batch_size)[parallel.data_parallel_rank :: parallel.data_parallel_size]:
        first = np.zeros_like(numbers)  # the only corpus, in its first epoch
        yield reader.read(first, numbers, first).to(parallel.device)
