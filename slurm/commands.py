"""`foreword submit` and `foreword doctor`: arguments in, text out; the work is done in the other rooms."""

import sys
from pathlib import Path

import click

from pipeline.commands.start_options import start_options
from pipeline.start import Start


@click.group()
def submit() -> None:
    """Render an sbatch script from a config and submit it.

    Training can be submitted so far. Preparation as a job array is not there yet: run `foreword prep` inside a job of
    your own.
    """


@submit.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--cluster", required=True, type=click.Path(path_type=Path), help="A file like configs/cluster/*.yaml.")
@click.option("--dry-run", is_flag=True, help="Print the script and the plan; change nothing.")
@start_options
def train(config: Path, overrides: tuple[str, ...], cluster: Path, dry_run: bool, start: Start) -> None:
    """Submit `foreword train CONFIG` to Slurm, one process per GPU, resuming by itself.

    KEY=VALUE overrides the training configuration, cluster.KEY=VALUE the cluster's (for example cluster.nodes=4). The
    script goes to standard output with --dry-run, the job's number without. --from, --fresh and --no-resume are for the
    job's first start; when it comes back from the queue, it resumes.
    """
    from foreword.console import say
    from slurm.submit import prepare_training
    from slurm.submit import submit as hand_over

    submission = prepare_training(config, cluster, overrides, Path.cwd(), start)
    say(submission.plan.describe())
    if dry_run:
        click.echo(submission.script, nl=False)
        return
    number = hand_over(submission)
    say(f"script     {submission.script_path}")
    say(f"log        {submission.script_path.parent / f'{number}.log'}")
    click.echo(number)


@click.command()
def doctor() -> None:
    """Show what this machine has and what is missing; exit 0 when training here can work, 2 when not."""
    from slurm.doctor import can_train, examine, table

    findings = examine(Path.cwd())
    click.echo(table(findings))
    if not can_train(findings):
        sys.exit(2)
