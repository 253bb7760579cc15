"""WARC files -> records; what the WET and the WARC source have in common.

A record is a version line, headers, an empty line, `Content-Length` bytes, and two line ends (ISO 28500). Cutting
records out of the stream is done here, because the libraries that read WARC (warcio 1.8 and FastWARC 2.0 were tried)
end at a record whose length is wrong, or pass what follows off as its content. Here every record is checked to end
where the next one can begin; one that does not is told of, and reading goes on at the next version line.

Promise: memory is bounded by `RECORD_BYTES`, time grows with the file's size, whatever it holds.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

from data_prep.config import KeepingSource
from data_prep.sources import BadRecords
from data_prep.sources.files import DamagedFile, is_compressed, open_measured
from data_prep.sources.records import kept_of

RECORD_BYTES = 1 << 27
"""The largest record that is read; a larger one is passed over."""
HEADER_BYTES = 1 << 16
BLOCK_BYTES = 1 << 20
_VERSION = b"WARC/"
_LINE_ENDS = re.compile(rb"[\r\n]*")


@dataclass(frozen=True)
class Record:
    """A whole record.

    Attributes:
        position: of its first byte, in the decompressed file.
        headers: by their names in lower case.
        raw: the record as it stands in the file, without the two line ends after it.
        content_begin: where its content begins in `raw`.
    """

    position: int
    headers: dict[str, str]
    raw: bytes
    content_begin: int


@dataclass(frozen=True)
class Fault:
    """A place in the decompressed file where no record can be read, and what is wrong.

    Attributes:
        too_large: the record is larger than what is read; nothing else is wrong with it.
    """

    position: int
    detail: str
    too_large: bool = False


def records(file: BinaryIO, record_type: str) -> Iterator[Record | Fault]:
    """All records of one type ("response", "conversion"), broken records of any type, and too large ones of this."""
    stream = _Stream(file)
    while stream.skip_line_ends():
        try:
            headers, content_begin, size = _measure(stream)
        except _NotWhole as fault:
            yield Fault(stream.position, str(fault))
            stream.skip_to_version_line()
            continue
        wanted = headers.get("warc-type", "").lower() == record_type
        if size > RECORD_BYTES:
            if wanted:
                yield Fault(stream.position, f"a record of {size:,} bytes", too_large=True)
            stream.skip_to_version_line()  # the size may be wrong
            continue
        if wanted:
            yield Record(stream.position, headers, stream.copy(size), content_begin)
        stream.drop(size)


def read_records(path: str, record_type: str, bad: BadRecords) -> Iterator[tuple[Record, int]]:
    """The records of one type of a file, each with the byte up to which the stored file has been read.

    Broken records and damage go to `bad`; too large records are left out and counted.
    """
    after = 0
    try:
        with open_measured(path) as (file, stored_position):
            for found in records(file, record_type):
                after = found.position
                if isinstance(found, Record):
                    yield found, stored_position()
                elif found.too_large:
                    bad.left_out("record_too_large")
                else:
                    bad.found(partial(name_of_place, path, after), "broken_record", found.detail)
    except DamagedFile as error:
        bad.found(lambda: f"{path}, after byte {after} decompressed", "damaged_file", str(error))


def name_of_place(path: str, position: int) -> str:
    """How errors name the record at a position of the decompressed file."""
    return f"{path}, record at byte {position}{' decompressed' if is_compressed(path) else ''}"


def kept_headers(source: KeepingSource, record: Record) -> tuple[str | None, str | None] | None:
    """What the source keeps of a record's headers, which it may name in any case; None when it keeps nothing.

    Raises:
        Unusable: there is no such header as the id.
    """
    if not source.keeps:
        return None
    named = {name: record.headers.get(name.lower()) for name in (source.id_field, *source.keep_fields) if name}
    return kept_of(source, {**record.headers, **{name: value for name, value in named.items() if value is not None}})


class _NotWhole(Exception):  # noqa: N818 - control flow inside this module
    pass


class _Stream:
    """A file with a window of what has been read of it and may be looked at again.

    Attributes:
        position: of the window's first byte in the file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.window = bytearray()
        self.position = 0

    def fill(self, size: int) -> bool:
        """Have `size` bytes in the window, or all there are; whether there are so many."""
        while len(self.window) < size and (block := self._file.read(BLOCK_BYTES)):
            self.window += block
        return len(self.window) >= size

    def copy(self, size: int) -> bytes:
        """The window's first bytes."""
        with memoryview(self.window) as whole, whole[:size] as part:
            return bytes(part)

    def drop(self, size: int) -> None:
        """Move on inside the window."""
        del self.window[:size]  # costs no copy: a bytearray moves its beginning
        self.position += size

    def skip_line_ends(self) -> bool:
        """Move to the next byte that is none; whether there is one."""
        while self.fill(1):
            self.drop(_LINE_ENDS.match(self.window).end())  # type: ignore[union-attr]
            if self.window:
                return True
        return False

    def skip_to_version_line(self) -> None:
        """Move to the next line that begins as a record does, or to the end."""
        wanted = b"\n" + _VERSION
        searched = 1
        while (found := self.window.find(wanted, searched)) < 0:
            self.drop(max(len(self.window) - len(wanted), 0))
            searched = 0
            if not self.fill(len(self.window) + 1):
                self.drop(len(self.window))
                return
        self.drop(found + 1)


def _measure(stream: _Stream) -> tuple[dict[str, str], int, int]:
    """The record at the stream's position: its headers, where its content begins, and its size in bytes.

    It is whole and in the window, unless it is larger than `RECORD_BYTES`.
    """
    window = stream.window
    stream.fill(HEADER_BYTES)
    header_end = window.find(b"\r\n\r\n", 0, HEADER_BYTES)
    if not window.startswith(_VERSION) or header_end < 0:
        raise _NotWhole("no WARC headers where a record should begin")
    headers = _headers(stream.copy(header_end))
    length = headers.get("content-length", "")
    if not (length.isascii() and length.isdigit() and len(length) < 16):
        raise _NotWhole(f"a record without a valid Content-Length: {length[:40]!r}")
    size = header_end + 4 + int(length)
    if size <= RECORD_BYTES:
        if not stream.fill(size):
            raise _NotWhole("the file ends inside the record, or its Content-Length is wrong")
        stream.fill(size + 4)
        if not b"\r\n\r\n".startswith(window[size : size + 4]):
            raise _NotWhole("the record does not end where its Content-Length says")
    return headers, header_end + 4, size


def _headers(lines: bytes) -> dict[str, str]:
    headers = {}
    for line in lines.decode(errors="replace").split("\r\n")[1:]:
        name, separator, value = line.partition(":")
        if separator:
            headers[name.strip().lower()] = value.strip()
    return headers
