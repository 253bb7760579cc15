"""Rows of an Arrow table -> documents; what Parquet and datasets have in common.

Text is a column of strings or of UTF-8 bytes, dictionary-encoded or not. Nulls, invalid UTF-8 and columns that hold
something else are bad records. Errors count rows from 0.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.arrays import mask_to_arrow, mask_to_numpy
from data_prep.config import FieldPrefix, RecordSource, prefix_policy
from data_prep.documents import Documents
from data_prep.sources import BadRecords
from data_prep.sources.records import Collected, Unusable

_TEXT_TYPES = {"string", "large_string", "string_view", "binary", "large_binary", "binary_view", "null"}


@dataclass(frozen=True)
class Place:
    """Where a batch stands: the file (or other unit), and the number of the batch's first row in it."""

    path: str
    first_row: int

    def row(self, index: int) -> str:
        """How errors name a row of the batch."""
        return f"{self.path}, row {self.first_row + index}"


def documents_of(source: RecordSource, batch: pa.RecordBatch, place: Place, bad: BadRecords) -> Documents:
    """The documents of a batch that has the source's fields as columns."""
    if isinstance(prefix_policy(source), FieldPrefix) or source.keeps:
        return _one_by_one(source, batch, place, bad)
    return _from_column(batch.column(source.text_field), source.text_field, place, bad)


def _from_column(column: pa.Array, name: str, place: Place, bad: BadRecords) -> Documents:
    if not _is_text(column.type):
        what = f"the column {name!r} holds {column.type}, not text"
        bad.found(lambda: place.path, "wrong_type", what, count=len(column))
        return Documents.from_texts([])
    texts = _to_strings(column)
    numbers = np.arange(len(texts))
    if texts.null_count:
        is_null = mask_to_numpy(texts.is_null())
        first_null = int(is_null.argmax())
        bad.found(lambda: place.row(first_null), "null", f"the column {name!r} is null", count=texts.null_count)
        numbers, texts = numbers[~is_null], texts.filter(mask_to_arrow(~is_null))
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        texts = _only_valid(texts, numbers, name, place, bad)
    return Documents(texts, np.arange(len(texts) + 1))


def _only_valid(
    texts: pa.LargeStringArray, numbers: np.ndarray, name: str, place: Place, bad: BadRecords
) -> pa.LargeStringArray:
    """The texts that are valid UTF-8; `numbers` are their rows in the batch."""
    keep = np.ones(len(texts), dtype=bool)
    for index, content in enumerate(texts.cast(pa.large_binary())):
        try:
            content.as_py().decode()
        except UnicodeDecodeError as error:
            keep[index] = False
            what = f"the column {name!r} is not valid UTF-8 at byte {error.start}"
            bad.found(partial(place.row, int(numbers[index])), "invalid_utf8", what)
    return texts.filter(mask_to_arrow(keep))


def _one_by_one(source: RecordSource, batch: pa.RecordBatch, place: Place, bad: BadRecords) -> Documents:
    columns = [_to_strings(column) if _is_text(column.type) else column for column in batch.columns]
    collected = Collected(source)
    for index in range(len(batch)):
        try:
            collected.add(_record(batch.schema.names, columns, index))
        except Unusable as error:
            bad.found(partial(place.row, index), error.reason, error.detail)
    return collected.documents()


def _record(names: list[str], columns: list[pa.Array], index: int) -> dict:
    try:
        return {name: column[index].as_py() for name, column in zip(names, columns, strict=True)}
    except UnicodeDecodeError as error:
        raise Unusable("invalid_utf8", f"a field is not valid UTF-8 at byte {error.start}") from None


def _is_text(kind: pa.DataType) -> bool:
    return str(kind.value_type if pa.types.is_dictionary(kind) else kind) in _TEXT_TYPES


def _to_strings(column: pa.Array) -> pa.LargeStringArray:
    """Strings or bytes as strings, which may not be valid UTF-8 yet."""
    if pa.types.is_dictionary(column.type):
        return _to_strings(column.dictionary).take(column.indices)
    return column.cast(options=pc.CastOptions(pa.large_string(), allow_invalid_utf8=True))
