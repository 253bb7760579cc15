"""Where one start of a run prepares checkpoints and discards them; taken away from it when another start takes over.

    run/checkpoints/.tmp-000012/step_00001000/    being written by the run's twelfth start
    run/checkpoints/step_00001000/                published: moved here in one piece

Every change to the published checkpoints is one rename into or out of the workspace. A start first renames and removes
the workspaces of all earlier ones, and only then looks for the checkpoint to continue from. So a process that was cut
off, whatever it had checked before it fell asleep, either published before that look or cannot any more: its renames
name a directory that is gone, and nothing creates it again.
"""

import re
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

from foreword.errors import CheckpointError
from foreword.files import TEMPORARY_PREFIX, fsync_directory
from pipeline.checkpoint.find import CHECKPOINTS, step_directory
from pipeline.checkpoint.meta import META_NAME

_WORKSPACE = re.compile(re.escape(TEMPORARY_PREFIX) + r"(\d{6,})")


class Workspace:
    """The workspace of start `number` of a run.

    Attributes:
        path: its directory; `open` creates it, on one rank, before any rank uses it.
    """

    def __init__(self, run_dir: Path, number: int) -> None:
        self.run_dir = run_dir
        self.path = run_dir / CHECKPOINTS / f"{TEMPORARY_PREFIX}{number:06d}"

    def open(self) -> None:
        """Create the directory, empty.

        Raises:
            CheckpointError: it cannot be created.
        """
        try:
            if self.path.exists():  # of a time before somebody removed the run's lease, and its numbers began again
                _remove(self.path.replace(self.path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")))
            self.path.mkdir(parents=True)
        except OSError as error:
            raise CheckpointError(f"cannot be created: {error.strerror}", where=self.path) from None

    def close(self) -> None:
        """Remove the directory with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def prepare(self, step: int) -> Path:
        """The directory in which the checkpoint of `step` is written; any rank may create it.

        Raises:
            OSError: it cannot be created.
        """
        path = self._prepared(step)
        path.mkdir(exist_ok=True)  # without its parents: the workspace of a process that was cut off stays away
        return path

    def publish(self, step: int) -> Path:
        """Make what was prepared for `step` a checkpoint, in place of one that has its name; returns its path.

        Raises:
            OSError: the workspace was taken away, or the file system refused.
        """
        final = step_directory(self.run_dir, step)
        if final.exists():  # a broken checkpoint, or one that this run has passed again
            self.discard(final)
        self._prepared(step).replace(final)
        fsync_directory(final.parent)
        return final

    def discard(self, checkpoint: Path) -> None:
        """Remove a checkpoint: out of sight at once, then marker first.

        Raises:
            OSError: the workspace was taken away, or the file system refused; the checkpoint is as it was.
        """
        doomed = checkpoint.replace(self.path / f"{uuid.uuid4().hex}-{checkpoint.name}")
        fsync_directory(checkpoint.parent)
        _remove(doomed)

    def abandon(self, step: int) -> None:
        """Remove what was prepared for `step`."""
        _remove(self._prepared(step))

    def _prepared(self, step: int) -> Path:
        return self.path / step_directory(self.run_dir, step).name


def remove_leftovers(run_dir: Path, number: int) -> list[Path]:
    """Take the workspaces of all starts before start `number` away from them; returns those that held something.

    Raises:
        OSError: one of them cannot be taken away.
    """
    leftovers = []
    for path in sorted((run_dir / CHECKPOINTS).glob(f"{TEMPORARY_PREFIX}*")):
        match = _WORKSPACE.fullmatch(path.name)
        if match is not None and int(match[1]) >= number:
            continue
        if not path.is_dir() or any(path.iterdir()):
            leftovers.append(path)
        # renamed first: what is half removed must not be published by a process that wakes up in this moment
        _remove(path.replace(path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")))
    return leftovers


def _remove(path: Path) -> None:
    with suppress(OSError):  # it had none
        (path / META_NAME).unlink()
    shutil.rmtree(path, ignore_errors=True)
