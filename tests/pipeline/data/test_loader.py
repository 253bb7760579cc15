"""The loader: the global batch is the same rows in the same order however it is cut."""

from itertools import cycle, repeat

import numpy as np
import pytest
from tiny_corpus import make_corpus

from foreword.errors import ConfigError
from pipeline.data.loader import TrainLoader, without_prefixes
from pipeline.data.order import DataOrder
from pipeline.data.share import Share

GLOBAL_BATCH_SIZE = 12
CUTS = [(1, 12), (1, 3), (2, 2), (3, 4), (4, 1), (6, 2)]


def global_batches(split, data_parallel_size, micro_batch_size, steps, samples_consumed=0):
    """Row ids of each step, all ranks' shares after one another."""
    order = DataOrder(len(split), "corpus", seed=5)
    loaders = [
        TrainLoader(
            split,
            order,
            Share(rank, data_parallel_size, [GLOBAL_BATCH_SIZE], micro_batch_size),
            causal=False,
            samples_consumed=samples_consumed,
            batch_sizes=repeat(GLOBAL_BATCH_SIZE),
        )
        for rank in range(data_parallel_size)
    ]
    batches = []
    for _ in range(steps):
        shares = [np.concatenate([batch.row_ids for batch in next(loader)]) for loader in loaders]
        batches.append(np.concatenate(shares).tolist())
    for loader in loaders:
        loader.close()
    return batches


@pytest.mark.parametrize(("data_parallel_size", "micro_batch_size"), CUTS)
def test_every_cut_reads_the_same_global_batches(tmp_path, data_parallel_size, micro_batch_size):
    split = make_corpus(tmp_path, rows=29).split("train")
    whole = global_batches(split, 1, 12, steps=7)
    assert global_batches(split, data_parallel_size, micro_batch_size, steps=7) == whole
    assert global_batches(split, data_parallel_size, micro_batch_size, 3, samples_consumed=48) == whole[4:]


def test_a_growing_batch_moves_the_cuts_and_not_the_order(tmp_path):
    """Every rank reads its part of batches of 4, 8, 8 and 12 rows; together they are the rows of the same positions."""
    split = make_corpus(tmp_path, rows=29).split("train")
    order, sizes = DataOrder(len(split), "corpus", seed=5), [4, 8, 8, 12]
    loaders = [
        TrainLoader(
            split, order, Share(rank, 2, [4, 8, 12], 2), causal=False, samples_consumed=3, batch_sizes=cycle(sizes)
        )
        for rank in range(2)
    ]
    read = [[np.concatenate([batch.row_ids for batch in next(loader)]) for loader in loaders] for _ in sizes]
    for loader in loaders:
        loader.close()
    assert [sum(map(len, shares)) for shares in read] == sizes
    assert (
        np.concatenate([row for shares in read for row in shares]).tolist() == order.rows_at(3 + np.arange(32)).tolist()
    )


def test_an_epoch_that_ends_inside_a_batch_repeats_and_loses_nothing(tmp_path):
    split = make_corpus(tmp_path, rows=29).split("train")
    rows = np.concatenate(global_batches(split, 2, 3, steps=5))
    assert sorted(rows[:29]) == list(range(29))
    assert sorted(rows[29:58]) == list(range(29))


def test_a_batch_that_the_ranks_cannot_share_is_refused():
    with pytest.raises(ConfigError, match="not a multiple of data-parallel size 5 x micro_batch_size 2"):
        Share(0, 5, [12], 2)


def test_the_causal_objective_scores_every_token(tmp_path):
    split = make_corpus(tmp_path, rows=8, prefix_len=3).split("train")
    order = DataOrder(len(split), "corpus", seed=5)
    counts = []
    for causal in (False, True):
        loader = TrainLoader(
            split, order, Share(0, 1, [8], 8), causal=causal, samples_consumed=0, batch_sizes=repeat(8)
        )
        counts.append(next(loader)[0].num_targets)
        loader.close()
    segments = sum(int((split.row(i).segments[:, 1] >= 0).sum()) for i in range(8))
    assert counts[1] - counts[0] == 2 * segments  # the second and the third token of each segment


def test_padding_stays_padding_without_prefixes():
    assert without_prefixes(np.array([[0, 3], [5, 0], [9, -1]])).tolist() == [[0, 0], [5, 0], [9, -1]]
