"""Text files: one document a file, or documents split by a separator; plain, .gz, .zst, .bz2 or .xz. UTF-8 only.

A plain file is cut into byte ranges; a range holds the documents that begin inside it. That needs no look at the file,
because where a separator stands can be told from its neighbourhood alone, unless it can overlap itself (as two newlines
do in three): then, and without a separator, the file's first range holds everything. Pieces of white space are no
documents. A byte order mark at the file's beginning is no text.
"""

from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import BinaryIO

from data_prep.config import TextSource
from data_prep.documents import Documents
from data_prep.sources import BadRecords, InputFile
from data_prep.sources.batches import Found, in_batches
from data_prep.sources.files import DamagedFile, byte_ranges, find_files, is_compressed, open_measured, sha256_of_input

BLOCK_BYTES = 1 << 21


def list_files(source: TextSource) -> list[InputFile]:
    """The files of the source's paths, globs and URLs."""
    return find_files(source.path)


def sha256(path: str) -> str:
    """Hash of the file as it is stored, compressed or not."""
    return sha256_of_input(path)


def cut(path: str, size_bytes: int, slice_bytes: int) -> list[tuple[int, int]]:
    """Byte ranges of a plain file; a compressed file is one range."""
    return byte_ranges(path, size_bytes, slice_bytes)


def read(source: TextSource, path: str, begin: int, end: int, bad: BadRecords) -> Iterator[Documents]:
    """The documents that begin in [begin, end)."""
    separator = (source.separator or "").encode()
    if not separator or overlaps_itself(separator) or is_compressed(path):
        return iter(()) if begin else in_batches(_texts(path, 0, None, separator, bad), 0)
    return in_batches(_texts(path, begin, end, separator, bad), begin)


def overlaps_itself(separator: bytes) -> bool:
    """Whether one occurrence of the separator can begin inside another."""
    return any(separator.startswith(separator[begin:]) for begin in range(1, len(separator)))


def _texts(path: str, begin: int, end: int | None, separator: bytes, bad: BadRecords) -> Iterator[Found]:
    """Documents, each with how far the file has been read."""
    after = begin
    try:
        with open_measured(path) as (file, stored_position):
            for position, piece in _pieces(file, begin, end, separator):
                after = position + len(piece)
                text = _decode(piece, position, path, bad)
                if text and not text.isspace():
                    yield Found(text, stored_position() if is_compressed(path) else after)
    except DamagedFile as error:
        bad.found(lambda: f"{path}, after byte {after}", "damaged_file", str(error))


def _decode(piece: bytes, position: int, path: str, bad: BadRecords) -> str | None:
    start = len(BOM_UTF8) if position == 0 and piece.startswith(BOM_UTF8) else 0
    try:
        return piece[start:].decode()
    except UnicodeDecodeError as error:
        at = start + error.start
        what = f"not valid UTF-8: byte 0x{piece[at]:02x}"
        bad.found(lambda: f"{path}, byte {position + at}", "invalid_utf8", what)
        return None


def _pieces(file: BinaryIO, begin: int, end: int | None, separator: bytes) -> Iterator[tuple[int, bytes]]:
    """What stands between separators and begins in [begin, end), each with its position; with no end, up to the file's.

    Without a separator the file is one piece.
    """
    position = max(begin - len(separator), 0)  # of window[0]
    if position:
        file.seek(position)
    window, piece_begin, looked_at = b"", 0, 0
    before_range = begin > 0
    while True:
        found = window.find(separator, looked_at) if separator else -1
        if found < 0:
            rest = window[piece_begin:]
            position += piece_begin
            block = file.read(max(BLOCK_BYTES, len(rest)))  # twice as much each time: a long document stays linear
            if not block:
                break
            window, piece_begin, looked_at = rest + block, 0, max(len(rest) - len(separator) + 1, 0)
            continue
        if not before_range:
            yield position + piece_begin, window[piece_begin:found]
        before_range = False
        piece_begin = looked_at = found + len(separator)
        if end is not None and position + piece_begin >= end:
            return
    if not before_range:
        yield position, rest
