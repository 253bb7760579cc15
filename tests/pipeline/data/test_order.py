"""The data order: a pure function of (corpus, seed, position) that visits every row once per epoch."""

import numpy as np
import pytest

from pipeline.data.order import DataOrder

PINNED = [6, 7, 8, 5, 1, 2, 4, 9, 3, 0, 3, 5, 2, 0, 7, 8, 4, 6, 9, 1]


@pytest.mark.parametrize("num_rows", [1, 2, 3, 7, 64, 65, 1000, 4097])
def test_every_epoch_visits_every_row_once(num_rows):
    order = DataOrder(num_rows, "corpus", seed=1)
    for epoch in range(3):
        rows = order.rows_at(np.arange(epoch * num_rows, (epoch + 1) * num_rows))
        assert sorted(rows) == list(range(num_rows))


def test_a_row_depends_on_its_position_alone():
    order = DataOrder(1000, "corpus", seed=1)
    together = order.rows_at(np.arange(5000))
    shuffled = np.random.default_rng(0).permutation(5000)
    assert (order.rows_at(shuffled) == together[shuffled]).all()
    assert (np.concatenate([order.rows_at(np.array([i])) for i in range(990, 1010)]) == together[990:1010]).all()


@pytest.mark.parametrize("other", [{"corpus_id": "another"}, {"seed": 2}])
def test_another_corpus_or_seed_has_another_order(other):
    order = DataOrder(1000, **{"corpus_id": "corpus", "seed": 1})
    changed = DataOrder(1000, **({"corpus_id": "corpus", "seed": 1} | other))
    assert (order.rows_at(np.arange(1000)) != changed.rows_at(np.arange(1000))).mean() > 0.9


def test_epochs_have_orders_of_their_own():
    order = DataOrder(1000, "corpus", seed=1)
    assert (order.rows_at(np.arange(1000)) != order.rows_at(np.arange(1000, 2000))).mean() > 0.9


def test_the_order_looks_random():
    """Neighbours are not neighbours, and the first half of an epoch draws from everywhere."""
    rows = DataOrder(10_000, "corpus", seed=3).rows_at(np.arange(10_000))
    assert abs(np.corrcoef(rows[:-1], rows[1:])[0, 1]) < 0.05
    counts, _ = np.histogram(rows[:5000], bins=10, range=(0, 10_000))
    assert counts.min() > 400
    assert counts.max() < 600


def test_the_order_is_the_same_on_every_machine_and_in_every_version():
    """These rows were written down once: a change here silently changes what every resumed run reads."""
    rows = DataOrder(10, "corpus", seed=1).rows_at(np.arange(20))
    assert rows.tolist() == PINNED


def test_a_trillion_rows_need_no_index():
    rows = DataOrder(10**12, "corpus", seed=1).rows_at(np.arange(10**12 - 8, 10**12 + 8))
    assert len(set(rows.tolist())) == 16
    assert ((rows >= 0) & (rows < 10**12)).all()
