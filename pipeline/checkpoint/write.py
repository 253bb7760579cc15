"""Bytes in memory -> a file on the disk and its SHA-256, at the same time and in bounded steps.

The bytes go to the disk without a stop in the system's page cache where the file system can do that (O_DIRECT): nobody
will read them soon, and copying them once more would take processor time and memory from training. Where it was
measured, a checkpoint was written several times faster for it (see docs/benchmarks.md).
"""

import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CHUNK_BYTES = 2**24
ALIGNMENT_BYTES = 4096  # of addresses, offsets and lengths, for what bypasses the page cache; no disk asks for more
_DIRECT = getattr(os, "O_DIRECT", 0)
_NOT_DIRECT = {errno.EINVAL, errno.EOPNOTSUPP}  # what a file system answers that cannot do that


def write_and_hash(path: Path, content: memoryview, cancelled: threading.Event) -> str | None:
    """Write a new file, flush it to the disk, and hash what was written meanwhile.

    Both release the interpreter's lock, so the thread that trains hardly notices.

    Args:
        path: the file.
        content: its bytes, which must not change before this returns. They are written fastest from an address that is
            a multiple of `ALIGNMENT_BYTES`.
        cancelled: when set, the file is given up.

    Returns:
        The hex SHA-256 of `content`; None when it was cancelled, and then there is no file.

    Raises:
        OSError: the file cannot be written; what there was of it is removed, to make room.
    """
    given_up = threading.Event()
    with ThreadPoolExecutor(1, "checkpoint-hash") as pool:
        sha256 = pool.submit(_sha256, content, cancelled, given_up)
        try:
            _write(path, content, cancelled)
        except BaseException:
            given_up.set()
            path.unlink(missing_ok=True)
            raise
        digest = sha256.result()
    if cancelled.is_set():
        path.unlink(missing_ok=True)
        return None
    return digest


def _write(path: Path, content: memoryview, cancelled: threading.Event) -> None:
    descriptor = _open(path)
    try:
        for chunk in _chunks(content):
            if cancelled.is_set():
                return
            while len(chunk):
                chunk = chunk[_write_some(descriptor, chunk) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        return os.open(path, flags | _DIRECT, 0o666)
    except OSError as error:
        if error.errno not in _NOT_DIRECT:
            raise
        return os.open(path, flags, 0o666)  # a file system in memory, for one


def _write_some(descriptor: int, chunk: memoryview) -> int:
    """Write the beginning of `chunk`; returns how many bytes."""
    aligned = len(chunk) // ALIGNMENT_BYTES * ALIGNMENT_BYTES
    try:
        if aligned:
            return os.write(descriptor, chunk[:aligned])
    except OSError as error:
        if error.errno not in _NOT_DIRECT:
            raise
    # the end of the file, or memory or a file system that does not allow it otherwise
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~_DIRECT)
    return os.write(descriptor, chunk)


def _sha256(content: memoryview, *ends: threading.Event) -> str:
    digest = hashlib.sha256()
    for chunk in _chunks(content):
        if any(end.is_set() for end in ends):
            break
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(content: memoryview) -> Iterator[memoryview]:
    return (content[start : start + CHUNK_BYTES] for start in range(0, len(content), CHUNK_BYTES))
