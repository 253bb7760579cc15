"""The census counts what the batches of the same rows hold."""

import numpy as np
import pytest
from tiny_corpus import make_corpus
from training import train_config

from pipeline.data.corpora import open_corpora
from pipeline.data.rows import TrainingRows
from pipeline.plan.census import take_census
from pipeline.plan.flops import attended_pairs

ROWS = 60  # more than an epoch of one corpus
MIX = {"causal": 1, "prefix": 2, "bidirectional": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "causal"},
        {"objective": "prefix"},
        {"objective": MIX},
        {"objective": MIX, "boundaries": {"policy": "uniform"}},
    ],
)
def test_averages_are_those_of_the_first_batches(tmp_path, changes):
    paths = {name: {"path": make_corpus(tmp_path / name, seed=seed).path} for seed, name in enumerate(("web", "books"))}
    config = train_config(tmp_path / "run", tmp_path, **changes, data={"corpora": paths, "seed": 7})
    corpora = open_corpora(config)
    batch = TrainingRows(corpora, config).batch_at(np.arange(ROWS))
    census = take_census(corpora, config, ROWS)
    prefixes = batch.segments_G3[:, 2]
    assert census.rows == ROWS
    assert census.targets * ROWS == pytest.approx(batch.num_targets)
    assert census.attended_pairs * ROWS == pytest.approx(attended_pairs(batch.segments_G3))
    assert census.prefix_tokens * ROWS == pytest.approx(prefixes[prefixes > 1].sum())
