"""Bytes in memory -> a file on the disk and its SHA-256, at the same time and in bounded steps."""

import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CHUNK_BYTES = 2**24


def write_and_hash(path: Path, content: memoryview, cancelled: threading.Event) -> str | None:
    """Write a new file, flush it to the disk, and hash what was written meanwhile.

    Both release the interpreter's lock, so the thread that trains hardly notices.

    Args:
        path: the file.
        content: its bytes, which must not change before this returns.
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
    with path.open("wb", buffering=0) as file:
        for chunk in _chunks(content):
            if cancelled.is_set():
                return
            written = 0
            while written < len(chunk):
                written += file.write(chunk[written:])
        os.fsync(file.fileno())


def _sha256(content: memoryview, *ends: threading.Event) -> str:
    digest = hashlib.sha256()
    for chunk in _chunks(content):
        if any(end.is_set() for end in ends):
            break
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(content: memoryview) -> Iterator[memoryview]:
    return (content[start : start + CHUNK_BYTES] for start in range(0, len(content), CHUNK_BYTES))
