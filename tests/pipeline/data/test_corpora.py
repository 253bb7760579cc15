"""All that could end a run later for the sake of its data is said before it starts."""

import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_corpus import VOCAB_SIZE, make_corpus
from training import train_config

from data_prep.manifest import Manifest
from foreword.errors import ConfigError, DataError, MachineError
from pipeline.config.train import TrainConfig
from pipeline.data.corpora import open_corpora


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus") / "first", rows=5).path


def blend(root: Path, *paths: Path, **changes: Any) -> TrainConfig:
    corpora = {path.name: {"path": str(path)} for path in paths}
    return train_config(root / "run", root, data={"corpora": corpora}, **changes)


def edit_manifest(corpus: Path, **changes: Any) -> None:
    values = Manifest.load(corpus).model_dump() | changes
    Manifest.model_validate(values).save(corpus)


def test_one_alone_is_called_corpus_and_gives_every_row(corpus, tmp_path):
    corpora = open_corpora(train_config(tmp_path, corpus))
    assert list(corpora.by_name) == ["corpus"]
    assert corpora.weights == {"corpus": 1}
    assert (corpora.tokenizer.vocab_size, corpora.sequence_length) == (VOCAB_SIZE, 32)
    assert corpora.token_bytes().tolist() == np.ones(VOCAB_SIZE).tolist()


def test_their_order_is_that_of_their_hashes_and_weights_follow(corpus, tmp_path):
    other = make_corpus(tmp_path / "other", rows=4, seed=1).path
    weights = {"first": 0.4, "other": 1.2}
    orders = []
    for paths in ((corpus, other), (other, corpus)):
        corpora = {path.name: {"path": str(path), "weight": weights[path.name]} for path in paths}
        opened = open_corpora(train_config(tmp_path, corpus, data={"corpora": corpora}))
        assert opened.weights == {"first": 1, "other": 3}
        orders.append(list(opened.by_name))
        assert list(opened.weights) == orders[-1]
    assert orders[0] == orders[1]


def test_corpora_of_two_tokenizers_are_refused_with_both_named(corpus, tmp_path):
    other = make_corpus(tmp_path / "other", rows=4, vocab_size=95).path
    with pytest.raises(ConfigError) as caught:
        open_corpora(blend(tmp_path, corpus, other))
    message = str(caught.value)
    assert "the corpora differ in their tokenizer: " in message
    for path in (corpus, other):
        assert f"{path.name} has tiny (sha256 {Manifest.load(path).tokenizer.sha256[:12]})" in message


def test_corpora_of_two_lengths_are_refused_with_both_named(corpus, tmp_path):
    other = make_corpus(tmp_path / "other", rows=4, sequence_length=24).path
    with pytest.raises(ConfigError, match="the corpora differ in their sequence_length") as caught:
        open_corpora(blend(tmp_path, corpus, other))
    assert "first has 32" in str(caught.value)
    assert "other has 24" in str(caught.value)


def test_one_corpus_under_two_names_is_refused(corpus, tmp_path):
    again = make_corpus(tmp_path / "again", rows=5).path
    with pytest.raises(ConfigError, match="are the same corpus\n  -> name it once, with a larger weight"):
        open_corpora(blend(tmp_path, corpus, again))


def test_a_split_that_is_missing_or_empty_is_named_if_it_is_read(corpus, tmp_path):
    other = make_corpus(tmp_path / "other", rows=4, seed=1).path
    splits = Manifest.load(other).model_dump()["splits"]
    nothing = {key: [] if key == "shards" else 0 for key in splits["valid"]}
    edit_manifest(other, splits=splits | {"valid": nothing})
    with pytest.raises(DataError, match="the split 'valid' has no rows") as caught:
        open_corpora(blend(tmp_path, corpus, other))
    assert caught.value.where == str(other)
    edit_manifest(other, splits={"train": splits["train"]})
    with pytest.raises(ConfigError, match="no split 'valid'; it has: train"):
        open_corpora(blend(tmp_path, corpus, other))
    open_corpora(blend(tmp_path, corpus, other, evaluation={"every_steps": None}))


def test_rows_longer_than_the_model_has_positions_are_refused(corpus, tmp_path):
    with pytest.raises(ConfigError, match="rows of 32 tokens and the model 31 positions"):
        open_corpora(train_config(tmp_path, corpus, model__max_position_embeddings=31))


def test_masked_tokens_need_a_mask_token(tmp_path):
    full = make_corpus(tmp_path / "full", rows=4, vocab_size=128).path
    with pytest.raises(ConfigError, match="has no padding for a mask token"):
        open_corpora(train_config(tmp_path, full, objective={"causal": 9, "bidirectional": 1}))
    open_corpora(train_config(tmp_path, full, objective="prefix"))
    open_corpora(train_config(tmp_path, full, objective="bidirectional", masking={"token_id": 3}))


def test_a_file_that_is_not_whole_is_named(tmp_path):
    broken = make_corpus(tmp_path / "broken", rows=4).path
    (broken / "train" / "00000.tokens.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"00000\.tokens\.npy: 0 bytes where the manifest says"):
        open_corpora(train_config(tmp_path, broken))


@pytest.mark.parametrize(("limits", "raised_to"), [((64, 4096), 262), ((1024, 4096), None), ((64, -1), 262)])
def test_the_process_is_let_open_as_many_files_as_the_corpora_have(corpus, tmp_path, monkeypatch, limits, raised_to):
    """One shard of three files in each split, and room for others."""
    changed = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: changed.append(new))
    open_corpora(train_config(tmp_path, corpus))
    assert changed == ([(raised_to, limits[1])] if raised_to else [])


def test_more_shards_than_files_may_be_open_are_refused_before_the_run(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 128))
    with pytest.raises(MachineError, match="needs 262 open files, and may have 128") as caught:
        open_corpora(train_config(tmp_path, corpus))
    assert "shard_tokens" in str(caught.value)


def test_more_shards_than_the_system_maps_are_refused_before_the_run(corpus, tmp_path, monkeypatch):
    (tmp_path / "max_map_count").write_text("8197\n")
    monkeypatch.setattr("pipeline.data.corpora.MAX_MAP_COUNT", tmp_path / "max_map_count")
    with pytest.raises(MachineError, match="needs 8198 maps, and may have 8197") as caught:
        open_corpora(train_config(tmp_path, corpus))
    assert "vm.max_map_count" in str(caught.value)


def test_corpora_without_any_prefix_are_known(corpus, tmp_path):
    """Prepared with the policy none, from all of their sources; of a corpus without sources nothing is known."""
    source = {"kind": "jsonl", "files": {}, "records": 1, "documents": 1, "tokens": 1, "text_bytes": 1, "dropped": {}}
    for name, policies in {"plain": ["none", "none"], "mixed": ["none", "uniform"]}.items():
        path = make_corpus(tmp_path / name, rows=4, seed=len(name)).path
        edit_manifest(path, sources=[{**source, "name": p, "prefix": {"policy": p}} for p in policies])
    opened = open_corpora(blend(tmp_path, corpus, tmp_path / "plain", tmp_path / "mixed"))
    assert opened.without_prefixes == ["plain"]
