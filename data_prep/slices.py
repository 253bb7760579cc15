"""A tokenized slice on disk: what the tokenize stage leaves for the pack stage.

    NAME.tokens      ids, uint16 or uint32, flat
    NAME.documents   one `DOCUMENT` record per document, in canonical order
    NAME.kept        what the source keeps of each document's record, an Arrow stream in the schema `KEPT`; only when
                     it keeps something
    NAME.json        counts, and a checksum of each; written last, so a slice without it does not exist

These files live in the work directory and are not flushed to the disk: after a crash the checksums tell which are
whole.
"""

import hashlib
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from data_prep.documents import KEPT

DOCUMENT = np.dtype(
    [
        ("hash_hi", "<u8"),  # the two halves of the content hash, xxh3 of 128 bits
        ("hash_lo", "<u8"),
        ("start", "<u8"),  # first token in NAME.tokens
        ("length", "<u4"),  # tokens, with the end-of-document token
        ("boundary", "<i4"),  # tokens of the prefix that the record brought; -1 when it is sampled
        ("text_bytes", "<u4"),
    ]
)
LARGEST_DOCUMENT_BYTES = 2**32 - 1


@dataclass
class SliceRecord:
    """What a slice says about itself.

    Attributes:
        records: records read, unusable ones included.
        documents: documents kept so far (duplicates are found later).
        dropped: reason -> documents or records left out.
        removed: reason -> lines (and citation marks) that quality rules took out of documents.
        prefixes_cut: prefixes that were cut from the left to fit a row.
        input_bytes: of the stored file that were read.
        seconds: how long one process worked on it.
        sizes, checksums: of the files, by their endings.
    """

    records: int = 0
    documents: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)
    prefixes_cut: int = 0
    input_bytes: int = 0
    seconds: float = 0.0
    sizes: dict[str, int] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)


class _HashedFile:
    """A new file, and the checksum of what was written to it."""

    closed = False  # Arrow asks

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._hash = xxhash.xxh3_128()
        self.size = 0

    def write(self, content: Any) -> int:
        self._hash.update(content)
        self.size += len(content)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    @property
    def checksum(self) -> str:
        return self._hash.hexdigest()


class SliceWriter:
    """Writes a slice piece by piece in bounded memory; it exists only when the `with` block ends without an error."""

    def __init__(self, directory: Path, name: str, scratch: Path) -> None:
        """`scratch` is a directory on the same file system, where a killed writer's files are left."""
        self.directory, self.name, self.scratch = directory, name, scratch
        self.record = SliceRecord()
        self.tokens_written = 0
        self._files: dict[str, _HashedFile] = {}
        self._kept: pa.RecordBatchWriter | None = None

    def __enter__(self) -> "SliceWriter":
        self._began = time.monotonic()
        for part in ("tokens", "documents"):
            self._open(part)
        return self

    def append(self, tokens: np.ndarray, documents: np.ndarray, kept: pa.RecordBatch | None = None) -> None:
        """Add documents.

        Args:
            tokens: their ids.
            documents: `DOCUMENT` records that point into all ids of the slice.
            kept: one row per document in the schema `KEPT`; for all documents of a slice, or for none.
        """
        for part, array in (("tokens", tokens), ("documents", documents)):
            self._files[part].write(np.ascontiguousarray(array).view(np.uint8).data)
        if kept is not None:
            if self._kept is None:
                self._kept = pa.ipc.new_stream(self._open("kept"), KEPT)
            self._kept.write_batch(kept)
        self.tokens_written += len(tokens)
        self.record.documents += len(documents)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._kept is not None:
                self._kept.close()
            for part, file in self._files.items():
                file.close()
                self.record.sizes[part], self.record.checksums[part] = file.size, file.checksum
            if kind is None:
                for part in self._files:
                    self._temporary(part).replace(self.directory / f"{self.name}.{part}")
                self.record.seconds = time.monotonic() - self._began
                self._temporary("json").write_text(json.dumps(vars(self.record)), encoding="utf-8")
                self._temporary("json").replace(self.directory / f"{self.name}.json")
        finally:
            for part in self._files:
                self._temporary(part).unlink(missing_ok=True)

    def _open(self, part: str) -> _HashedFile:
        self._files[part] = _HashedFile(self._temporary(part))
        return self._files[part]

    def _temporary(self, part: str) -> Path:
        return self.scratch / f"{self.name}.{part}"


def read_record(directory: Path, name: str) -> SliceRecord | None:
    """The record of a finished slice, or None."""
    try:
        values: dict[str, Any] = json.loads((directory / f"{name}.json").read_bytes())
        counters = {name: Counter(values[name]) for name in ("dropped", "removed")}
        return SliceRecord(**{**values, **counters})
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def is_whole(directory: Path, name: str) -> bool:
    """Whether a slice is finished and its files are what was written."""
    record = read_record(directory, name)
    if record is None:
        return False
    for part, size in record.sizes.items():
        path = directory / f"{name}.{part}"
        if not path.is_file() or path.stat().st_size != size:
            return False
        with path.open("rb") as file:
            if hashlib.file_digest(file, xxhash.xxh3_128).hexdigest() != record.checksums[part]:  # type: ignore[arg-type]
                return False
    return True


def map_documents(directory: Path, name: str, begin: int, end: int) -> np.ndarray:
    """The `DOCUMENT` records [begin, end) of a slice, memory-mapped; no more than these can become resident."""
    path = directory / f"{name}.documents"
    if begin == end:  # a memory map of nothing is an error
        return np.empty(0, DOCUMENT)
    return np.memmap(path, DOCUMENT, "r", begin * DOCUMENT.itemsize, end - begin)


def map_tokens(directory: Path, name: str, dtype: np.dtype) -> np.ndarray:
    """The flat ids of a slice, memory-mapped."""
    path = directory / f"{name}.tokens"
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)


def map_kept(directory: Path, name: str) -> pa.Table | None:
    """What was kept of the slice's documents, memory-mapped; None when its source keeps nothing."""
    path = directory / f"{name}.kept"
    return pa.ipc.open_stream(pa.memory_map(str(path))).read_all() if path.is_file() else None
