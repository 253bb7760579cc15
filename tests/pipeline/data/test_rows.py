"""What stands at a position of the run: a function of the corpora, their weights and the configuration alone."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_corpus import SEQUENCE_LENGTH, VOCAB_SIZE, make_corpus
from training import train_config

from data_prep.shards import Corpus
from foreword.errors import DataError
from pipeline.data.batch import Batch
from pipeline.data.corpora import open_corpora
from pipeline.data.order import DataOrder
from pipeline.data.rows import NO_ROW, RowReader, TrainingRows

ROWS = {"large": 29, "small": 13}
WEIGHTS = {"large": 0.75, "small": 0.25}
MIX = {"objective": {"causal": 1, "prefix": 1, "bidirectional": 1}, "boundaries": {"policy": "uniform"}}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("corpora")
    for seed, (name, rows) in enumerate(ROWS.items()):
        make_corpus(directory / name, rows=rows, seed=seed)
    return directory


def blend(root: Path, names: dict[str, str] | None = None, **changes: Any) -> TrainingRows:
    """Rows of both corpora; `names` renames and orders them."""
    names = names or {name: name for name in ROWS}
    corpora = {called: {"path": str(root / name), "weight": WEIGHTS[name]} for called, name in names.items()}
    config = train_config(root / "run", root / "large", data={"corpora": corpora, "seed": 7}, **changes)
    return TrainingRows(open_corpora(config), config)


def assert_same(a: Batch, b: Batch) -> None:
    for field in fields(Batch):
        ours, theirs = getattr(a, field.name), getattr(b, field.name)
        same = torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else np.array_equal(ours, theirs)
        assert same, field.name


def test_neither_names_nor_their_order_decide_anything(root):
    positions = np.arange(100)
    batch = blend(root, **MIX).batch_at(positions)
    assert_same(blend(root, {"small": "small", "large": "large"}, **MIX).batch_at(positions), batch)
    assert_same(blend(root, {"a": "small", "z": "large"}, **MIX).batch_at(positions), batch)
    assert_same(blend(root, {"z": "small", "a": "large"}, **MIX).batch_at(positions), batch)


def test_each_corpus_gives_its_share_and_goes_through_epochs_of_its_own(root):
    """200 rows: 150 of the large corpus, five of its epochs and five rows; 50 of the small one, three and eleven."""
    rows = blend(root)
    corpus, row, epoch = rows.places_at(np.arange(200))
    assert rows.batch_at(np.arange(200)).corpus_ids.tolist() == corpus.tolist()
    for index, split in enumerate(rows.reader.splits):
        size, own = len(split), np.flatnonzero(corpus == index)
        assert len(own) == {29: 150, 13: 50}[size]
        assert epoch[own].tolist() == [i // size for i in range(len(own))]
        order = DataOrder(size, rows.orders[index].corpus_id, seed=7)
        assert row[own].tolist() == order.rows_at(np.arange(len(own))).tolist()
        for e in range(len(own) // size):
            assert sorted(row[own][e * size : (e + 1) * size]) == list(range(size))


def test_tokens_are_those_of_the_row_in_its_corpus(root):
    rows = blend(root)
    corpus, row, _ = rows.places_at(np.arange(60))
    batch = rows.batch_at(np.arange(60))
    for b in range(60):
        stored = rows.reader.splits[corpus[b]].row(int(row[b])).tokens
        assert batch.tokens_BS[b].tolist() == stored[:-1].tolist()
        assert batch.labels_BS[b].tolist() == stored[1:].tolist()


def test_a_row_is_trained_otherwise_in_the_next_epoch_and_in_another_corpus(root):
    """Objectives, boundaries and masked tokens of one row in two epochs; and of two corpora with equal row numbers."""
    rows = blend(root, **MIX)
    numbers = np.arange(13)
    first, second, other = (
        rows.reader.read(np.full(13, corpus), numbers, np.full(13, epoch)) for corpus, epoch in ((0, 0), (0, 1), (1, 0))
    )
    assert not torch.equal(first.prefix_end_BS, second.prefix_end_BS)
    assert not torch.equal(first.loss_mask_BS, second.loss_mask_BS)
    starts = [{tuple(segment) for segment in batch.segments_G3[:, 1:].tolist()} for batch in (first, other)]
    assert starts[0] != starts[1]


def copy_with(corpus: Path, target: Path, part: str, place: tuple[int, ...], value: int) -> Corpus:
    """A corpus whose manifest is right and one of whose numbers is not, as a broken memory or program leaves it."""
    make_corpus(target, rows=ROWS["small"], seed=1)
    path = target / "train" / f"00000.{part}.npy"
    array = np.load(path)
    array[place] = value
    np.save(path, array)
    return Corpus.open(target)


def test_an_id_outside_of_the_vocabulary_is_named_with_its_row_and_corpus(root, tmp_path):
    corpus = copy_with(root, tmp_path / "bad", "tokens", (6, 9), VOCAB_SIZE)
    reader = RowReader([Corpus.open(root / "large"), corpus], "train")
    places = np.array([0, 1, 1]), np.array([6, 5, 6]), np.zeros(3, dtype=np.int64)
    with pytest.raises(DataError, match=f"id {VOCAB_SIZE} in a vocabulary of {VOCAB_SIZE}") as caught:
        reader.read(*places)
    assert caught.value.where == f"{tmp_path / 'bad' / 'train'}, row 6"
    assert "foreword verify" in str(caught.value)
    reader.read(*(place[:2] for place in places))  # the other rows are read


def test_the_last_column_is_looked_at_too(root, tmp_path):
    """It is a label alone, and a label outside of the vocabulary has no logit."""
    corpus = copy_with(root, tmp_path / "bad", "tokens", (0, SEQUENCE_LENGTH), VOCAB_SIZE)
    with pytest.raises(DataError, match="in a vocabulary of"):
        RowReader([corpus], "train").read(*np.zeros((3, 1), dtype=np.int64))


@pytest.mark.parametrize(
    ("part", "place", "value", "message"),
    [
        ("segments", (0, 0), 3, "no segment starts at column 0"),
        ("segments", (1, 0), 0, "the segment at column 0 has length 0"),
        ("segments", (1, 1), 500, "and prefix length 500"),
        ("row_ptr", (1,), 0, "no segment starts at column 0"),
    ],
)
def test_segments_that_cannot_be_are_named_with_their_row_and_corpus(root, tmp_path, part, place, value, message):
    corpus = copy_with(root, tmp_path / "bad", part, place, value)
    with pytest.raises(DataError, match=message) as caught:
        RowReader([corpus], "train").read(*np.zeros((3, 1), dtype=np.int64))
    assert caught.value.where == f"{tmp_path / 'bad' / 'train'}, row 0"


def test_a_row_of_padding_is_read_and_never_scored(root):
    reader = RowReader([Corpus.open(root / "large")], "train")
    batch = reader.read(np.zeros(2, dtype=np.int64), np.array([NO_ROW, 3]), np.zeros(2, dtype=np.int64))
    assert not batch.loss_mask_BS[0].any()
    assert batch.loss_mask_BS[1].any()
    assert batch.segments_G3[0].tolist() == [0, SEQUENCE_LENGTH, 0]
