"""Shards on disk: rows of token ids and their segments, written whole, memory-mapped back.

What comes in: a shard's rows and segments as arrays. What goes out: three .npy files and their `ShardInfo`; and, for a
reader, `Corpus` -> `Split` -> `Row`. Promises: a shard's files appear under their names only when they are whole and on
the disk; opening a corpus costs one stat per file and builds no index; a row is a view of the mapped file.

Layout (docs/shard-format.md is the reference):

    SPLIT/NAME.tokens.npy     uint16 or uint32 [rows, sequence_length + 1]
    SPLIT/NAME.row_ptr.npy    int64 [rows + 1]: segments of row r are segments[row_ptr[r]:row_ptr[r + 1]]
    SPLIT/NAME.segments.npy   int32 [segments, 2]: first column within the row, prefix length (PADDING: -1)
"""

import hashlib
import io
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from data_prep.manifest import (
    TOKEN_BYTES_NAME,
    TOKENIZER_DIRECTORY,
    FileInfo,
    Manifest,
    ShardInfo,
    SplitInfo,
    read_manifest_bytes,
)
from data_prep.mapped import MappedArray
from foreword.errors import ConfigError, DataError
from foreword.files import atomic_write

PADDING = -1
LARGEST_UINT16_VOCAB = 65536
CHUNK_BYTES = 2**20
"""Written at a time: a single write of a whole array has been seen to take six times as long, in the kernel."""
PARTS = ("tokens", "row_ptr", "segments")


def token_dtype(vocab_size: int) -> np.dtype:
    """The dtype of token ids on disk: uint16 while every id fits (vocab_size <= 65536), else uint32."""
    return np.dtype(np.uint16 if vocab_size <= LARGEST_UINT16_VOCAB else np.uint32)


def write_shard(
    corpus: Path, split: str, name: str, tokens: np.ndarray, row_ptr: np.ndarray, segments: np.ndarray
) -> ShardInfo:
    """Write one shard's three files; each appears whole and flushed to the disk, or not at all.

    Args:
        corpus: the corpus directory; `corpus/split` must exist.
        split: "train", "valid" or "test".
        name: the shard's name, "00000".
        tokens: uint16 or uint32 [rows, sequence_length + 1].
        row_ptr: int64 [rows + 1].
        segments: int32 [segments, 2].
    """
    arrays = {
        "tokens": tokens,
        "row_ptr": row_ptr.astype(np.int64, copy=False),
        "segments": segments.astype(np.int32, copy=False),
    }
    files = {}
    for part, array in arrays.items():
        relative = f"{split}/{name}.{part}.npy"
        files[relative] = write_array(corpus / relative, array)
    starts, prefixes = segments[:, 0].astype(np.int64), segments[:, 1]
    ends = np.append(starts[1:], tokens.shape[1])
    ends[row_ptr[1:] - 1] = tokens.shape[1]
    lengths = ends - starts
    is_text = prefixes != PADDING
    return ShardInfo(
        name=name,
        rows=len(tokens),
        segments=len(segments),
        tokens=int(lengths[is_text].sum()),
        targets=int((lengths - np.maximum(prefixes, 1))[is_text].sum()),
        padding=int(lengths[~is_text].sum()),
        files=files,
    )


def write_array(path: Path, array: np.ndarray) -> FileInfo:
    """Write `array` as .npy, atomically, and return the size and SHA-256 of what was written."""
    digest = hashlib.sha256()
    with atomic_write(path) as file:
        for part in npy_parts(array):
            for begin in range(0, len(part), CHUNK_BYTES):
                chunk = part[begin : begin + CHUNK_BYTES]
                file.write(chunk)
                digest.update(chunk)
        size = file.tell()
    return FileInfo(size=size, sha256=digest.hexdigest())


def npy_parts(array: np.ndarray) -> tuple[bytes, memoryview]:
    """Header and content of the array's .npy file; `numpy.save` to a full disk raises an error without a number."""
    array = np.ascontiguousarray(array)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    return header.getvalue(), array.reshape(-1).view(np.uint8).data


@dataclass(frozen=True)
class Row:
    """One packed row.

    Attributes:
        tokens: uint16 or uint32 [sequence_length + 1], a read-only view of the mapped file.
        segments: int32 [k, 2], (first column, prefix length) in column order; a segment ends where the next one starts,
            the last one at sequence_length + 1. A last segment with prefix length -1 is padding.
    """

    tokens: np.ndarray
    segments: np.ndarray


