"""The corpora of a run -> what a report shows of them, as far as they are still there."""

from dataclasses import dataclass

import numpy as np

from data_prep.manifest import Manifest
from data_prep.shards import PADDING, Corpus, Split
from foreword.errors import ForewordError
from foreword.pages import Bar, bars
from pipeline.config.data import DataConfig

ROWS_LOOKED_AT = 2000
BINS = 10


@dataclass(frozen=True)
class CorpusFacts:
    """What is shown of one corpus.

    Attributes:
        name: in the run's configuration.
        path: its directory.
        share: of the run's rows.
        problem: why nothing else is known; None when it is.
        manifest: the corpus's own.
        prefixes: how many segments have a prefix of such a share of their length.
        rows: of how many rows that is told.
    """

    name: str
    path: str
    share: float
    problem: str | None = None
    manifest: Manifest | None = None
    prefixes: tuple[Bar, ...] = ()
    rows: int = 0


def corpus_facts(data: DataConfig) -> list[CorpusFacts]:
    """Of every corpus that the run reads; one that is gone or damaged is told of as such."""
    sources = data.sources()
    total = sum(source.weight for source in sources.values())
    found = []
    for name, source in sources.items():
        path, share = str(source.path), source.weight / total
        try:
            corpus = Corpus.open(source.path)
            rows, prefixes = _prefix_histogram(corpus.split(data.train_split))
            found.append(CorpusFacts(name, path, share, None, corpus.manifest, tuple(prefixes), rows))
        except ForewordError as error:
            found.append(CorpusFacts(name, path, share, problem=error.what))
    return found


def _prefix_histogram(split: Split) -> tuple[int, list[Bar]]:
    """How many rows were looked at, spread evenly over the split, and their segments' prefixes as shares."""
    count = min(len(split), ROWS_LOOKED_AT)
    counts = np.zeros(BINS, dtype=np.int64)
    for row in split.rows((np.arange(count) * len(split) // max(count, 1)).tolist()):
        start, prefix_len = row.segments.astype(np.int64).T
        length = np.diff(np.append(start, len(row.tokens)))
        share = prefix_len[prefix_len != PADDING] / length[prefix_len != PADDING]
        counts += np.bincount(np.minimum((share * BINS).astype(int), BINS - 1), minlength=BINS)
    step = 100 // BINS
    return count, bars([(f"{b * step} to {(b + 1) * step} %", int(n), f"{n:,}") for b, n in enumerate(counts)])
