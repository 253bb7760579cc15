"""The logs of a run's or a corpus's jobs: which there are, what they say last, and reading along.

A job's log is DIRECTORY/slurm/JOB.log, or JOB_TASK.log for an element of an array. A job that comes back from the queue
goes on in the same file; a new submission begins another.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from foreword.errors import ConfigError, DataError
from slurm.events import JOBS_DIRECTORY

_LOG = re.compile(r"(\d+)(_\d+)?\.log")
_ERROR = re.compile(r"^foreword: .*\n(?: .*\n)*", re.MULTILINE)
TAIL_BYTES = 2**16
CHUNK_BYTES = 2**20
POLL_S = 0.5


def log_of(directory: Path, job_id: str) -> Path:
    """Where a job's log is, or will be."""
    return directory / JOBS_DIRECTORY / f"{job_id}.log"


def newest_log(directory: Path, job_id: str | None = None) -> Path | None:
    """The log that was written to last; with a `job_id`, of that job, or of all elements of that array."""
    logs = []
    for path in (directory / JOBS_DIRECTORY).glob("*.log"):
        match = _LOG.fullmatch(path.name)
        if match and job_id in (None, match[1], path.stem):
            logs.append((path.stat().st_mtime_ns, path))
    return max(logs)[1] if logs else None


def last_error(log: Path) -> str | None:
    """The last message of an error that Foreword wrote into a log, with its remedy; None when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return None
    found = _ERROR.findall(text if text.endswith("\n") else text + "\n")
    return found[-1].rstrip() if found else None


def read_log(log: Path, lines: int | None) -> Iterator[bytes]:
    """A log's bytes from its beginning, or its last `lines` lines.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with log.open("rb") as file:
            if lines is not None:
                file.seek(_start_of_last(file, lines))
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=log) from None


def follow(
    directory: Path,
    job_id: str | None,
    lines: int | None,
    announce: Callable[[Path], None],
    wait: Callable[[float], None] = time.sleep,
) -> Iterator[bytes]:
    """What is written to the newest log, for as long as somebody reads; when a newer log begins, that one's.

    Args:
        directory: the run's or the corpus's.
        job_id: see `newest_log`.
        lines: of the first log, begin with so many of its last lines; None: with its first.
        announce: called with each log before its bytes.
        wait: between two looks.
    """
    log: Path | None = None
    read_up_to: dict[Path, int] = {}  # elements of an array write to several logs at once
    while True:
        newest = newest_log(directory, job_id)
        if newest is not None:
            if log is not None and newest != log:
                yield from _rest(log, read_up_to)
            if newest != log:
                announce(newest)
                if lines is not None and log is None:
                    with newest.open("rb") as file:
                        read_up_to[newest] = _start_of_last(file, lines)
                log = newest
            yield from _rest(newest, read_up_to)
        wait(POLL_S)


def require_log(directory: Path, job_id: str | None) -> Path:
    """The newest log.

    Raises:
        ConfigError: there is none.
    """
    log = newest_log(directory, job_id)
    if log is None:
        raise ConfigError(
            f"job {job_id} has no log" if job_id else "no job has written a log",
            where=directory / JOBS_DIRECTORY,
            remedy="`foreword status` tells what its jobs do, and --follow waits for a log",
        )
    return log


def _rest(log: Path, read_up_to: dict[Path, int]) -> Iterator[bytes]:
    """What is in a log beyond what was read of it, which is noted; one that is shorter now was written anew."""
    with log.open("rb") as file:
        begin = read_up_to.get(log, 0)
        file.seek(begin if begin <= os.fstat(file.fileno()).st_size else 0)
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
        read_up_to[log] = file.tell()


def _start_of_last(file: BinaryIO, lines: int) -> int:
    """Where the last `lines` lines begin."""
    end = at = file.seek(0, os.SEEK_END)
    found = 0
    while at > 0:
        begin = max(0, at - CHUNK_BYTES)
        file.seek(begin)
        chunk = file.read(at - begin)
        place = len(chunk)
        while (place := chunk.rfind(b"\n", 0, place)) >= 0:
            if begin + place == end - 1:  # the end of the last line is not the beginning of another
                continue
            found += 1
            if found == lines:
                return begin + place + 1
        at = begin
    return 0
