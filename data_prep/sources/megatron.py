"""Megatron-LM's .bin and .idx, as GPT-NeoX writes them too: documents that are tokenized already.

    NAME.bin    the ids of all sequences, one after the other
    NAME.idx    little-endian, see `_HEADER`, then for n sequences and d document indices: i32 [n] lengths of the
                sequences in ids; i64 [n] where they begin in the .bin, in bytes; i64 [d] the sequence at which each
                document begins, and n at the end; in some files i8 [n] modes

(read off Megatron-LM's core/datasets/indexed_dataset.py)

The two files are one unit: the .bin followed by the .idx. A range of it holds the documents whose first id lies in it.
Promise: the index is checked to fit the .bin to the byte, and every id to be in the declared vocabulary.
"""

import hashlib
import io
import struct
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from data_prep.config import MegatronSource
from data_prep.documents import TokenizedDocuments
from data_prep.sources import BadRecords, InputFile
from data_prep.sources.files import DamagedFile, byte_ranges, find_files
from data_prep.sources.remote import is_remote
from foreword.errors import ConfigError, DataError

BATCH_IDS = 1 << 20
"""Ids in a batch, about; a batch has at least one document."""
_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")  # magic, version 1, code of the ids' type, n, d
_TYPES = {code: np.dtype(kind) for code, kind in {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}.items()}


def list_files(source: MegatronSource) -> list[InputFile]:
    """The pairs of the source's paths and globs, each by its .bin; a path may leave out the ending, as Megatron's do.

    Raises:
        ConfigError: a file that does not exist, or is not on this machine.
    """
    patterns = [source.path] if isinstance(source.path, str) else source.path
    if remote := next(filter(is_remote, patterns), None):
        raise ConfigError("a .bin is read through a memory map", where=remote, remedy="copy it to this machine")
    pairs = []
    for file in find_files([f"{pattern.removesuffix('.bin').removesuffix('.idx')}.bin" for pattern in patterns]):
        index = find_files(str(_index_of(file.path)))[0]
        fingerprint = f"{file.fingerprint}, {index.fingerprint}"
        pairs.append(replace(file, size_bytes=file.size_bytes + index.size_bytes, fingerprint=fingerprint))
    return pairs


def sha256(path: str) -> str:
    """Hash of the bytes of the .bin followed by those of the .idx."""
    digest = hashlib.sha256()
    for part in (Path(path), _index_of(path)):
        with part.open("rb") as file:
            while block := file.read(io.DEFAULT_BUFFER_SIZE * 16):
                digest.update(block)
    return digest.hexdigest()


def cut(path: str, size_bytes: int, slice_bytes: int) -> list[tuple[int, int]]:
    """Byte ranges."""
    return byte_ranges(path, size_bytes, slice_bytes)


def read(source: MegatronSource, path: str, begin: int, end: int, bad: BadRecords) -> Iterator[TokenizedDocuments]:
    """The documents whose first id lies in [begin, end) of the .bin, as far as all their ids are in the vocabulary."""
    try:
        ids, document_ptr = _open(path)
    except DamagedFile as error:
        if begin == 0:  # of all ranges of the file one tells
            bad.found(partial(str, path), "damaged_file", str(error))
        return
    # documents without ids begin where the next one does, or at the .bin's end, which no range before the last reaches
    first, last = np.searchsorted(document_ptr[:-1] * ids.itemsize, [begin, end]).tolist()
    while first < last:
        after = int(np.searchsorted(document_ptr, document_ptr[first] + BATCH_IDS, side="right")) - 1
        after = min(max(after, first + 1), last)
        yield _checked(ids, document_ptr[first : after + 1], source.vocab_size, partial(_name, path, first), bad)
        first = after


def _checked(
    ids: np.ndarray, ptr: np.ndarray, vocab_size: int, name: "partial[str]", bad: BadRecords
) -> TokenizedDocuments:
    """The documents ids[ptr[d]:ptr[d + 1]] without those that have an id out of the vocabulary."""
    batch, ptr = ids[ptr[0] : ptr[-1]], ptr - ptr[0]
    outside = np.flatnonzero((batch < 0) | (batch >= vocab_size))
    documents = TokenizedDocuments(batch, ptr, input_bytes=batch.nbytes)
    if not len(outside):
        return documents
    owner = np.searchsorted(ptr, outside, side="right") - 1
    faulty, firsts = np.unique(owner, return_index=True)
    for document, at in zip(faulty.tolist(), outside[firsts].tolist(), strict=True):
        what = f"id {batch[at]} at place {at - ptr[document]} is not in the declared vocabulary of {vocab_size:,}"
        bad.found(partial(name, document), "id_out_of_vocabulary", what)
    keep = np.ones(len(documents), dtype=bool)
    keep[faulty] = False
    return documents.select(keep)


def _open(path: str) -> tuple[np.ndarray, np.ndarray]:
    """All ids, memory-mapped, and int64 [documents + 1]: where each document begins among them.

    Raises:
        DamagedFile: the index is not one, or does not fit the .bin.
        DataError: a file cannot be read.
    """
    try:
        index = _map(_index_of(path), np.dtype(np.uint8))
        lengths, begins, documents, dtype = _parse(index)
        size_bytes = Path(path).stat().st_size
        ids = _map(Path(path), dtype) if size_bytes % dtype.itemsize == 0 else None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=error.filename or path) from None
    ends = np.cumsum(lengths, dtype=np.int64)
    if ids is None or (lengths < 0).any() or len(ids) != (ends[-1] if len(ends) else 0):
        raise DamagedFile(
            f"its index counts {int(lengths.sum(dtype=np.int64)):,} ids, the .bin has {size_bytes:,} bytes"
        )
    if not np.array_equal(begins, (ends - lengths) * dtype.itemsize):
        raise DamagedFile("its sequences do not lie one after the other")
    if len(documents) and (documents[0] != 0 or documents[-1] != len(lengths) or (np.diff(documents) < 0).any()):
        raise DamagedFile("the documents in its index do not cover its sequences in order")
    return ids, np.append(0, ends)[documents] if len(documents) else np.zeros(1, np.int64)


def _parse(index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.dtype]:
    """The lengths and beginnings of the sequences, the document indices, and the type of the ids."""
    if len(index) < _HEADER.size:
        raise DamagedFile("its index ends inside the header")
    magic, version, code, sequences, documents = _HEADER.unpack(index[: _HEADER.size].tobytes())
    if magic != _MAGIC or version != 1:
        raise DamagedFile("its index is not of Megatron's kind MMIDIDX, version 1")
    if code not in _TYPES:
        raise DamagedFile(f"its ids have the type of code {code}, which is none of integers")
    sizes = [4 * sequences, 8 * sequences, 8 * documents]
    if len(index) - _HEADER.size - sum(sizes) not in (0, sequences):
        raise DamagedFile(f"its index should hold {sequences:,} sequences and {documents:,} document indices")
    parts, at = [], _HEADER.size
    for size, kind in zip(sizes, ("<i4", "<i8", "<i8"), strict=True):
        parts.append(np.frombuffer(index[at : at + size], kind))
        at += size
    return parts[0], parts[1], parts[2], _TYPES[code]


def _map(path: Path, dtype: np.dtype) -> np.ndarray:
    # a memory map of nothing is an error
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)


def _index_of(path: str) -> Path:
    return Path(path).with_suffix(".idx")


def _name(path: str, first: int, document: int) -> str:
    return f"{path}, document {first + document}"
