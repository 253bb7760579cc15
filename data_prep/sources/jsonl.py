"""JSON Lines: one JSON object a line; plain, .gz, .zst, .bz2 or .xz.

A plain file is cut into byte ranges; a range holds the lines that start inside it, so ranges need no look at the file.
Blank lines are skipped. Every line is parsed strictly (orjson: RFC 8259, valid UTF-8, no half surrogate pairs).
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, BinaryIO

import orjson

from data_prep.config import FieldPrefix, JsonlSource, prefix_policy
from data_prep.documents import Documents
from data_prep.sources import BadRecords, InputFile
from data_prep.sources.files import (
    DamagedFile,
    byte_ranges,
    find_files,
    is_compressed,
    open_input,
    open_measured,
    sha256_of_input,
)
from data_prep.sources.records import Collected, Unusable, name_of

BLOCK_BYTES = 1 << 21
"""Read and parsed at a time: small enough to stay in the processor's cache, which measured fastest."""


def list_files(source: JsonlSource) -> list[InputFile]:
    """The files of the source's paths and globs."""
    return find_files(source.path)


def sha256(path: str) -> str:
    """Hash of the file as it is stored, compressed or not."""
    return sha256_of_input(path)


def cut(path: str, size_bytes: int, slice_bytes: int) -> list[tuple[int, int]]:
    """Byte ranges of a plain file; a compressed file is one range."""
    return byte_ranges(path, size_bytes, slice_bytes)


def read(source: JsonlSource, path: str, begin: int, end: int, bad: BadRecords) -> Iterator[Documents]:
    """The documents on the lines that start in [begin, end)."""
    only_text = not isinstance(prefix_policy(source), FieldPrefix) and not source.keeps
    lines_before = 0
    try:
        for block, input_bytes in _blocks(path, begin, end):
            lines = _lines(block)
            texts = _texts(lines, source.text_field) if only_text else None
            if texts is not None:
                batch = Documents.from_texts(texts)
            else:
                batch = _one_by_one(source, lines, bad, _Place(path, begin, lines_before))
            yield replace(batch, input_bytes=input_bytes)
            lines_before += len(lines)
    except DamagedFile as error:
        bad.found(lambda: f"{path}, after line {lines_before}", "damaged_file", str(error))


def _lines(block: bytes) -> list[memoryview]:
    """The lines of a block without their newlines, as views, because splitting copies every byte."""
    view, begin, lines = memoryview(block), 0, []
    while (end := block.find(b"\n", begin)) >= 0:
        lines.append(view[begin:end])
        begin = end + 1
    if begin < len(block):
        lines.append(view[begin:])
    return lines


def _texts(lines: list[memoryview], text_field: str) -> list[str] | None:
    """The texts of a block without a fault, or None when any line needs a closer look."""
    loads = orjson.loads
    try:
        texts = [loads(line)[text_field] for line in lines]
    except (ValueError, KeyError, TypeError):
        return None
    return texts if set(map(type, texts)) <= {str} else None


class _Place:
    """Where a block stands in its file; counts lines before it only when an error has to name one."""

    def __init__(self, path: str, begin: int, lines_before: int) -> None:
        self.path, self.begin, self.lines_before = path, begin, lines_before

    def line(self, index: int) -> int:
        """The line number in the file, from 1, of the block's line `index`."""
        earlier, started_a_line = 0, True
        with open_input(self.path) as file:
            left = self.begin
            while left > 0 and (block := file.read(min(BLOCK_BYTES, left))):
                earlier += block.count(b"\n")
                left -= len(block)
                started_a_line = block.endswith(b"\n")
        if self.begin and not started_a_line:
            earlier += 1  # the range begins inside a line, which belongs to the range before
        return earlier + self.lines_before + index + 1

    def name(self, index: int) -> str:
        return f"{self.path}:{self.line(index)}"


def _one_by_one(source: JsonlSource, lines: list[memoryview], bad: BadRecords, place: _Place) -> Documents:
    collected = Collected(source)
    for index, line in enumerate(map(bytes, lines)):
        if not line.strip():
            continue
        try:
            collected.add(_record(line))
        except Unusable as error:
            bad.found(partial(place.name, index), error.reason, error.detail)
    return collected.documents()


def _record(line: bytes) -> dict[str, Any]:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        try:
            line.decode()
        except UnicodeDecodeError as bad_bytes:
            raise Unusable("invalid_utf8", f"not valid UTF-8 at byte {bad_bytes.start} of the line") from None
        raise Unusable("not_json", f"not JSON: {error.msg} at character {error.pos + 1} of the line") from None
    if not isinstance(record, dict):
        raise Unusable("not_an_object", f"the line is not a JSON object but {name_of(record)}")
    return record


def _blocks(path: str, begin: int, end: int) -> Iterator[tuple[bytes, int]]:
    """Whole lines that start in [begin, end), about a block at a time, and the bytes of the file they were read from.

    The file's last line may lack its newline.
    """
    compressed = is_compressed(path)
    with open_measured(path) as (file, stored_position):
        position = counted = 0
        if begin:
            file.seek(begin - 1)
            position = counted = begin - 1 + _skip_line(file)
            if position >= end:
                return
        pending: list[memoryview] = []
        while block := file.read(BLOCK_BYTES):
            ends_here = not compressed and position + len(block) >= end
            # the line that holds byte end - 1 is the last
            cut_at = (block.find(b"\n", max(end - 1 - position, 0)) if ends_here else block.rfind(b"\n")) + 1
            position += len(block)
            if cut_at:
                read_to = stored_position() if compressed else position - len(block) + cut_at
                yield b"".join([*pending, memoryview(block)[:cut_at]]), read_to - counted
                if ends_here:
                    return
                pending, counted = [], read_to
            if cut_at < len(block):
                pending.append(memoryview(block)[cut_at:])
        if pending:
            yield b"".join(pending), (stored_position() if compressed else position) - counted


def _skip_line(file: BinaryIO) -> int:
    """Move to the start of the next line; returns the bytes passed."""
    passed = 0
    while block := file.read(BLOCK_BYTES):
        newline = block.find(b"\n")
        if newline >= 0:
            file.seek(newline + 1 - len(block), 1)
            return passed + newline + 1
        passed += len(block)
    return passed
