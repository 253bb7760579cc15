"""The options of `foreword train` and `foreword submit train` about the checkpoints that are there."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from pipeline.run.start import Start

_OPTIONS = (
    click.option(
        "--from", "from_step", type=click.IntRange(min=1), metavar="STEP", help="Go back to the checkpoint of STEP."
    ),
    click.option("--fresh", is_flag=True, help="Begin at step 0; what the run directory holds is set aside."),
    click.option("--no-resume", is_flag=True, help="Refuse to start when there is a checkpoint to resume from."),
    click.option("--verify", is_flag=True, help="Compare every hash of the checkpoint before it is used."),
)


def start_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command, which gets them together as its argument `start`."""

    @wraps(command)
    def with_start(*, from_step: int | None, fresh: bool, no_resume: bool, verify: bool, **others: Any) -> Any:
        return command(start=Start(from_step, fresh, no_resume, verify), **others)

    for option in reversed(_OPTIONS):
        with_start = option(with_start)
    return with_start
