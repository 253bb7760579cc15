"""Segments are traced to their documents by the tables beside the shards, over several shards, in any order."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_corpus import make_corpus

from data_prep.documents_table import table_name
from data_prep.manifest import FileInfo
from data_prep.shards import PADDING, Corpus
from foreword.errors import DataError
from foreword.files import sha256_of
from pipeline.evaluation.documents import origins_of

SOURCES = ["books", "web"]


def segments_of(corpus: Corpus) -> tuple[np.ndarray, np.ndarray]:
    """Row and number of all segments of the split that are not padding."""
    split = corpus.split("train")
    places = [
        (row, segment)
        for row in range(len(split))
        for segment, (_, prefix_len) in enumerate(split.row(row).segments.tolist())
        if prefix_len != PADDING
    ]
    row, segment = np.array(places, dtype=np.int64).T
    return row, segment


def document_of(row: int, segment: int) -> tuple[str, bytes]:
    """Source and hash: first segments are pieces of one book each two rows, the others pages of their own."""
    return ("books", bytes([row // 2]) * 16) if segment == 0 else ("web", bytes([row, segment]) * 8)


def with_tables(corpus: Corpus, drop: int = 0) -> Corpus:
    """The corpus with its training shard listed twice, each with a table whose records are in reverse order."""
    row, segment = segments_of(corpus)
    found = [document_of(*place) for place in zip(row.tolist(), segment.tolist(), strict=True)]
    names = pa.array([SOURCES.index(source) for source, _ in found], pa.int32())
    table = pa.table(
        {
            "row": pa.array(row, pa.int32()),
            "segment": pa.array(segment, pa.int32()),
            "source": pa.DictionaryArray.from_arrays(names, SOURCES),
            "hash": pa.array([content for _, content in found], pa.binary(16)),
        }
    )
    name = table_name("train", "00000")
    pq.write_table(table.take(np.arange(len(table))[::-1][drop:]), corpus.path / name)
    info = FileInfo(size=(corpus.path / name).stat().st_size, sha256=sha256_of(corpus.path / name))
    split = corpus.manifest.splits["train"]
    shard = split.shards[0].model_copy(update={"files": {**split.shards[0].files, name: info}})
    splits = {**corpus.manifest.splits, "train": split.model_copy(update={"shards": [shard, shard]})}
    corpus.manifest.model_copy(update={"splits": splits}).save(corpus.path)
    return Corpus.open(corpus.path)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return make_corpus(tmp_path, rows=6)


def test_every_segment_has_its_source_and_pieces_of_a_document_are_one(corpus: Corpus) -> None:
    corpus = with_tables(corpus)
    row, segment = segments_of(corpus)
    assert row.max() == 11  # both shards
    chosen = np.arange(len(row)) % 3 != 1
    row, segment = row[chosen], segment[chosen]
    origins = origins_of(corpus, "train", row, segment)
    assert origins is not None
    expected = [document_of(r % 6, s) for r, s in zip(row.tolist(), segment.tolist(), strict=True)]
    assert [origins.sources[index] for index in origins.source] == [source for source, _ in expected]
    assert sorted(origins.sources) == SOURCES
    hashes = [content for _, content in expected]
    same = np.array([[a == b for b in hashes] for a in hashes])
    assert ((origins.document[:, None] == origins.document) == same).all()
    assert set(origins.document.tolist()) == set(range(len(set(hashes))))


def test_without_tables_nothing_is_known(corpus: Corpus) -> None:
    assert origins_of(corpus, "train", *segments_of(corpus)) is None


def test_a_table_that_lacks_a_segment_is_refused(corpus: Corpus) -> None:
    corpus = with_tables(corpus, drop=1)
    with pytest.raises(DataError, match=r"00000\.documents\.parquet: does not know segment \d of row 5"):
        origins_of(corpus, "train", *segments_of(corpus))
