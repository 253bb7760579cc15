"""Validation scores the same tokens whatever is trained: of every corpus; and boundaries that are drawn, drawn once."""

from dataclasses import replace

import pytest
from tiny_corpus import VOCAB_SIZE, make_corpus
from training import train_config

from pipeline.data.corpora import open_corpora
from pipeline.distributed.parallel import Parallel
from pipeline.model import build_model
from pipeline.validation import summarize, validate_model


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict:
    root = tmp_path_factory.mktemp("corpora")
    parts = {"a": {"rows": 5, "seed": 1}, "b": {"rows": 5, "seed": 2, "prefix_len": 0}}
    paths = {name: make_corpus(root / name, **options).path for name, options in parts.items()}
    weights = {"a": 3, "b": 1}
    return {"corpora": {name: {"path": str(path), "weight": weights[name]} for name, path in paths.items()}, "seed": 7}


def results_of(data: dict, tmp_path, parallel: Parallel, **changes):
    config = train_config(tmp_path / "run", tmp_path, data=data, evaluation={"every_steps": 1, "rows": None}, **changes)
    corpora = open_corpora(config)
    model = build_model(config.model, VOCAB_SIZE, seed=1)
    return validate_model(model, corpora, config, parallel), corpora


def test_objectives_and_micro_batches_of_training_do_not_change_what_is_scored(data, tmp_path, one_process):
    expected, corpora = results_of(data, tmp_path, one_process)
    assert list(expected) == list(corpora.by_name)
    for name, result in expected.items():
        assert result.total.prefix.targets == corpora.by_name[name].manifest.splits["valid"].targets
    masks = {"causal": 1, "bidirectional": 3}
    for changes in ({"objective": "causal"}, {"objective": masks}, {"batch__micro_batch_size": 4}):
        other, _ = results_of(data, tmp_path, one_process, **changes)
        for name, result in expected.items():
            assert other[name].summary() == pytest.approx(result.summary(), rel=1e-6)
            assert other[name].total.prefix.targets == result.total.prefix.targets


def test_drawn_boundaries_are_the_same_every_time(data, tmp_path, one_process):
    """And differ from those of the shards, of which corpus b has none."""
    uniform = {"boundaries": {"policy": "uniform"}}
    first, again = (results_of(data, tmp_path, one_process, **uniform)[0] for _ in range(2))
    stored, _ = results_of(data, tmp_path, one_process)
    for name, result in first.items():
        assert again[name] == result
        assert result != stored[name]
    assert stored["b"].total.prefix == stored["b"].total.causal
    assert first["b"].total.prefix != first["b"].total.causal
    assert first["b"].total.prefix.targets == first["b"].total.causal.targets


def test_a_blend_is_summarized_by_the_weights_of_its_corpora(data, tmp_path, one_process):
    results, corpora = results_of(data, tmp_path, one_process)
    summary = summarize(results, corpora.weights)
    for key, value in results["a"].summary().items():
        assert summary[key] == pytest.approx(0.75 * value + 0.25 * results["b"].summary()[key])
        assert summary[f"a/{key}"] == value
    assert len(summary) == 12
    alone = summarize({"a": results["a"]}, {"a": 3})
    assert alone == results["a"].summary()


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_share_drawn_boundaries_too(data, tmp_path, one_process, size):
    """Every rank draws those of its own rows as one process would: together they score as much."""
    uniform = {"boundaries": {"policy": "fraction", "fraction": [0.2, 0.9]}}
    whole, _ = results_of(data, tmp_path, one_process, **uniform)
    ranks = [replace(one_process, data_parallel_rank=rank, data_parallel_size=size) for rank in range(size)]
    parts = [results_of(data, tmp_path, rank, **uniform)[0] for rank in ranks]  # each sums over itself alone
    for name, result in whole.items():
        assert sum(part[name].total.prefix.targets for part in parts) == result.total.prefix.targets
        assert sum(part[name].total.prefix.nll for part in parts) == pytest.approx(result.total.prefix.nll)
