"""The corpus of a run: everything about it that could end the run later is looked at before the run starts."""

from data_prep.shards import Corpus, Split
from foreword.errors import ConfigError, DataError
from pipeline.config import TrainConfig


def open_corpus(config: TrainConfig) -> Corpus:
    """Open the corpus and check that the run can use it, from its manifest and its files' sizes alone.

    Raises:
        DataError: the corpus is not intact, or a split that the run reads is empty.
        ConfigError: a split that the run reads is not there, or its rows are longer than the model's positions.
    """
    corpus = Corpus.open(config.data.corpus)
    length, positions = corpus.manifest.sequence_length, config.model.max_position_embeddings
    if length > positions:
        raise ConfigError(
            f"the corpus has rows of {length} tokens and the model {positions} positions",
            where="model.max_position_embeddings",
            remedy=f"set it to {length} or more, or prepare the corpus with a smaller sequence_length",
        )
    require_rows(corpus.split(config.data.train_split))
    if config.evaluation.every_steps is not None:
        require_rows(corpus.split(config.data.validation_split))
    return corpus


def require_rows(split: Split) -> Split:
    """The split itself.

    Raises:
        DataError: it has no rows.
    """
    if not len(split):
        raise DataError(f"the split {split.name!r} has no rows", remedy="prepare the corpus with a larger share for it")
    return split
