"""The `foreword train` command."""

import os
import sys
from time import perf_counter
from typing import TYPE_CHECKING

import click

from pipeline.commands.start_options import start_options
from pipeline.run.start import Start

if TYPE_CHECKING:
    from pipeline.config.train import TrainConfig
    from pipeline.plan.hardware import Hardware

BEGAN = perf_counter()  # this module is imported when the command is called
PROFILED_STEPS = 3


class _TrainCommand(click.Command):
    """Takes `--profile` with a number or without one, wherever it stands."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give a bare --profile its number: what follows it may be CONFIG or an override."""
        for index, word in enumerate(args):
            if word == "--profile" and not "".join(args[index + 1 : index + 2]).isdigit():
                args = [*args[:index], f"--profile={PROFILED_STEPS}", *args[index + 1 :]]
        return super().parse_args(ctx, args)


@click.command(cls=_TrainCommand)
@click.argument("config", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--processes", type=click.IntRange(min=1), help="Start this many processes on this machine.")
@click.option(
    "--profile",
    "profile_steps",
    type=click.IntRange(min=1),
    metavar="[STEPS]",
    help=f"Look at this many steps ({PROFILED_STEPS}) with torch's profiler; traces go to RUN/profile.",
)
@click.option("--dry-run", is_flag=True, help="Print the configuration and a plan, or what cannot work; start nothing.")
@click.option("--world-size", type=click.IntRange(min=1), help="How many processes the plan is for.")
@click.option(
    "--network",
    metavar="NAME|GBIT,US",
    help="Predict the time of a step: hdr200, ndr400, ethernet-400g or -100g, or Gbit/s a GPU and microseconds.",
)
@click.option("--gpu", help="a100, h100 or h200, for --network.  [default: h100]")
@click.option("--gpus-per-node", type=click.IntRange(min=1), help="For --network.  [default: 8]")
@click.option(
    "--utilisation",
    type=click.FloatRange(min=0, min_open=True, max=1),
    help="Share of its peak that a GPU's arithmetic reaches, for --network.",
)
@start_options
def train(
    config: str,
    overrides: tuple[str, ...],
    processes: int | None,
    profile_steps: int | None,
    dry_run: bool,
    world_size: int | None,
    network: str | None,
    gpu: str | None,
    gpus_per_node: int | None,
    utilisation: float | None,
    start: Start,
) -> None:
    """Train as CONFIG says, continuing from the run's newest complete checkpoint.

    --from, --fresh and --no-resume exclude each other. A Slurm job that is restarted with one of them goes on from what
    it has done since.

    Run it alone, with --processes on one machine, under torchrun, or under srun. Exit codes: 0 finished, 2 usage or
    configuration, 3 data or checkpoint not intact, 75 stopped on a signal with a checkpoint (run me again), 76 the
    processes did not come together, or one of them did not go on.

    With --dry-run the resolved configuration goes to standard output and the plan to standard error: parameters, batch,
    steps, FLOPs, memory of one GPU by part, checkpoints; for --world-size processes, which need not be here. With
    --network it also predicts the time of a step and of the run, and what each GPU sends.
    """
    if world_size is not None and not dry_run:
        raise click.UsageError("--world-size goes with --dry-run; --processes starts processes")
    if network is not None and not dry_run:
        raise click.UsageError("--network goes with --dry-run")
    if network is None and (gpu, gpus_per_node, utilisation) != (None, None, None):
        raise click.UsageError("--gpu, --gpus-per-node and --utilisation go with --network")
    if profile_steps is not None and dry_run:
        raise click.UsageError("--profile looks at steps, and --dry-run takes none")
    if dry_run and start not in (Start(), Start(fresh=True)):
        raise click.UsageError("--dry-run goes with --fresh, but with no other option about checkpoints")
    from foreword.config import dump_config, load_config
    from foreword.console import say
    from foreword.errors import ForewordError
    from pipeline.config.train import TrainConfig
    from pipeline.distributed.placement import find_placement
    from pipeline.run.stop import StopRequest

    resolved = load_config(config, overrides, TrainConfig)
    if dry_run:
        placement = find_placement(os.environ)
        if placement.rank == 0:
            hardware = None
            if network is not None:
                from pipeline.plan.hardware import Hardware, gpu_named, network_named

                hardware = Hardware(gpu_named(gpu or "h100"), gpus_per_node or 8, network_named(network))
            _show_plan(resolved, world_size or processes or placement.world_size, start, hardware, utilisation)
        return
    if processes is not None:
        from pipeline.distributed.launch import launch

        profile = [] if profile_steps is None else [f"--profile={profile_steps}"]
        sys.exit(launch(["train", *start.arguments(), *profile, config, *overrides], processes))
    is_main = find_placement(os.environ).rank == 0
    if is_main:
        say(dump_config(resolved))

    try:
        with StopRequest() as stop:  # from now on: the import takes seconds, and a signal in them is no crash
            from pipeline.train import train as run

            run(resolved, start, stop=stop, profile_steps=profile_steps, began=BEGAN)
    except ForewordError as error:
        if error.on_all_ranks and not is_main and error.__cause__ is None:
            sys.exit(error.exit_code)  # rank 0 says it for all; but a bug is shown where it happened
        raise


def _show_plan(
    config: "TrainConfig", world_size: int, start: Start, hardware: "Hardware | None", utilisation: float | None
) -> None:
    from foreword.config import dump_config
    from foreword.console import say
    from pipeline.data.corpora import open_corpora
    from pipeline.plan.prediction import describe_prediction, predict
    from pipeline.plan.run_plan import RunData, describe_beginning, describe_needs, describe_run, plan_run

    corpora = open_corpora(config)
    plan = plan_run(config, RunData.of(corpora, config), world_size)
    beginning = describe_beginning(config, corpora, fresh=start.fresh)
    click.echo(dump_config(config), nl=False)
    say(f"processes  {world_size}, one a GPU")
    say(f"{describe_run(plan)}\n           {beginning}\n{describe_needs(plan)}")
    if hardware is not None:
        say(describe_prediction(predict(plan, hardware, utilisation)))
