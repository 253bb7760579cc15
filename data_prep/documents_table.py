"""`SPLIT/NAME.documents.parquet`: which document each segment of a shard comes from.

What comes in: the documents of a window and how they were packed. What goes out: one Parquet file per shard with one
record per segment that is not padding, in row and segment order:

    row       int32            in the shard, from 0
    segment   int32            in the row, from 0
    piece     int32            0 for the first piece of its document, 1 for the second, ...
    source    dictionary       name of the source
    id        string           what the source's `id_field` held; null when it has none
    fields    string           a JSON object of the source's `keep_fields`; null when it has none
    hash      binary of 16     content hash (xxh3 of 128 bits over the normalised text)

Promise: equal inputs give equal bytes (with the same version of pyarrow).
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.arrays import to_arrow, to_numpy
from data_prep.documents import string_array
from data_prep.manifest import FileInfo
from data_prep.pack import Packed
from foreword.errors import DataError
from foreword.files import atomic_write

PART = "documents"
ROW_GROUP_SEGMENTS = 2**16
"""Small enough that looking up one row reads little."""


def table_name(split: str, shard: str) -> str:
    """The table's path in the corpus."""
    return f"{split}/{shard}.{PART}.parquet"


def write_documents(
    path: Path, packed: Packed, source: np.ndarray, names: list[str], hashes: np.ndarray, kept: pa.Table
) -> FileInfo:
    """Write a shard's table whole or not at all.

    Args:
        packed: where the pieces of the documents stand.
        source: [documents], number of each document's source.
        names: of the sources.
        hashes: uint64 [documents, 2], the halves of the content hash.
        kept: [documents] in the schema `data_prep.documents.KEPT`.
    """
    first = np.searchsorted(packed.row, packed.row)  # the first piece of the same row
    document = to_arrow(packed.document)
    number = to_arrow(source[packed.document].astype(np.int32))
    halves = np.ascontiguousarray(hashes[packed.document].astype(">u8"))
    columns = {
        "row": to_arrow(packed.row.astype(np.int32)),
        "segment": to_arrow((np.arange(len(first)) - first).astype(np.int32)),
        "piece": to_arrow(packed.number.astype(np.int32)),
        "source": pa.DictionaryArray.from_arrays(number, string_array(names)),
        "id": kept.column("id").take(document),
        "fields": kept.column("fields").take(document),
        "hash": pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(halves), [None, pa.py_buffer(halves)]),
    }
    content = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), content, row_group_size=ROW_GROUP_SEGMENTS, compression="zstd")
    data = content.getvalue()
    with atomic_write(path) as file:
        file.write(data)
    return FileInfo(size=data.size, sha256=hashlib.sha256(data).hexdigest())


def documents_of_row(path: Path, row: int) -> list[dict[str, Any]]:
    """The records of one row of a shard, in segment order; `hash` in hexadecimal, `fields` as an object.

    Raises:
        DataError: the table cannot be read.
    """
    try:
        found = pq.read_table(path, filters=[("row", "=", row)]).sort_by("segment").to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot be read: {error}", where=path, remedy="run `foreword verify`") from None
    for record in found:
        record["hash"] = record["hash"].hex()
        record["fields"] = record["fields"] and json.loads(record["fields"])
    return found


def places(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The columns `row` and `segment` of a shard's table.

    Raises:
        DataError: the table cannot be read.
    """
    try:
        table = pq.read_table(path, columns=["row", "segment"])
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot be read: {error}", where=path) from None
    row, segment = (column.combine_chunks() for column in table.columns)
    return to_numpy(row), to_numpy(segment)
