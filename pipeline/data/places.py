"""Position in the run -> which corpus, which of its rows, and in which of its epochs: all that decides the order."""

import numpy as np

from pipeline.config.data import DataConfig
from pipeline.data.blend import Blend
from pipeline.data.corpora import Corpora
from pipeline.data.order import DataOrder


class Places:
    """The order of a run's rows; nothing is remembered between two calls.

    Args:
        corpora: the open corpora.
        data: which split is read, and the seed.
    """

    def __init__(self, corpora: Corpora, data: DataConfig) -> None:
        self.blend = Blend(list(corpora.weights.values()))
        self.orders = [
            DataOrder(len(corpus.split(data.train_split)), corpus.manifest_sha256, data.seed)
            for corpus in corpora.by_name.values()
        ]

    def places_at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Corpus, row in its split, and the corpus's epoch of each position (int64 [n]): int64 [n] each."""
        corpus, position_in_corpus = self.blend.sources_at(positions)
        row, epoch = np.empty_like(positions), np.empty_like(positions)
        for index, order in enumerate(self.orders):
            mine = corpus == index
            row[mine] = order.rows_at(position_in_corpus[mine])
            epoch[mine] = position_in_corpus[mine] // order.num_rows
        return corpus, row, epoch
