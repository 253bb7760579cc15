"""Which checkpoint of a run to use: the newest complete one, with a word about every broken one that is passed over."""

import re
from collections.abc import Callable
from pathlib import Path

from foreword.console import warn
from foreword.errors import CheckpointError
from pipeline.checkpoint.headers import header_problems
from pipeline.checkpoint.meta import META_NAME, CheckpointMeta, damage, read_meta

CHECKPOINTS = "checkpoints"
_STEP = re.compile(r"step_(\d{8,})")


def step_directory(run_dir: Path, step: int) -> Path:
    """Where the checkpoint after `step` optimizer steps lies."""
    return run_dir / CHECKPOINTS / f"step_{step:08d}"


def complete_checkpoints(run_dir: Path, report: Callable[[str], None] | None = None) -> list[tuple[int, Path]]:
    """(step, directory) of the run's complete checkpoints, oldest first.

    Complete means: foreword.json is there and every file has the size it names. `report` hears of each that is not.
    """
    complete = []
    for step, path in all_checkpoints(run_dir):
        problem = first_problem(path)
        if problem is None:
            complete.append((step, path))
        elif report:
            report(f"checkpoint passed over: {problem}")
    return complete


def all_checkpoints(run_dir: Path) -> list[tuple[int, Path]]:
    """(step, directory) of everything in a run that has a checkpoint's name, oldest first."""
    named = [(_STEP.fullmatch(path.name), path) for path in (run_dir / CHECKPOINTS).glob("step_*")]
    return sorted((int(match[1]), path) for match, path in named if match)


def is_checkpoint(path: Path) -> bool:
    """Whether `path` is a checkpoint, whole or not, rather than a run directory."""
    return (path / META_NAME).is_file() or _STEP.fullmatch(path.name) is not None


def newest_complete(run_dir: Path) -> Path | None:
    """The newest complete checkpoint of a run with intact headers, or None; others are named in warnings."""
    for _, checkpoint in reversed(complete_checkpoints(run_dir, warn)):
        problems = header_problems(checkpoint, read_meta(checkpoint))
        if not problems:
            return checkpoint
        warn(f"checkpoint passed over: {problems[0]}")
    return None


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that `path` means: itself, or the newest complete one of the run directory.

    Raises:
        CheckpointError: there is none, or it is not intact as far as sizes and headers tell.
    """
    if is_checkpoint(path):
        problem = first_problem(path) or next(iter(header_problems(path, read_meta(path))), None)
        if problem:
            raise CheckpointError(problem, remedy="use another checkpoint; `foreword verify` names every problem")
        return path
    newest = newest_complete(path)
    if newest is None:
        raise CheckpointError("neither a checkpoint nor a run with a complete one", where=path, remedy="check the path")
    return newest


def first_problem(checkpoint: Path) -> str | None:
    """Why a checkpoint is not complete, as far as file sizes tell, or None."""
    try:
        meta = read_meta(checkpoint)
    except CheckpointError as error:
        return str(error).splitlines()[0]
    problems = name_problems(checkpoint, meta) or damage(checkpoint, meta)
    return problems[0] if problems else None


def name_problems(checkpoint: Path, meta: CheckpointMeta) -> list[str]:
    """A line if the directory has the name of another step's checkpoint."""
    name = _STEP.fullmatch(checkpoint.name)
    if name is None or int(name[1]) == meta.progress.step:
        return []
    return [f"{checkpoint}: this is the checkpoint of step {meta.progress.step} under another name"]
