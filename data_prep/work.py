"""The work directory of a preparation: what lies where, and who may work in it.

    OUTPUT/.work/lock            held by one whole run, or shared by any number of tasks
                 plan.json       what is going to be done (data_prep.plan)
                 slices/         tokenized slices
                 files/          hashes of the input files
                 dedup/          sorted hashes, and the duplicates found
                 shards/         a marker for each finished shard
                 tasks/K-of-N/   a task's own lock
                 scratch/NAME/   unfinished slices of one owner of a lock

Promise: two whole runs, or a whole run and a task, or the same task twice, never work on one output at once; what a
killed owner left unfinished is removed by the next one and by nobody else, so that it cannot be somebody's work.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from data_prep.manifest import MANIFEST_NAME
from foreword.errors import ConfigError
from foreword.files import TEMPORARY_PREFIX, locked

WORK_DIRECTORY = ".work"
JOBS_DIRECTORY = "slurm"  # in the output: scripts and logs of its jobs, which `foreword submit` puts there first of all
_WHOLE = "whole"


@dataclass(frozen=True)
class Work:
    """The work directory as one owner of a lock sees it.

    Attributes:
        root: the directory.
        scratch: where this owner writes what is not finished; nobody else does.
    """

    root: Path
    scratch: Path

    @classmethod
    def create(cls, root: Path, owner: str) -> "Work":
        """Make the directories that are not there yet."""
        work = cls(root, root / "scratch" / owner)
        for directory in (work.slices, work.files, work.dedup, work.shards, work.scratch):
            directory.mkdir(parents=True, exist_ok=True)
        return work

    @property
    def slices(self) -> Path:
        """Tokenized slices."""
        return self.root / "slices"

    @property
    def files(self) -> Path:
        """Hashes of the input files."""
        return self.root / "files"

    @property
    def dedup(self) -> Path:
        """The files of `find_duplicates`."""
        return self.root / "dedup"

    @property
    def shards(self) -> Path:
        """Markers of finished shards."""
        return self.root / "shards"

    def hash_marker(self, file: int) -> Path:
        """Where the hash of input file number `file` is written."""
        return self.files / f"{file:06d}"

    def task_counts(self) -> list[int]:
        """Each number of tasks N that a task K of N was begun with."""
        return sorted({int(path.name.partition("-of-")[2]) for path in (self.root / "tasks").glob("*-of-*")})

    @contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        """Wait for the other tasks, for the few moments in which they decide together."""
        with locked(self.root / "plan.lock", fcntl.LOCK_EX):
            yield


@contextmanager
def whole_work(output: Path) -> Iterator[Work]:
    """Create the output with its work directory and hold it alone; when it holds a corpus in the end, tidy up.

    Raises:
        ConfigError: another process works on this output, or it holds something else.
    """
    root = output / WORK_DIRECTORY
    with _held(output, fcntl.LOCK_EX, "another process is preparing this output"):
        for leftover in output.rglob(f"{TEMPORARY_PREFIX}*"):
            leftover.unlink(missing_ok=True)
        shutil.rmtree(root / "scratch", ignore_errors=True)
        yield Work.create(root, _WHOLE)
        finished = (output / MANIFEST_NAME).is_file()
        if finished:
            for path in root.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
    if finished:  # last and after the lock is closed: NFS keeps a removed file that is open under another name
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def task_work(output: Path, task: int, tasks: int) -> Iterator[Work]:
    """Create the output with its work directory and hold one task of it; other tasks may be at work beside.

    Raises:
        ConfigError: the same task or a whole run is at work on this output, or it holds something else.
    """
    root, name = output / WORK_DIRECTORY, f"{task}-of-{tasks}"
    with _held(output, fcntl.LOCK_SH, "another process is preparing or finishing this output"):
        directory = root / "tasks" / name
        directory.mkdir(parents=True, exist_ok=True)
        with locked(directory / "lock", fcntl.LOCK_EX, f"task {task} of {tasks} is running already"):
            shutil.rmtree(root / "scratch" / name, ignore_errors=True)
            yield Work.create(root, name)


def refuse_foreign_output(output: Path) -> None:
    """Check that a corpus may be made at `output`.

    Raises:
        ConfigError: something else is there.
    """
    known = (output / WORK_DIRECTORY).is_dir() or (output / MANIFEST_NAME).is_file()
    if output.is_dir() and not known and any(path.name != JOBS_DIRECTORY for path in output.iterdir()):
        raise ConfigError("the output directory is not empty and not a corpus", where=output, remedy="choose another")


@contextmanager
def _held(output: Path, kind: int, refusal: str) -> Iterator[None]:
    root = output / WORK_DIRECTORY
    refuse_foreign_output(output)
    while True:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / "lock", kind, refusal) as lock:
            if _is_at(root / "lock", lock):  # else the run that held it has finished and removed it
                yield
                return


def _is_at(path: Path, file: IO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
