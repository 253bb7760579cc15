"""How far a preparation has come, told from its output directory by somebody who has no part in it.

What comes in: the output. What goes out: `PrepProgress`. Promise: nothing is changed and no lock is taken, so looking
never gets in the way of the work; a slice counts as done by its record alone, its bytes are not read.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from data_prep.plan import Plan, read_plan
from data_prep.work import WORK_DIRECTORY, Work


@dataclass(frozen=True)
class PrepProgress:
    """What is there of a preparation that is not finished.

    Attributes:
        plan: what there is to do.
        done: numbers of the slices that are tokenized, with their files hashed.
        shards: finished shards.
        task_counts: each number of tasks N that a task K of N was begun with.
        changed: when the last slice or shard was finished, in seconds since the epoch; None before the first.
    """

    plan: Plan
    done: frozenset[int]
    shards: int
    task_counts: tuple[int, ...]
    changed: float | None

    @property
    def done_bytes(self) -> int:
        """The input that is done."""
        return sum(self.plan.slices[number].size_bytes for number in self.done)

    @property
    def size_bytes(self) -> int:
        """All of the input."""
        return sum(piece.size_bytes for piece in self.plan.slices)

    def unfinished_tasks(self, tasks: int) -> list[int]:
        """Which of `tasks` tasks still have something to do."""
        return [task for task, share in enumerate(self.plan.shares(tasks)) if not self.done.issuperset(share)]


def read_progress(output: Path) -> PrepProgress | None:
    """Look at the work directory of `output`; None when there is no work in it.

    Raises:
        DataError: its plan is not valid.
    """
    root = output / WORK_DIRECTORY
    plan = read_plan(root)
    if plan is None:
        return None
    work = Work(root, root)
    records, shards = _times(work.slices, ".json"), _times(work.shards, ".json")
    hashed = _times(work.files, "").keys()
    done = {
        number
        for number, piece in enumerate(plan.slices)
        if f"{plan.slice_name(number)}.json" in records
        and (not plan.begins_file(number) or work.hash_marker(piece.file).name in hashed)
    }
    changed = max([*records.values(), *shards.values()], default=None)
    return PrepProgress(plan, frozenset(done), len(shards), tuple(work.task_counts()), changed)


def _times(directory: Path, ending: str) -> dict[str, float]:
    """Name -> modification time; nothing when the directory is gone, as at the end of the work."""
    try:
        with os.scandir(directory) as entries:
            return {entry.name: entry.stat().st_mtime for entry in entries if entry.name.endswith(ending)}
    except FileNotFoundError:
        return {}
