"""What takes part in `make bench-train`: Foreword's own command loop, and the plain trainer on the same tokens."""

from itertools import repeat
from pathlib import Path
from typing import Any

from turns import Turns


def foreword(turns: Turns, config: Any) -> None:
    """`foreword train` itself, all of its loop, with a pause before it fetches the next step's rows."""
    from pipeline import train

    class PausingLoader(train.TrainLoader):
        fetched = 0

        def __next__(self) -> Any:
            if self.fetched:
                turns.step_done()
            self.fetched += 1
            return super().__next__()

    train.TrainLoader = PausingLoader  # type: ignore[misc]
    train.train(config)


def plain(turns: Turns, config: Any, tokens: Path) -> None:
    """nanoGPT's way on the corpus's tokens as one flat file."""
    import numpy as np
    from plain_gpt2 import PlainTrainer

    from data_prep.shards import Corpus
    from pipeline.model import padded_vocab_size

    manifest = Corpus.open(config.data.corpus).manifest
    trainer = PlainTrainer(
        config.model,
        padded_vocab_size(manifest.tokenizer.vocab_size),
        config.optimizer,
        np.memmap(tokens, dtype=np.uint16, mode="r"),
        config.batch.global_batch_size,
        manifest.sequence_length,
    )
    while True:
        trainer.step()
        turns.step_done()


def loader(turns: Turns, config: Any) -> None:
    """Foreword's loader by itself: a step is one global batch that nothing is done with."""
    from pipeline.data.corpora import open_corpora
    from pipeline.data.loader import TrainLoader
    from pipeline.data.rows import TrainingRows
    from pipeline.data.share import Share

    rows, batch_size = TrainingRows(open_corpora(config), config), config.batch.global_batch_size
    share = Share(0, 1, [batch_size], config.batch.micro_batch_size)
    for _ in TrainLoader(rows, share, samples_consumed=0, batch_sizes=repeat(batch_size)):
        turns.step_done()
