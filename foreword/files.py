"""Writing, hashing and locking files so that a reader sees a whole file or none, and writers do not meet.

A file is written under a unique temporary name in its own directory, flushed to the disk, and renamed over its final
name; the directory is flushed too, so that the name itself survives a power cut.
"""

import errno
import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from foreword.console import warn
from foreword.errors import ConfigError

TEMPORARY_PREFIX = ".tmp-"
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


@contextmanager
def atomic_write(path: Path, mode: str = "wb") -> Iterator[IO]:
    """Open a temporary file that becomes `path` when the block ends without an exception.

    Args:
        path: final name; its directory must exist.
        mode: "wb" or "w" (UTF-8).

    On an exception the temporary file is removed and `path` is left as it was.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}-{path.name}")
    try:
        with temporary.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def fsync_directory(path: Path) -> None:
    """Make renames and new names inside `path` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path, kind: int = fcntl.LOCK_EX, refusal: str | None = None) -> Iterator[IO]:
    """Hold a lock on `path`, which is created where it is missing; it ends with the block or with the process.

    Args:
        path: the file; its directory must exist.
        kind: `fcntl.LOCK_EX` for one holder, `fcntl.LOCK_SH` for several at once.
        refusal: what to say when somebody else holds it; without it, wait.

    Raises:
        ConfigError: somebody else holds it, and there is a `refusal`.
    """
    with path.open("a") as file:
        try:
            fcntl.flock(file, kind | (fcntl.LOCK_NB if refusal else 0))
        except BlockingIOError:
            raise ConfigError(str(refusal), where=path.parent, remedy="wait for it") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            warn(f"{path.parent}: this file system has no locks, so see to it yourself that no other run works on it")
        yield file


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in bounded memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damaged_files(directory: Path, expected: Mapping[str, tuple[int, str]], *, hashes: bool) -> list[str]:
    """What is wrong with files that should be there.

    Args:
        directory: where they are.
        expected: name inside `directory` -> size in bytes and hex SHA-256.
        hashes: whether to read the files and compare hashes too, or only look at the sizes.

    Returns:
        One line per damaged file, naming it; empty when all is well.
    """
    problems = []
    whole = []
    for name, (size, _) in expected.items():
        path = directory / name
        try:
            with path.open("rb") as file:  # a file that may not be read is as good as none
                found = os.fstat(file.fileno()).st_size
        except OSError as error:
            problems.append(f"{path}: {(error.strerror or str(error)).lower()}")
            continue
        if found == size:
            whole.append(name)
        else:
            problems.append(f"{path}: {found:,} bytes where there were {size:,}")
    if hashes:
        with ThreadPoolExecutor() as pool:  # hashing releases the interpreter's lock
            checked = pool.map(lambda name: _hash_problem(directory / name, expected[name][1]), whole)
            problems += [problem for problem in checked if problem is not None]
    return problems


def _hash_problem(path: Path, expected: str) -> str | None:
    try:
        found = sha256_of(path)
    except OSError as error:
        return f"{path}: {(error.strerror or str(error)).lower()}"
    return None if found == expected else f"{path}: its SHA-256 is {found} and was {expected}"
