"""`foreword eval` tells what training measured, and the same on any number of processes."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from processes import run_distributed
from tiny_corpus import SEQUENCE_LENGTH, make_corpus
from tiny_gpt2 import make_gpt2, save_gpt2
from training import STEPS, records, train_config

from data_prep.shards import Corpus
from foreword.errors import ConfigError, DataError
from pipeline.commands.evaluation import evaluate as command
from pipeline.evaluation.table import NO_TABLE_OF_DOCUMENTS
from pipeline.train import train
from pipeline.weights.hugging_face import import_weights


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("corpus"), rows=21)


@pytest.fixture(scope="module")
def run(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained and validated on boundaries that are drawn."""
    config = train_config(
        tmp_path_factory.mktemp("run") / "run",
        corpus.path,
        boundaries={"policy": "uniform"},
        evaluation__rows=None,
        checkpoint__every_steps=STEPS,
    )
    train(config)
    return config.run_dir


def told(*arguments: str) -> dict[str, Any]:
    return json.loads(CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False).stdout)


def refused(*arguments: str) -> None:
    CliRunner().invoke(command, list(arguments), catch_exceptions=False)


def test_a_runs_own_validation_can_be_repeated(run: Path, corpus: Corpus) -> None:
    measured = [record for record in records(run) if record.get("event") == "validation"][-1]
    own = told(str(run), "--data", str(corpus.path), "--boundaries", "run")
    assert own["boundaries"] == {"policy": "uniform", "seed": 7}
    for reading in ("causal", "prefix"):
        assert own[reading]["loss"] == pytest.approx(measured[f"{reading}_loss"], rel=1e-5)
    assert own == told(str(run), "--data", str(corpus.path), "--boundaries", "uniform")
    other = told(str(run), "--data", str(corpus.path), "--boundaries", "uniform", "--draw-seed", "8")
    assert other["prefix"]["loss"] != own["prefix"]["loss"]


def test_stored_boundaries_score_the_targets_that_the_manifest_counts(run: Path, corpus: Corpus) -> None:
    values = told(str(run), "--data", str(corpus.path), "--unigram")
    assert values["boundaries"] == {"policy": "shards"}
    assert values["step"] == STEPS
    for reading in ("causal", "prefix"):
        assert values[reading]["targets"] == corpus.manifest.splits["valid"].targets
        assert values[reading]["loss"] < values["unigram"]["loss"]
        low, high = values[reading]["intervals"]["loss"]
        assert low < values[reading]["loss"] < high


def test_the_table_has_the_numbers_and_says_what_is_not_known(run: Path, corpus: Corpus) -> None:
    arguments = [str(run), "--data", str(corpus.path), "--unigram"]
    values = told(*arguments)
    table = CliRunner().invoke(command, arguments, catch_exceptions=False).stdout
    for number in (
        values["prefix"]["loss"],
        values["causal"]["bits_per_byte"],
        values["difference"]["loss"],
        values["prefix"]["intervals"]["loss"][1],
        values["unigram"]["bits_per_byte"],
    ):
        assert f"{number:.4f}" in table
    assert NO_TABLE_OF_DOCUMENTS in table
    assert values["by_source"] is None
    assert values["resampling"]["units"] == "segments"
    assert all(len(line) <= 120 for line in table.splitlines())


def evaluated_here(arguments: list[str]) -> str:
    return CliRunner().invoke(command, arguments, catch_exceptions=False).stdout


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "tensor_parallel_size"), [(2, 1), (2, 2), (4, 2)])
def test_any_topology_tells_the_same(run: Path, corpus: Corpus, processes: int, tensor_parallel_size: int) -> None:
    arguments = [str(run), "--data", str(corpus.path), "--batch-size", "2", "--json"]
    alone = json.loads(evaluated_here(arguments))
    size = ["--tensor-parallel-size", str(tensor_parallel_size)]
    first, *others = run_distributed(processes, evaluated_here, [*arguments, *size])
    assert not any(others)
    assert_close(json.loads(first), alone)


def assert_close(actual: Any, expected: Any) -> None:
    """Equal structures, with numbers that may differ by a millionth."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for key, value in expected.items():
            assert_close(actual[key], value)
    elif isinstance(expected, list):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_close(one, other)
    elif isinstance(expected, float):
        assert actual == pytest.approx(expected, abs=1e-6, rel=1e-6)
    else:
        assert actual == expected


def test_a_corpus_that_does_not_fit_is_refused(run: Path, corpus: Corpus, tmp_path: Path) -> None:
    save_gpt2(make_gpt2(), tmp_path / "hf")
    import_weights(tmp_path / "hf", tmp_path / "weights")
    with pytest.raises(DataError, match="encoded with another tokenizer"):
        refused(str(tmp_path / "weights"), "--data", str(corpus.path))
    longer = make_corpus(tmp_path / "longer", sequence_length=2 * SEQUENCE_LENGTH)
    with pytest.raises(ConfigError, match=r"rows of 64 tokens and the model 32 positions"):
        refused(str(run), "--data", str(longer.path))


def test_a_split_that_cannot_be_scored_is_refused(run: Path, corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no split 'test'"):
        refused(str(run), "--data", str(corpus.path), "--split", "test")
    empty = make_corpus(tmp_path / "empty", rows=1)
    nothing = empty.manifest.splits["train"].model_copy(update={"rows": 0, "shards": []})
    empty.manifest.model_copy(update={"splits": {"train": nothing}}).save(empty.path)
    with pytest.raises(DataError, match="'train' has no rows"):
        refused(str(run), "--data", str(empty.path), "--split", "train")


def test_weights_do_not_know_how_a_run_was_validated(tmp_path: Path) -> None:
    save_gpt2(make_gpt2(), tmp_path / "hf")
    weights = import_weights(tmp_path / "hf", tmp_path / "weights")
    corpus = make_corpus(tmp_path / "corpus", rows=1, sequence_length=16, whole_rows=True)
    corpus.manifest.model_copy(update={"tokenizer": weights.tokenizer.model_copy(update={"files": {}})}).save(
        corpus.path
    )
    with pytest.raises(ConfigError, match="do not know how it was validated"):
        refused(str(tmp_path / "weights"), "--data", str(corpus.path), "--boundaries", "run")
