"""Files that sources read: paths, globs and URLs, and compression told by the name's ending.

Promise: a truncated or damaged compressed file raises `DamagedFile`; it never just ends early.
"""

import bz2
import gzip
import hashlib
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from data_prep.sources import InputFile
from data_prep.sources.remote import find_remote, is_remote, open_remote, sha256_from_store
from foreword.errors import ConfigError, DataError
from foreword.files import sha256_of

COMPRESSED_ENDINGS = (".gz", ".zst", ".bz2", ".xz")


class DamagedFile(Exception):  # noqa: N818 - it is caught and turned into a bad record, never shown as it is
    """A compressed file that is truncated or not what its name says."""


def find_files(patterns: str | list[str]) -> list[InputFile]:
    """Paths, globs and URLs -> existing files: the patterns in the order given, the files of a glob in name order.

    A file that several patterns name counts once.

    Raises:
        ConfigError: a pattern that matches no file.
        MachineError: a store that cannot be reached.
    """
    found: dict[str, InputFile] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matches = find_remote(pattern) if is_remote(pattern) else _find_local(pattern)
        if not matches:
            raise ConfigError("no such input file", where=pattern, remedy="check `path` in the source's configuration")
        for file in matches:
            found.setdefault(file.path, file)
    return list(found.values())


def sha256_of_input(path: str) -> str:
    """Hex SHA-256 of a file's bytes as they are stored; behind a URL it is read through, unless the store knows it."""
    if not is_remote(path):
        return sha256_of(Path(path))
    if (known := sha256_from_store(path)) is not None:
        return known
    with open_remote(path) as file:
        return hashlib.file_digest(cast(io.RawIOBase, file), "sha256").hexdigest()


def is_compressed(path: str) -> bool:
    """Whether the name ends as a compressed file's does."""
    return path.endswith(COMPRESSED_ENDINGS)


def byte_ranges(path: str, size_bytes: int, slice_bytes: int) -> list[tuple[int, int]]:
    """Ranges of about `slice_bytes` of a plain file; a compressed file, which is read from its start, is one range."""
    if is_compressed(path) or size_bytes == 0:
        return [(0, size_bytes)]
    return [(begin, min(begin + slice_bytes, size_bytes)) for begin in range(0, size_bytes, slice_bytes)]


@contextmanager
def open_input(path: str) -> Iterator[BinaryIO]:
    """Open a file for reading bytes, decompressed.

    Raises:
        DataError: it cannot be opened or read.
        DamagedFile: while reading, when the compressed stream is truncated or damaged.
    """
    with open_measured(path) as (file, _):
        yield file


@contextmanager
def open_measured(path: str) -> Iterator[tuple[BinaryIO, Callable[[], int]]]:
    """As `open_input`, with a function that says up to which byte the stored file has been read."""
    try:
        with open_stored(path) as stored, _decompressed(path, stored) as file:
            yield file, stored.tell
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DamagedFile(f"the compressed file is damaged or truncated: {error}") from None
    except OSError as error:
        if error.errno is None and is_compressed(path):  # how Arrow and bz2 tell of a damaged stream
            raise DamagedFile(f"the compressed file is damaged or truncated: {error}") from None
        raise DataError(f"cannot be read: {error.strerror or error}", where=path) from None


@contextmanager
def arrow_errors(path: str, kind: str) -> Iterator[None]:
    """Name what Arrow raises while it reads a file that should be of this kind ("a Parquet file").

    Raises:
        DamagedFile: it is not, or it is damaged.
        DataError: it cannot be read.
    """
    try:
        yield
    # MemoryError: a damaged length; KeyError: a type that pyarrow has no name for
    except (pa.ArrowException, UnicodeDecodeError, MemoryError, KeyError) as error:
        raise DamagedFile(f"not {kind}, or damaged: {error}") from None
    except OSError as error:
        if error.errno is None:  # Arrow's word for damage
            raise DamagedFile(f"not {kind}, or damaged: {error}") from None
        raise DataError(f"cannot be read: {error.strerror or error}", where=path) from None


def open_stored(path: str) -> BinaryIO:
    """Open a file for reading its bytes as they are stored.

    Raises:
        DataError: behind a URL, now or while reading: it cannot be read.
        OSError: on this machine.
    """
    return open_remote(path) if is_remote(path) else cast(BinaryIO, Path(path).open("rb", buffering=0))


def _decompressed(path: str, stored: BinaryIO) -> BinaryIO:
    if path.endswith(".gz"):
        return cast(BinaryIO, gzip.open(stored, "rb"))
    if path.endswith(".bz2"):
        return cast(BinaryIO, bz2.open(stored, "rb"))
    if path.endswith(".xz"):
        return cast(BinaryIO, lzma.open(stored, "rb"))
    if path.endswith(".zst"):
        return pa.input_stream(stored, compression="zstd")
    return stored


def _find_local(pattern: str) -> list[InputFile]:
    try:
        matches = [pattern] if Path(pattern).exists() else _glob(pattern)
        stats = [(path, Path(path).stat()) for path in matches if Path(path).is_file()]
    except (OSError, ValueError) as error:  # ValueError: a glob that makes no sense
        raise ConfigError(f"cannot be read: {error}", where=pattern, remedy="check `path`") from None
    return [InputFile(path, stat.st_size, f"mtime_ns={stat.st_mtime_ns}") for path, stat in stats]


def _glob(pattern: str) -> list[str]:
    """Matches in name order; `**` stands for any number of directories."""
    anchor = Path(pattern).anchor
    return sorted(str(path) for path in Path(anchor or ".").glob(pattern.removeprefix(anchor)))
