"""The loader: the global batch is the same rows in the same order, trained in the same way, however it is cut."""

import sys
import time
from collections.abc import Iterator
from itertools import cycle, repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_corpus import make_corpus
from training import train_config

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))
from sparse_corpus import fill_rows, make_sparse_corpus

from foreword.errors import ConfigError, DataError
from pipeline.data.batch import Batch
from pipeline.data.corpora import open_corpora
from pipeline.data.loader import TrainLoader
from pipeline.data.order import DataOrder
from pipeline.data.rows import TrainingRows
from pipeline.data.share import Share

GLOBAL_BATCH_SIZE = 12
CUTS = [(1, 12), (1, 3), (2, 2), (3, 4), (4, 1), (6, 2)]
MIX = {"objective": {"causal": 1, "prefix": 1, "bidirectional": 2}, "boundaries": {"policy": "uniform"}}
PER_TOKEN = ("tokens_BS", "labels_BS", "loss_mask_BS", "segment_ids_BS", "prefix_end_BS")


def rows_of(path: Path, **changes) -> TrainingRows:
    config = train_config(path.parent / "run", make_corpus(path, rows=29).path, **changes)
    return TrainingRows(open_corpora(config), config)


def read_batches(
    rows: TrainingRows, shares: list[Share], batch_sizes: list[Iterator[int]], steps: int, samples_consumed: int
) -> list[list[Batch]]:
    """Of each step the micro-batches, all ranks' shares after one another."""
    loaders = [
        TrainLoader(rows, share, samples_consumed=samples_consumed, batch_sizes=sizes)
        for share, sizes in zip(shares, batch_sizes, strict=True)
    ]
    read = [[batch for loader in loaders for batch in next(loader)] for _ in range(steps)]
    for loader in loaders:
        loader.close()
    return read


def read_steps(
    rows: TrainingRows, shares: list[Share], batch_sizes: list[Iterator[int]], steps: int, samples_consumed: int
) -> list[list[int]]:
    """Row ids of each step, all ranks' shares after one another."""
    read = read_batches(rows, shares, batch_sizes, steps, samples_consumed)
    return [[int(row) for batch in step for row in batch.row_ids] for step in read]


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


@pytest.mark.parametrize(("data_parallel_size", "micro_batch_size"), CUTS[1:])
def test_every_cut_trains_the_rows_in_the_same_way(tmp_path, data_parallel_size, micro_batch_size):
    """Objectives, boundaries and masked tokens, across the ends of epochs and after a resume at any step."""
    rows = rows_of(tmp_path / "corpus", **MIX)
    shares = [Share(rank, data_parallel_size, [12], micro_batch_size) for rank in range(data_parallel_size)]
    for first_step, steps in ((0, 5), (3, 2)):
        read = read_batches(rows, shares, [repeat(12) for _ in shares], steps, first_step * 12)
        whole = rows.batch_at(np.arange(first_step * 12, (first_step + steps) * 12))
        for name in PER_TOKEN:
            cut = torch.cat([getattr(batch, name) for step in read for batch in step])
            assert torch.equal(cut, getattr(whole, name)), name


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


def test_epochs_of_a_blend_end_inside_batches_each_by_itself(tmp_path):
    """29 rows at three turns of four, 13 rows at one: read by 2 ranks in batches of 12."""
    paths = {rows: make_corpus(tmp_path / f"{rows}", rows=rows, seed=rows).path for rows in (29, 13)}
    corpora = {f"c{rows}": {"path": str(path), "weight": 3 if rows == 29 else 1} for rows, path in paths.items()}
    config = train_config(tmp_path / "run", tmp_path, data={"corpora": corpora, "seed": 7})
    rows = TrainingRows(open_corpora(config), config)
    shares = [Share(rank, 2, [12], 3) for rank in range(2)]
    batches = [batch for step in read_batches(rows, shares, [repeat(12)] * 2, 10, 0) for batch in step]
    corpus, row = (np.concatenate([getattr(b, name) for b in batches]) for name in ("corpus_ids", "row_ids"))
    for index, split in enumerate(rows.reader.splits):
        read = row[corpus == index]
        assert len(read) == {29: 90, 13: 30}[len(split)]
        for epoch in range(len(read) // len(split)):
            assert sorted(read[epoch * len(split) : (epoch + 1) * len(split)]) == list(range(len(split)))


def test_the_first_batch_of_a_billion_rows_costs_no_more_than_any_other(tmp_path):
    """Neither an index nor a look at the rows: those that stand at the first positions are the only ones that exist."""
    corpus = make_sparse_corpus(tmp_path / "huge", rows=10**9, shards=4, sequence_length=16, vocab_size=97)
    config = train_config(tmp_path / "run", corpus.path, evaluation={}, **MIX)
    rows = TrainingRows(open_corpora(config), config)
    _, numbers, _ = rows.places_at(np.arange(16))
    fill_rows(corpus, numbers.tolist(), token=5)
    assert len({int(row) // (10**9 // 4) for row in numbers}) == 4  # of every shard
    started = time.process_time()
    loader = TrainLoader(
        TrainingRows(open_corpora(config), config), Share(0, 1, [8], 8), samples_consumed=8, batch_sizes=repeat(8)
    )
    (batch,) = next(loader)
    assert time.process_time() - started < 1.0
    assert batch.row_ids.tolist() == numbers[8:].tolist()
    assert (batch.labels_BS == 5).all()
    with pytest.raises(DataError, match=r"huge/train, row \d{6,}: no segment starts at column 0"):
        next(loader)
    loader.close()


def test_a_batch_that_the_ranks_cannot_share_is_refused():
    with pytest.raises(ConfigError, match="not a multiple of data-parallel size 5 x micro_batch_size 2"):
        Share(0, 5, [12], 2)


def test_what_a_position_holds_does_not_depend_on_the_batch_around_it(tmp_path):
    """Objectives, boundaries and masked tokens too: they are drawn by keys."""
    rows = rows_of(tmp_path / "corpus", **MIX)
    together = rows.batch_at(np.arange(60))
    for position in (0, 28, 29, 57, 59):
        alone = rows.batch_at(np.array([position]))
        for name in PER_TOKEN:
            assert (getattr(alone, name)[0] == getattr(together, name)[position]).all(), name
