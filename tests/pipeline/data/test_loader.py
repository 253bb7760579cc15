"""The loader: the global batch is the same rows in the same order however it is cut."""

from collections.abc import Iterator
from itertools import cycle, repeat
from pathlib import Path

import numpy as np
import pytest
from tiny_corpus import make_corpus
from training import train_config

from foreword.errors import ConfigError
from pipeline.data.corpora import open_corpora
from pipeline.data.loader import TrainLoader
from pipeline.data.order import DataOrder
from pipeline.data.rows import TrainingRows
from pipeline.data.share import Share

GLOBAL_BATCH_SIZE = 12
CUTS = [(1, 12), (1, 3), (2, 2), (3, 4), (4, 1), (6, 2)]


def rows_of(path: Path, **changes) -> TrainingRows:
    config = train_config(path.parent / "run", make_corpus(path, rows=29).path, **changes)
    return TrainingRows(open_corpora(config), config)


def read_steps(
    rows: TrainingRows, shares: list[Share], batch_sizes: list[Iterator[int]], steps: int, samples_consumed: int
) -> list[list[int]]:
    """Row ids of each step, all ranks' shares after one another."""
    loaders = [
        TrainLoader(rows, share, samples_consumed=samples_consumed, batch_sizes=sizes)
        for share, sizes in zip(shares, batch_sizes, strict=True)
    ]
    read = [[batch.row_ids for loader in loaders for batch in next(loader)] for _ in range(steps)]
    for loader in loaders:
        loader.close()
    return [np.concatenate(step).tolist() for step in read]


def global_batches(
    rows: TrainingRows, data_parallel_size: int, micro_batch_size: int, steps: int, samples_consumed: int = 0
) -> list[list[int]]:
    ranks = range(data_parallel_size)
    shares = [Share(rank, data_parallel_size, [GLOBAL_BATCH_SIZE], micro_batch_size) for rank in ranks]
    return read_steps(rows, shares, [repeat(GLOBAL_BATCH_SIZE) for _ in ranks], steps, samples_consumed)


@pytest.mark.parametrize(("data_parallel_size", "micro_batch_size"), CUTS)
def test_every_cut_reads_the_same_global_batches(tmp_path, data_parallel_size, micro_batch_size):
    rows = rows_of(tmp_path / "corpus")
    whole = global_batches(rows, 1, 12, steps=7)
    assert global_batches(rows, data_parallel_size, micro_batch_size, steps=7) == whole
    assert global_batches(rows, data_parallel_size, micro_batch_size, 3, samples_consumed=48) == whole[4:]


def test_a_growing_batch_moves_the_cuts_and_not_the_order(tmp_path):
    """Every rank reads its part of batches of 4, 8, 8 and 12 rows; together they are the rows of the same positions."""
    rows, sizes = rows_of(tmp_path / "corpus"), [4, 8, 8, 12]
    shares = [Share(rank, 2, [4, 8, 12], 2) for rank in range(2)]
    read = read_steps(rows, shares, [cycle(sizes) for _ in shares], steps=4, samples_consumed=3)
    assert [len(step) for step in read] == sizes
    assert np.concatenate(read).tolist() == rows.batch_at(np.arange(3, 35)).row_ids.tolist()


def test_one_corpus_is_read_in_its_own_order(tmp_path):
    """What a run reads must not change because blends exist: resumed runs of earlier versions rely on it."""
    rows = rows_of(tmp_path / "corpus")
    order = DataOrder(29, rows.orders[0].corpus_id, seed=7)
    positions = np.arange(100)
    assert rows.batch_at(positions).row_ids.tolist() == order.rows_at(positions).tolist()


def test_an_epoch_that_ends_inside_a_batch_repeats_and_loses_nothing(tmp_path):
    """29 rows in batches of 12, cut into micro-batches of 3 on 2 ranks: the epoch ends inside the third batch."""
    read = np.concatenate(global_batches(rows_of(tmp_path / "corpus"), 2, 3, steps=5))
    assert sorted(read[:29]) == list(range(29))
    assert sorted(read[29:58]) == list(range(29))


def test_a_batch_that_the_ranks_cannot_share_is_refused():
    with pytest.raises(ConfigError, match="not a multiple of data-parallel size 5 x micro_batch_size 2"):
        Share(0, 5, [12], 2)


def test_what_a_position_holds_does_not_depend_on_the_batch_around_it(tmp_path):
    """Objectives, boundaries and masked tokens too: they are drawn by keys."""
    rows = rows_of(
        tmp_path / "corpus",
        objective={"causal": 1, "prefix": 1, "bidirectional": 2},
        boundaries={"policy": "uniform"},
    )
    together = rows.batch_at(np.arange(60))
    for position in (0, 28, 29, 57, 59):
        alone = rows.batch_at(np.array([position]))
        for name in ("tokens_BS", "labels_BS", "loss_mask_BS", "segment_ids_BS", "prefix_end_BS"):
            assert (getattr(alone, name)[0] == getattr(together, name)[position]).all(), name
