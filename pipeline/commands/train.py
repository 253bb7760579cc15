"""The `foreword train` command."""

import os
import sys
from time import perf_counter

import click

from pipeline.commands.start_options import start_options
from pipeline.start import Start

BEGAN = perf_counter()  # this module is imported when the command is called


@click.command()
@click.argument("config", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--processes", type=click.IntRange(min=1), help="Start this many processes on this machine.")
@start_options
def train(config: str, overrides: tuple[str, ...], processes: int | None, start: Start) -> None:
    """Train as CONFIG says, continuing from the run's newest complete checkpoint.

    --from, --fresh and --no-resume exclude each other. A Slurm job that is restarted with one of them goes on from what
    it has done since.

    Run it alone, with --processes on one machine, under torchrun, or under srun. Exit codes: 0 finished, 2 usage or
    configuration, 3 data or checkpoint not intact, 75 stopped on a signal with a checkpoint (run me again).
    """
    from foreword.config import dump_config, load_config
    from foreword.console import say
    from foreword.errors import ForewordError
    from pipeline.config import TrainConfig
    from pipeline.distributed.placement import find_placement

    resolved = load_config(config, overrides, TrainConfig)
    if processes is not None:
        from pipeline.distributed.launch import launch

        sys.exit(launch(["train", *start.arguments(), config, *overrides], processes))
    is_main = find_placement(os.environ).rank == 0
    if is_main:
        say(dump_config(resolved))

    from pipeline.train import train as run

    try:
        run(resolved, start, began=BEGAN)
    except ForewordError as error:
        if error.on_all_ranks and not is_main and error.__cause__ is None:
            sys.exit(error.exit_code)  # rank 0 says it for all; but a bug is shown where it happened
        raise
