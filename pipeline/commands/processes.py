"""Commands that run on one process or on several: started by themselves, with --processes, under torchrun or srun."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pipeline.distributed.parallel import Parallel

_OPTION = "--processes"
processes_option = click.option(_OPTION, type=click.IntRange(min=1), help="Start this many processes on this machine.")


class ManyProcessesCommand(click.Command):
    """A command with `processes_option`: it keeps the words that it was called with, for `start_processes`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click."""
        ctx.meta[__name__] = list(args)
        return super().parse_args(ctx, args)


def start_processes(number: int) -> None:
    """Run this command again in `number` processes, without --processes, and exit as they do."""
    from pipeline.distributed.launch import launch

    context = click.get_current_context()
    words: list[str] = context.meta[__name__]
    where = [at for at, word in enumerate(words) if word == _OPTION]
    dropped = {*where, *(at + 1 for at in where)}
    kept = [w for at, w in enumerate(words) if at not in dropped and not w.startswith(f"{_OPTION}=")]
    sys.exit(launch([str(context.info_name), *kept], number))


@contextmanager
def joined(tensor_parallel_size: int = 1) -> Iterator["Parallel"]:
    """The other processes under torchrun or srun, or a world of one. An error that all have is told once, by rank 0."""
    from foreword.errors import ForewordError
    from pipeline.distributed.parallel import initialize
    from pipeline.distributed.placement import find_placement

    parallel: Any = None
    try:
        parallel = initialize(tensor_parallel_size)
        yield parallel
    except ForewordError as error:
        if error.on_all_ranks and find_placement(os.environ).rank != 0 and error.__cause__ is None:
            sys.exit(error.exit_code)
        raise
    finally:
        if parallel is not None:
            parallel.destroy()
