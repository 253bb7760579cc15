"""Parquet: one record a row; only the columns that make a document are read.

A file is cut into byte ranges; a range holds the row groups whose share of the file begins inside it, so where row
groups are large some ranges hold nothing. Memory does not grow with the row groups.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import pyarrow.parquet as pq

from data_prep.config import ParquetSource, RecordSource
from data_prep.documents import Documents
from data_prep.sources import BadRecords, InputFile
from data_prep.sources.files import DamagedFile, arrow_errors, byte_ranges, find_files, open_stored, sha256_of_input
from data_prep.sources.records import columns_of, missing_field, required_fields
from data_prep.sources.tables import Place, documents_of

BATCH_BYTES = 1 << 22
"""Of text in a batch, about; a batch has at least one row."""
BATCH_ROWS = 1 << 14
BUFFER_BYTES = 1 << 20
"""Read ahead of each column."""
_KIND = "a Parquet file"


def list_files(source: ParquetSource) -> list[InputFile]:
    """The files of the source's paths, globs and URLs."""
    return find_files(source.path)


def sha256(path: str) -> str:
    """Hash of the file's bytes."""
    return sha256_of_input(path)


def cut(path: str, size_bytes: int, slice_bytes: int) -> list[tuple[int, int]]:
    """Byte ranges."""
    return byte_ranges(path, size_bytes, slice_bytes)


@dataclass(frozen=True)
class _RowGroup:
    """What a row group's entry in the footer says.

    Attributes:
        begin, end: its share of the file: the file's bytes, shared out as the uncompressed sizes are. (Where its bytes
            really begin is known to the columns alone, and asking them in a damaged footer can end the process: pyarrow
            lets a C++ exception through.)
        rows: in the group.
        first_row: its number in the file.
        size_bytes: of all columns, uncompressed.
    """

    begin: int
    end: int
    rows: int
    first_row: int
    size_bytes: int


def read(source: RecordSource, path: str, begin: int, end: int, bad: BadRecords) -> Iterator[Documents]:
    """The documents of the row groups that begin in [begin, end); damage costs the rest of its row group."""
    fields = required_fields(source)
    try:
        with _open(path) as (file, names, groups):
            missing = next((name for name in fields if name not in names), None)
            for number, group in enumerate(groups):
                if not begin <= group.begin < end:
                    continue
                if missing is not None:
                    fault = missing_field(missing, names)
                    bad.found(lambda: path, fault.reason, fault.detail, count=group.rows)
                else:
                    yield from _read_group(source, file, number, group, path, bad)
    except DamagedFile as error:
        if begin == 0:  # of all ranges of the file one tells
            bad.found(lambda: path, "damaged_file", str(error))


def _read_group(
    source: RecordSource, file: pq.ParquetFile, number: int, group: _RowGroup, path: str, bad: BadRecords
) -> Iterator[Documents]:
    batch_rows = min(max(BATCH_BYTES * group.rows // max(group.size_bytes, 1), 1), BATCH_ROWS)
    row = group.first_row
    columns = columns_of(source, file.schema_arrow.names)
    try:
        with arrow_errors(path, _KIND):
            batches = file.iter_batches(batch_rows, row_groups=[number], columns=columns, use_threads=False)
            for batch in batches:
                input_bytes = (group.end - group.begin) * len(batch) // max(group.rows, 1)
                yield replace(documents_of(source, batch, Place(path, row), bad), input_bytes=input_bytes)
                row += len(batch)
    except DamagedFile as error:
        bad.found(lambda: f"{path}, from row {row} on", "damaged_row_group", str(error))


@contextmanager
def _open(path: str) -> Iterator[tuple[pq.ParquetFile, list[str], list[_RowGroup]]]:
    """A Parquet file to read from inside the block, the names of its columns, and its row groups.

    Raises:
        DamagedFile: not a Parquet file, or damaged.
        DataError: the file cannot be read.
    """
    with ExitStack() as stack:
        with arrow_errors(path, _KIND):
            stored = stack.enter_context(open_stored(path))
            file = pq.ParquetFile(stored, buffer_size=BUFFER_BYTES, pre_buffer=False)  # which would read all of a group
            names = file.schema_arrow.names
            groups = _row_groups(file.metadata, stored.seek(0, os.SEEK_END))
        yield file, names, groups


def _row_groups(metadata: pq.FileMetaData, file_bytes: int) -> list[_RowGroup]:
    footers = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    sizes = [max(footer.total_byte_size, 0) for footer in footers]
    groups, bytes_before, first_row = [], 0, 0
    for footer, size_bytes in zip(footers, sizes, strict=True):
        begin = min(file_bytes * bytes_before // max(sum(sizes), 1), file_bytes - 1)
        bytes_before += size_bytes
        end = file_bytes * bytes_before // max(sum(sizes), 1)
        rows = max(footer.num_rows, 0)
        groups.append(_RowGroup(begin, end, rows, first_row, size_bytes))
        first_row += rows
    return groups
