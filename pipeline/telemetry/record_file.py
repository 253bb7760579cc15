"""metrics.jsonl as a file: it only ever grows, line by line, and by one process at a time.

On a full disk a run goes on: its records wait in memory, in order, until there is room again.
"""

import errno
import json
import os
import shutil
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from foreword.console import warn
from foreword.errors import MachineError
from foreword.files import TEMPORARY_PREFIX, fsync_directory

TAIL_BYTES = 2**20  # far longer than a record
NEWLINE = b"\n"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


class RecordFile:
    """A file of records, one JSON object a line; a line that a killed process left unfinished is cut off first.

    A new file with the old one's whole records takes its name: a process that was cut off from the run, and has the old
    one open, goes on writing to a file without a name.

    Args:
        path: the file.
        directory: where the new file is made: on the same file system, and gone for whoever has lost the run.

    Raises:
        MachineError: the file cannot be written. `write` and `flush` raise it too, `write` not for a full disk.
    """

    def __init__(self, path: Path, directory: Path) -> None:
        self._path = path
        self._waiting = b""  # what the disk had no room for
        new = directory / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}-{path.name}"
        with ExitStack() as stack:
            try:
                # unbuffered, so that what is written has been written, or is known not to be
                self._file = stack.enter_context(new.open("xb", buffering=0))
                stack.callback(new.unlink, missing_ok=True)
                if path.exists():
                    with path.open("rb") as former:
                        shutil.copyfileobj(former, self._file)
                    _cut_unfinished_line(new)
                    self._file.seek(0, os.SEEK_END)
                os.fsync(self._file.fileno())
                new.replace(path)
                fsync_directory(path.parent)
            except OSError as error:
                raise self._unwritable(error) from None
            stack.pop_all()

    def write(self, record: dict[str, Any]) -> None:
        """Append a record; while the disk is full it waits."""
        self._waiting += json.dumps(record).encode() + NEWLINE
        told = self._waiting.count(NEWLINE) > 1
        try:
            self.flush()
        except MachineError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in _NO_ROOM:
                raise
            if not told:
                warn(f"{self._path}: no room for records, which wait for it while training goes on")

    def flush(self) -> None:
        """Write what waits."""
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Write what waits, if there is room now, and close the file."""
        with self._file:
            try:
                self.flush()
            except MachineError as error:
                warn(f"{self._waiting.count(NEWLINE)} records are lost: {error}")

    def _unwritable(self, error: OSError) -> MachineError:
        remedy = "earlier checkpoints are untouched; once it can be, the same command continues"
        return MachineError(f"cannot be written: {error.strerror}", where=self._path, remedy=remedy)


def _cut_unfinished_line(path: Path) -> None:
    """Of a process that was killed; the ends of records are looked for no further back than a record is long."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        tail = file.read()
        file.truncate(size - len(tail) + tail.rfind(NEWLINE) + 1)
