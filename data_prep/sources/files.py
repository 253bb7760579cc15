"""Files that sources read: globs, and compression told by the name's ending.

Promise: a truncated or damaged compressed file raises `DamagedFile`; it never just ends early.
"""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from data_prep.sources import InputFile
from foreword.errors import ConfigError, DataError

COMPRESSED_ENDINGS = (".gz", ".zst", ".bz2", ".xz")


class DamagedFile(Exception):  # noqa: N818 - it is caught and turned into a bad record, never shown as it is
    """A compressed file that is truncated or not what its name says."""


def find_files(patterns: str | list[str]) -> list[InputFile]:
    """Paths and globs -> existing files: the patterns in the order given, the files of a glob in name order, each once.

    Raises:
        ConfigError: a pattern that matches no file.
    """
    found: list[str] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        candidates = [pattern] if Path(pattern).exists() else _glob(pattern)
        matches = [path for path in candidates if Path(path).is_file()]
        if not matches:
            raise ConfigError("no such input file", where=pattern, remedy="check `path` in the source's configuration")
        found += matches
    stats = {path: Path(path).stat() for path in found}
    return [InputFile(path, stat.st_size, f"mtime_ns={stat.st_mtime_ns}") for path, stat in stats.items()]


def is_compressed(path: str) -> bool:
    """Whether the name ends as a compressed file's does."""
    return path.endswith(COMPRESSED_ENDINGS)


@contextmanager
def open_input(path: str) -> Iterator[BinaryIO]:
    """Open a file for reading bytes, decompressed.

    Raises:
        DataError: it cannot be opened or read.
        DamagedFile: while reading, when the compressed stream is truncated or damaged.
    """
    try:
        with _open(path) as file:
            yield file
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DamagedFile(f"the compressed file is damaged or truncated: {error}") from None
    except OSError as error:
        if error.errno is None and is_compressed(path):  # how Arrow and bz2 tell of a damaged stream
            raise DamagedFile(f"the compressed file is damaged or truncated: {error}") from None
        raise DataError(f"cannot be read: {error.strerror or error}", where=path) from None


def _open(path: str) -> BinaryIO:
    if path.endswith(".gz"):
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.endswith(".bz2"):
        return cast(BinaryIO, bz2.open(path, "rb"))
    if path.endswith(".xz"):
        return cast(BinaryIO, lzma.open(path, "rb"))
    if path.endswith(".zst"):
        return pa.input_stream(path, compression="zstd")
    return cast(BinaryIO, Path(path).open("rb", buffering=0))


def _glob(pattern: str) -> list[str]:
    """Matches in name order; `**` stands for any number of directories."""
    anchor = Path(pattern).anchor
    return sorted(str(path) for path in Path(anchor or ".").glob(pattern.removeprefix(anchor)))
