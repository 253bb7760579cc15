"""Which document and which source each segment of a split is from, told by the tables of documents beside the shards.

Corpora are prepared without these tables as well; then nobody knows, and that is said.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.documents_table import table_name
from data_prep.shards import Corpus
from foreword.errors import DataError

HASH_BYTES = 16


@dataclass(frozen=True)
class Origins:
    """Where K segments come from.

    Attributes:
        sources: names, as they occur.
        source: int64 [K], index into `sources`.
        document: int64 [K], equal for the pieces and the copies of one document, in [0, documents).
    """

    sources: list[str]
    source: np.ndarray
    document: np.ndarray


def origins_of(corpus: Corpus, split_name: str, row: np.ndarray, segment: np.ndarray) -> Origins | None:
    """Look segments up in the tables of their shards; None when the corpus was prepared without tables.

    Args:
        corpus: the corpus.
        split_name: one of its splits.
        row: int64 [K], numbers in the split, ascending.
        segment: int64 [K], numbers in the row.

    Raises:
        DataError: a table cannot be read, or does not know one of the segments.
    """
    split = corpus.split(split_name)
    first_row = np.append(0, np.cumsum([shard.rows for shard in split.info.shards]))
    ends = np.searchsorted(row, first_row[1:])
    found: list[pa.Table] = []
    begin = 0
    for shard, start, end in zip(split.info.shards, first_row.tolist(), ends.tolist(), strict=False):
        if begin == end:
            continue
        name = table_name(split_name, shard.name)
        if name not in shard.files:
            return None
        found.append(_look_up(corpus.path / name, row[begin:end] - start, segment[begin:end]))
        begin = end
    table = pa.concat_tables(found)
    sources = table["source"].cast(pa.string()).combine_chunks().dictionary_encode()
    hashes = np.frombuffer(b"".join(table["hash"].to_pylist()), dtype=f"V{HASH_BYTES}")
    return Origins(
        sources=sources.dictionary.to_pylist(),
        source=sources.indices.to_numpy().astype(np.int64),
        document=np.unique(hashes, return_inverse=True)[1].reshape(-1),
    )


def _look_up(path: Path, row: np.ndarray, segment: np.ndarray) -> pa.Table:
    """`source` and `hash` of these segments of a shard, in their order."""
    try:
        table = pq.read_table(path, columns=["row", "segment", "source", "hash"])
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot be read: {error}", where=path, remedy="run `foreword verify`") from None
    known, wanted = (
        np.asarray(rows, dtype=np.int64) * 2**32 + np.asarray(segments, dtype=np.int64)
        for rows, segments in ((table["row"], table["segment"]), (row, segment))
    )
    order = np.argsort(known, kind="stable")
    place = np.searchsorted(known, wanted, sorter=order)
    index = order[np.minimum(place, len(order) - 1)] if len(order) else np.zeros(0, dtype=np.int64)
    missing = np.flatnonzero(known[index] != wanted) if len(index) else np.arange(len(wanted))
    if missing.size:
        raise DataError(
            f"does not know segment {segment[missing[0]]} of row {row[missing[0]]}",
            where=path,
            remedy="run `foreword verify`; the table may be that of another corpus",
        )
    return table.select(["source", "hash"]).take(pa.array(index))