class _MappedShard:
    """The three files of a shard."""

    def __init__(self, where: Path, info: ShardInfo) -> None:
        self.tokens, self.row_ptr, self.segments = (MappedArray(where / f"{info.name}.{part}.npy") for part in PARTS)
        tokens, shapes = self.tokens.array, (self.row_ptr.array.shape, self.segments.array.shape)
        is_whole = tokens.ndim == 2 and len(tokens) == info.rows and tokens.size == info.tokens + info.padding
        if not is_whole or shapes != ((info.rows + 1,), (info.segments, 2)):
            raise DataError(
                "the arrays' shapes are not those of the manifest",
                where=where / f"{info.name}.*.npy",
                remedy="run `foreword verify` on the corpus",
            )

    def row(self, local: int) -> Row:
        row_ptr = self.row_ptr.array
        return Row(self.tokens.array[local], self.segments.array[row_ptr[local] : row_ptr[local + 1]])


class Split:
    """The rows of one split in shard order; a shard's files are mapped at its first use."""

    def __init__(self, corpus: Path, name: str, info: SplitInfo) -> None:
        self.name = name
        self.info = info
        self.corpus = corpus
        self._first_row = [0, *accumulate(shard.rows for shard in info.shards)]
        self._mapped: dict[int, _MappedShard] = {}

    def __len__(self) -> int:
        return self._first_row[-1]

    def row(self, index: int) -> Row:
        """The row at `index` in [0, len(split)).

        Raises:
            IndexError: the index is outside.
            DataError: a shard's file is not what the manifest says.
        """
        shard, local = self._place(index)
        return shard.row(local)

    def rows(self, indices: Sequence[int]) -> list[Row]:
        """The rows at `indices`, anywhere in the split: read from the disk together and not one after another.

        Raises as `row` does.
        """
        places = [self._place(index) for index in indices]
        for shard, local in places:
            shard.row_ptr.expect(local, local + 2)
            shard.tokens.expect(local, local + 1)
        for shard, local in places:
            shard.segments.expect(*shard.row_ptr.array[local : local + 2].tolist())
        return [shard.row(local) for shard, local in places]

    def locate(self, index: int) -> tuple[ShardInfo, int]:
        """The shard that the row at `index` in [0, len(split)) lies in, and its number there."""
        shard = bisect_right(self._first_row, index) - 1
        return self.info.shards[shard], index - self._first_row[shard]

    def __getstate__(self) -> dict:
        # a data-loader worker maps the files itself; pickling a mapping would copy the shard
        return {**self.__dict__, "_mapped": {}}

    def _place(self, index: int) -> tuple[_MappedShard, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of split {self.name!r}, which has {len(self)} rows")
        shard = bisect_right(self._first_row, index) - 1
        if shard not in self._mapped:
            self._mapped[shard] = _MappedShard(self.corpus / self.name, self.info.shards[shard])
        return self._mapped[shard], index - self._first_row[shard]


@dataclass(frozen=True)
class Corpus:
    """A finished corpus directory.

    Attributes:
        path: the directory.
        manifest: what it says about itself.
        manifest_sha256: hex hash of manifest.json; it stands for every byte of the corpus.
    """

    path: Path
    manifest: Manifest
    manifest_sha256: str

    @classmethod
    def open(cls, path: str | Path) -> "Corpus":
        """Open a corpus: read the manifest and compare every file's size with it (no file is read).

        Raises:
            DataError: no corpus, an invalid manifest, or a file that is missing or has another size.
        """
        path = Path(path)
        content = read_manifest_bytes(path)
        manifest = Manifest.parse(content, path)
        problems = [problem for name, info in manifest.files().items() if (problem := size_problem(path / name, info))]
        if problems:
            more = f" (and {len(problems) - 1} more files)" if len(problems) > 1 else ""
            remedy = f"run `foreword verify {path}` for the whole list; copy or prepare the corpus again"
            raise DataError(f"{problems[0]}{more}", remedy=remedy)
        return cls(path, manifest, hashlib.sha256(content).hexdigest())

    def split(self, name: str) -> Split:
        """The rows of split `name`.

        Raises:
            ConfigError: the corpus has no such split.
        """
        if name not in self.manifest.splits:
            known = ", ".join(self.manifest.splits) or "none"
            raise ConfigError(f"the corpus has no split {name!r}; it has: {known}", where=self.path)
        return Split(self.path, name, self.manifest.splits[name])

    def token_bytes(self) -> np.ndarray:
        """How many UTF-8 bytes of text each id stands for, 0 for special ids: int32 [vocab_size]."""
        return np.array(MappedArray(self.path / TOKENIZER_DIRECTORY / TOKEN_BYTES_NAME).array)


def size_problem(path: Path, info: FileInfo) -> str | None:
    """What is wrong with a file's presence or size, naming the file; None when it has the expected size."""
    try:
        size = path.stat().st_size
    except OSError as error:
        return f"{path}: {(error.strerror or str(error)).lower()}"
    if size != info.size:
        return f"{path}: {size:,} bytes where the manifest says {info.size:,}"
    return None
