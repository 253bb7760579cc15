"""Which checkpoints of a run stay: the last k, every n-th, and the best by validation loss; the rest is removed.

A checkpoint is removed marker first, so that one which is being removed is never taken for a whole one. The newest
complete checkpoint always stays, and what is not complete is left alone: it does not count, and a person may want it.
"""

import shutil
import uuid
from contextlib import suppress
from pathlib import Path

from foreword.console import warn
from foreword.files import TEMPORARY_PREFIX, fsync_directory
from pipeline.checkpoint.find import complete_checkpoints
from pipeline.checkpoint.meta import META_NAME, read_meta
from pipeline.config import CheckpointConfig


def apply_retention(run_dir: Path, config: CheckpointConfig) -> list[Path]:
    """Remove the checkpoints that `config` does not keep; returns those that were removed, oldest first.

    One that cannot be removed is named in a warning: training goes on.
    """
    complete = complete_checkpoints(run_dir)
    kept = steps_to_keep({step: read_meta(path).validation_loss for step, path in complete}, config)
    removed = []
    for step, path in complete:
        if step in kept:
            continue
        try:
            remove_checkpoint(path)
            removed.append(path)
        except OSError as error:
            warn(f"{path}: an old checkpoint that could not be removed: {error.strerror}")
    return removed


def steps_to_keep(losses: dict[int, float | None], config: CheckpointConfig) -> set[int]:
    """Of the complete checkpoints (step -> validation loss where one was measured) those that stay."""
    kept = set(sorted(losses)[-config.keep_last :])
    if config.keep_every_steps is not None:
        kept |= {step for step in losses if step % config.keep_every_steps == 0}
    measured = {step: loss for step, loss in losses.items() if loss is not None}
    if config.keep_best and measured:
        kept.add(min(measured, key=lambda step: (measured[step], step)))
    return kept


def remove_checkpoint(path: Path) -> None:
    """Remove one checkpoint, marker first; what a kill leaves of it has the name of a temporary directory.

    Raises:
        OSError: it cannot be removed.
    """
    with suppress(FileNotFoundError, IsADirectoryError):  # it had no marker
        (path / META_NAME).unlink()
    fsync_directory(path)
    doomed = path.replace(path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}-{path.name}"))
    shutil.rmtree(doomed)
