"""A corpus on disk: what is written is what is read, and damage is named."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from data_prep.manifest import Manifest, SplitInfo, TokenizerInfo
from data_prep.shards import PADDING, Corpus, token_dtype, write_shard
from foreword.errors import ConfigError, DataError
from foreword.files import sha256_of

SEQUENCE_LENGTH = 7


def make_corpus(path: Path, shards: int = 2, vocab_size: int = 100) -> Corpus:
    """Shards of three rows: two segments; one segment; one segment and padding."""
    (path / "train").mkdir(parents=True)
    infos = []
    for shard in range(shards):
        tokens = np.arange(24, dtype=token_dtype(vocab_size)).reshape(3, 8) + shard
        row_ptr = np.array([0, 2, 3, 5])
        segments = np.array([[0, 1], [5, 0], [0, 7], [0, 2], [6, PADDING]], dtype=np.int32)
        infos.append(write_shard(path, "train", f"{shard:05d}", tokens, row_ptr, segments))
    counts = ("rows", "segments", "tokens", "targets", "padding")
    sums = {key: sum(getattr(info, key) for info in infos) for key in counts}
    manifest = Manifest(
        tokenizer=TokenizerInfo(kind="sentencepiece", name="t", sha256="0", vocab_size=vocab_size, eod_id=0, pad_id=0),
        sequence_length=SEQUENCE_LENGTH,
        dtype=token_dtype(vocab_size).name,
        packing={"policy": "best_fit"},
        seed=1,
        splits={"train": SplitInfo(documents=8, cut_documents=0, shards=infos, **sums)},
        sources=[],
        config={},
    )
    manifest.save(path)
    return Corpus.open(path)


def test_rows_and_segments_come_back_as_written(tmp_path):
    split = make_corpus(tmp_path / "corpus").split("train")
    assert len(split) == 6
    row = split.row(5)
    np.testing.assert_array_equal(row.tokens, np.arange(16, 24) + 1)
    np.testing.assert_array_equal(row.segments, [[0, 2], [6, PADDING]])
    assert np.shares_memory(row.tokens, split.row(5).tokens) and not row.tokens.flags.writeable


def test_counts_follow_the_loss_rule(tmp_path):
    shard = make_corpus(tmp_path / "corpus", shards=1).manifest.splits["train"].shards[0]
    assert (shard.rows, shard.segments, shard.padding, shard.tokens) == (3, 5, 2, 22)
    # 5 tokens prefix 1 -> 4; 3 tokens prefix 0 -> 2; 8 tokens prefix 7 -> 1; 6 tokens prefix 2 -> 4
    assert shard.targets == 4 + 2 + 1 + 4


def test_listed_hashes_are_those_of_the_files(tmp_path):
    corpus = make_corpus(tmp_path / "corpus")
    assert len(corpus.manifest.files()) == 6
    for name, info in corpus.manifest.files().items():
        assert sha256_of(corpus.path / name) == info.sha256
        assert (corpus.path / name).stat().st_size == info.size


def test_a_split_travels_to_another_process_without_its_mappings(tmp_path):
    split = make_corpus(tmp_path / "corpus").split("train")
    first = split.row(0)
    travelled = pickle.dumps(split)
    assert len(travelled) < 5000
    np.testing.assert_array_equal(pickle.loads(travelled).row(0).tokens, first.tokens)


def test_a_truncated_or_missing_shard_is_named(tmp_path):
    corpus = make_corpus(tmp_path / "corpus")
    shard = corpus.path / "train" / "00001.tokens.npy"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"00001\.tokens\.npy: 175 bytes where the manifest says 176"):
        Corpus.open(corpus.path)
    shard.unlink()
    with pytest.raises(DataError, match=r"00001\.tokens\.npy: no such file"):
        Corpus.open(corpus.path)


def test_a_directory_that_is_not_a_finished_corpus_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such corpus directory"):
        Corpus.open(tmp_path / "nowhere")
    with pytest.raises(DataError, match="not finished"):
        Corpus.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        Corpus.open(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": "foreword-corpus", "version": 99}')
    with pytest.raises(DataError, match="format version 99"):
        Corpus.open(tmp_path)


def test_an_unknown_split_names_those_there_are(tmp_path):
    with pytest.raises(ConfigError, match="it has: train"):
        make_corpus(tmp_path / "corpus").split("valid")


def test_rows_outside_the_split_are_refused(tmp_path):
    split = make_corpus(tmp_path / "corpus").split("train")
    for index in (-1, 6):
        with pytest.raises(IndexError):
            split.row(index)


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65536, np.uint16), (65537, np.uint32)])
def test_the_largest_id_survives_at_the_edge_of_uint16(tmp_path, vocab_size, dtype):
    (tmp_path / "train").mkdir()
    tokens = np.array([[0, vocab_size - 1]], dtype=token_dtype(vocab_size))
    assert tokens.dtype == dtype
    write_shard(tmp_path, "train", "00000", tokens, np.array([0, 1]), np.array([[0, 0]], dtype=np.int32))
    assert np.load(tmp_path / "train" / "00000.tokens.npy").tolist() == [[0, vocab_size - 1]]


@pytest.mark.parametrize(("part", "shape"), [("tokens", (3, 7)), ("row_ptr", (3,)), ("segments", (5, 3))])
def test_arrays_of_another_shape_are_named(tmp_path, part, shape):
    """A manifest that belongs to its files in size alone."""
    corpus = make_corpus(tmp_path / "corpus")
    np.save(corpus.path / "train" / f"00000.{part}.npy", np.zeros(shape, dtype=np.int32))
    with pytest.raises(DataError, match="the arrays' shapes are not those of the manifest") as caught:
        corpus.split("train").row(0)
    assert caught.value.where == str(corpus.path / "train" / "00000.*.npy")


def test_rows_together_are_the_rows_one_by_one(tmp_path):
    split = make_corpus(tmp_path / "corpus").split("train")
    numbers = [5, 0, 3, 3]
    for number, row in zip(numbers, split.rows(numbers), strict=True):
        np.testing.assert_array_equal(row.tokens, split.row(number).tokens)
        np.testing.assert_array_equal(row.segments, split.row(number).segments)
    assert split.rows([]) == []
    with pytest.raises(IndexError):
        split.rows([0, 6])
