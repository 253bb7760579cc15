"""Rows of the run's corpora -> batches, as training reads them and as validation does.

`TrainingRows` is a pure function: the batch at given positions of the run depends on the corpora, their weights, the
configuration and these positions alone. Nothing is remembered between two calls.
"""

from collections.abc import Sequence

import numpy as np

from data_prep.shards import PADDING, Corpus, Row
from foreword.errors import DataError
from pipeline.config.train import TrainConfig
from pipeline.data.batch import Batch, batch_of
from pipeline.data.corpora import Corpora
from pipeline.data.masking import TokenMasking
from pipeline.data.objective import RowKeys, SegmentObjectives, corpus_key
from pipeline.data.places import Places
from pipeline.data.segments import segments_of

NO_ROW = -1
ALL_PADDING = np.array([[0, PADDING]], dtype=np.int32)


class RowReader:
    """Reads rows of one split of every corpus.

    Args:
        corpora: they share their tokenizer and sequence length.
        split: the split's name.
        objectives: how segments are trained; None reads them as the shards say.
        masking: for objectives with masked tokens.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        split: str,
        objectives: SegmentObjectives | None = None,
        masking: TokenMasking | None = None,
    ) -> None:
        self.splits = [corpus.split(split) for corpus in corpora]
        self.objectives, self.masking = objectives, masking
        self._vocab_size = corpora[0].manifest.tokenizer.vocab_size
        self._keys = np.array([corpus_key(corpus.manifest_sha256) for corpus in corpora], dtype=np.uint64)

    def read(self, corpus: np.ndarray, row: np.ndarray, epoch: np.ndarray) -> Batch:
        """A batch on the CPU.

        Args:
            corpus: int64 [B], index into `corpora`.
            row: int64 [B], number in the corpus's split; NO_ROW is a row of padding.
            epoch: int64 [B], the corpus's own, which draws depend on.

        Raises:
            DataError: a shard's file is not what the manifest says, a row's segments do not tile it, or it holds an id
                outside of the vocabulary; names the row and its corpus.
        """
        rows = self._rows(corpus, row)
        tokens = np.stack([found.tokens for found in rows])

        def where(index: int) -> str:
            split = self.splits[corpus[index]]
            return f"{split.corpus / split.name}, row {row[index]}"

        stored = [ALL_PADDING if row[place] == NO_ROW else found.segments for place, found in enumerate(rows)]
        segments = segments_of(stored, tokens.shape[1], where)
        largest = int(tokens.argmax())
        if tokens.flat[largest] >= self._vocab_size:
            raise DataError(
                f"id {tokens.flat[largest]} in a vocabulary of {self._vocab_size}",
                where=where(largest // tokens.shape[1]),
                remedy="run `foreword verify` on the corpus",
            )
        masked = None
        if self.objectives is not None:
            keys = RowKeys(self._keys[corpus], epoch, row)
            segments = self.objectives.assign(segments, keys)
            if self.masking is not None:
                masked = self.masking.draw(tokens[:, :-1], segments, keys)
        return batch_of(tokens, segments, row, corpus_ids=corpus, masked=masked)

    def _rows(self, corpus: np.ndarray, row: np.ndarray) -> list[Row]:
        """What is stored of each row; of a row of padding, that of row 0."""
        found: dict[int, Row] = {}
        for index in np.unique(corpus).tolist():
            places = np.flatnonzero(corpus == index)
            found |= zip(places.tolist(), self.splits[index].rows(np.maximum(row[places], 0).tolist()), strict=True)
        return [found[place] for place in range(len(row))]


class TrainingRows(Places):
    """Positions of the run -> batches.

    Args:
        corpora: the open corpora.
        config: the run's.
    """

    def __init__(self, corpora: Corpora, config: TrainConfig) -> None:
        data = config.data
        super().__init__(corpora, data)
        masking = None
        if "bidirectional" in config.objective:
            masking = TokenMasking(config.masking, corpora.tokenizer.vocab_size, data.seed)
        objectives = SegmentObjectives(config.objective, config.boundaries, data.seed)
        self.reader = RowReader(list(corpora.by_name.values()), data.train_split, objectives, masking)

    def batch_at(self, positions: np.ndarray) -> Batch:
        """The rows at `positions` (int64 [B]) of the run as a batch on the CPU; raises as `RowReader.read` does."""
        return self.reader.read(*self.places_at(positions))
