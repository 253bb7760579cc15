"""Which checkpoints of a run stay: the last k, every n-th, and the best by validation loss; the rest is removed.

The newest complete checkpoint always stays, and what is not complete is left alone: it does not count, and a person may
want it. How a checkpoint is removed so that no half of one is ever seen: see `workspace`.
"""

from collections.abc import Callable
from pathlib import Path

from foreword.console import warn
from pipeline.checkpoint.find import complete_checkpoints
from pipeline.checkpoint.meta import read_meta
from pipeline.config.run import CheckpointConfig


def apply_retention(run_dir: Path, config: CheckpointConfig, remove: Callable[[Path], None]) -> list[Path]:
    """Let `remove` remove the checkpoints that `config` does not keep; returns those that are gone, oldest first.

    One that cannot be removed (OSError) is named in a warning: training goes on.
    """
    complete = complete_checkpoints(run_dir)
    kept = steps_to_keep({step: read_meta(path).validation_loss for step, path in complete}, config)
    removed = []
    for step, path in complete:
        if step in kept:
            continue
        try:
            remove(path)
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
