"""Validation scores the same tokens whatever is trained: of every corpus; and boundaries that are drawn, drawn once."""

import math
from dataclasses import replace

import pytest
from tiny_corpus import VOCAB_SIZE, make_corpus
from training import train_config

from data_prep.shards import PADDING
from pipeline.data.corpora import open_corpora
from pipeline.distributed.parallel import Parallel
from pipeline.evaluation import EvalResult, Readings, Score
from pipeline.evaluation.validation import Validation, judged_by, summarize, validate_model
from pipeline.model import build_model


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
        assert result.read.total.prefix.targets == corpora.by_name[name].manifest.splits["valid"].targets
    masks = {"causal": 1, "bidirectional": 3}
    for changes in ({"objective": "causal"}, {"objective": masks}, {"batch__micro_batch_size": 4}):
        other, _ = results_of(data, tmp_path, one_process, **changes)
        for name, result in expected.items():
            assert other[name].read.summary() == pytest.approx(result.read.summary(), rel=1e-6)
            assert other[name].read.total.prefix.targets == result.read.total.prefix.targets


def test_drawn_boundaries_are_the_same_every_time(data, tmp_path, one_process):
    """And differ from those of the shards, of which corpus b has none."""
    uniform = {"boundaries": {"policy": "uniform"}}
    first, again = (results_of(data, tmp_path, one_process, **uniform)[0] for _ in range(2))
    stored, _ = results_of(data, tmp_path, one_process)
    for name, result in first.items():
        assert again[name] == result
        assert result != stored[name]
    assert stored["b"].read.total.prefix == stored["b"].read.total.causal
    assert first["b"].read.total.prefix != first["b"].read.total.causal
    assert first["b"].read.total.prefix.targets == first["b"].read.total.causal.targets


def test_masked_tokens_are_asked_for_where_they_are_trained(data, tmp_path, one_process):
    """The same ones every time and in any micro-batches, a tenth of each segment here; and nowhere else."""
    masking = {"objective": {"causal": 1, "bidirectional": 1}, "masking": {"chosen": 0.1}}
    results, corpora = results_of(data, tmp_path, one_process, **masking)
    again, _ = results_of(data, tmp_path, one_process, **masking, batch__micro_batch_size=4)
    for name, result in results.items():
        split = corpora.by_name[name].split("valid")
        chosen = 0
        for row in split.rows(range(len(split))):
            ends = [*row.segments[1:, 0].tolist(), 33]
            inputs = [
                min(end, 32) - start
                for (start, prefix), end in zip(row.segments.tolist(), ends, strict=True)
                if prefix != PADDING
            ]
            chosen += sum(max(1, round(0.1 * length)) for length in inputs)
        assert result.masked.targets == chosen
        assert again[name].masked.targets == chosen
        assert again[name].masked.loss == pytest.approx(result.masked.loss, rel=1e-6)
        assert result.masked.loss == pytest.approx(math.log(VOCAB_SIZE), rel=0.02)  # it has learned nothing yet
        assert "masked_loss" in result.summary()
    assert "masked_loss" in summarize(results, corpora.weights)
    causal, _ = results_of(data, tmp_path, one_process, objective="causal")
    assert all(result.masked is None and "masked_loss" not in result.summary() for result in causal.values())


def test_a_model_is_judged_by_what_it_is_for():
    assert judged_by({"causal": 1.0, "bidirectional": 1.0}) == "causal_loss"
    assert judged_by({"causal": 1.0, "prefix": 1.0}) == "prefix_loss"
    assert judged_by({"bidirectional": 1.0}) == "masked_loss"


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_share_drawn_boundaries_too(data, tmp_path, one_process, size):
    """Every rank draws those of its own rows as one process would: together they score as much."""
    uniform = {"boundaries": {"policy": "fraction", "fraction": [0.2, 0.9]}}
    whole, _ = results_of(data, tmp_path, one_process, **uniform)
    ranks = [replace(one_process, data_parallel_rank=rank, data_parallel_size=size) for rank in range(size)]
    parts = [results_of(data, tmp_path, rank, **uniform)[0] for rank in ranks]  # each sums over itself alone
    for name, result in whole.items():
        assert sum(part[name].read.total.prefix.targets for part in parts) == result.read.total.prefix.targets
        assert sum(part[name].read.total.prefix.nll for part in parts) == pytest.approx(result.read.total.prefix.nll)


def readings(prefix_nll: float, causal_nll: float, targets: int, text_bytes: int = 8) -> Readings:
    return Readings(causal=Score(causal_nll, targets, text_bytes), prefix=Score(prefix_nll, targets, text_bytes))


def validation(*read, masked: Score | None = None) -> Validation:
    return Validation(EvalResult(*read), masked)


WEB = validation(readings(30, 40, 10), {(0, 1): readings(10, 12, 4), (4096, None): readings(20, 28, 6)})
BOOKS = validation(readings(10, 15, 10), {(0, 1): readings(10, 15, 10)})


def test_of_one_corpus_the_totals_and_every_bucket():
    summary = summarize({"corpus": WEB}, {"corpus": 1})
    assert (summary["prefix_loss"], summary["causal_loss"], summary["targets"]) == (3.0, 4.0, 10)
    assert summary["prefix_bits_per_byte"] == pytest.approx(30 / math.log(2) / 8)
    assert (summary["prefix_loss/0-1"], summary["causal_loss/0-1"], summary["targets/0-1"]) == (2.5, 3.0, 4)
    assert summary["prefix_loss/4096+"] == pytest.approx(20 / 6)
    assert len(summary) == 3 * 5


def test_of_a_blend_means_by_weight_sums_of_targets_and_each_corpus():
    summary = summarize({"web": WEB, "books": BOOKS}, {"web": 3, "books": 1})
    assert (summary["prefix_loss"], summary["targets"]) == ((3 * 3.0 + 1.0) / 4, 20)
    assert (summary["causal_loss/0-1"], summary["targets/0-1"]) == ((3 * 3.0 + 1.5) / 4, 14)
    assert summary["prefix_loss/4096+"] == summary["web/prefix_loss/4096+"]  # books has no such prefix
    assert (summary["books/prefix_loss"], "books/prefix_loss/4096+" in summary) == (1.0, False)


def test_tokens_without_text_have_no_bits_per_byte():
    summary = summarize({"corpus": validation(readings(30, 40, 10, text_bytes=0), {})}, {"corpus": 1})
    assert set(summary) == {"prefix_loss", "causal_loss", "targets"}


def test_masked_tokens_of_a_blend_have_a_mean_too():
    masked = {
        name: validation(readings(30, 40, 10), {}, masked=Score(nll, 5, 5)) for name, nll in (("a", 5), ("b", 15))
    }
    assert summarize(masked, {"a": 1, "b": 3})["masked_loss"] == (1.0 + 3 * 3.0) / 4
