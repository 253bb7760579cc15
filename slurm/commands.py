"""`foreword submit` and `foreword doctor`: arguments in, text out; the work is done in the other rooms."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.start_options import start_options
from pipeline.run.start import Start

if TYPE_CHECKING:
    from slurm.submit import Prepared

CONFIG = click.Path(path_type=Path)
_OPTIONS = (
    click.option("--cluster", required=True, type=CONFIG, help="A file like configs/cluster/*.yaml."),
    click.option("--dry-run", is_flag=True, help="Print the scripts and the plan; change nothing."),
)


def _submit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _tasks_option(command: Callable[..., Any]) -> Callable[..., Any]:
    shares = "Into how many tasks the input is divided, each an element of a job array."
    return click.option("--tasks", required=True, type=click.IntRange(min=1), help=shares)(command)


def _verify_option(command: Callable[..., Any]) -> Callable[..., Any]:
    text = "Compare every hash of the corpora before anything is submitted; else their files' sizes."
    return click.option("--verify-corpus", is_flag=True, help=text)(command)


@click.group()
def submit() -> None:
    """Render sbatch scripts from configs, check what can be checked, and submit them.

    The plan goes to standard error. With --dry-run the scripts go to standard output, without it the jobs' numbers, one
    a line. `foreword status`, `foreword logs` and `foreword cancel` take the run or corpus from there.
    """


@submit.command()
@click.argument("config", type=CONFIG)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@_submit_options
@_verify_option
@start_options
def train(
    config: Path, overrides: tuple[str, ...], cluster: Path, dry_run: bool, verify_corpus: bool, start: Start
) -> None:
    """Submit `foreword train CONFIG` to Slurm, one process per GPU, resuming by itself.

    KEY=VALUE overrides the training configuration, cluster.KEY=VALUE the cluster's (for example cluster.nodes=4).
    --from, --fresh and --no-resume are for the job's first start; when it comes back from the queue, it resumes.
    """
    from slurm.training import prepare_training

    _hand_over(prepare_training(config, cluster, overrides, Path.cwd(), start, verify_corpus), dry_run)


@submit.command()
@click.argument("config", type=CONFIG)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@_tasks_option
@_submit_options
def prep(config: Path, overrides: tuple[str, ...], tasks: int, cluster: Path, dry_run: bool) -> None:
    """Submit `foreword prep CONFIG` as a job array of --tasks elements, and a job that finishes the corpus.

    KEY=VALUE overrides the preparation's configuration, cluster.KEY=VALUE the cluster's (for example
    cluster.prep.time_limit=2:00:00). Given again, it submits what is not done yet. Each job starts as many workers as
    it has CPUs, unless workers=N is given here.
    """
    from slurm.preparation import prepare_preparation

    _hand_over(prepare_preparation(config, cluster, overrides, tasks, Path.cwd()), dry_run)


@submit.command("all")
@click.argument("prep_config", type=CONFIG)
@click.argument("train_config", type=CONFIG)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@_tasks_option
@_submit_options
@start_options
def submit_all(
    prep_config: Path,
    train_config: Path,
    overrides: tuple[str, ...],
    tasks: int,
    cluster: Path,
    dry_run: bool,
    start: Start,
) -> None:
    """Submit everything from raw text to a trained model: tokenizer, preparation, training, each after the other.

    What is there already is left out. Overrides say which configuration they belong to: prep.KEY=VALUE,
    train.KEY=VALUE or cluster.KEY=VALUE. When a job is refused, those before it are taken back.
    """
    from slurm.preparation import prepare_all

    _hand_over(prepare_all(prep_config, train_config, cluster, overrides, tasks, Path.cwd(), start), dry_run)


def _hand_over(prepared: "Prepared", dry_run: bool) -> None:
    from foreword.console import say, warn
    from slurm.submit import submit as put_into_queue

    for plan in prepared.plans:
        say(plan.describe())
        if dry_run and (estimate := plan.estimate()):
            say(estimate)
    for warning in prepared.warnings:
        warn(warning)
    if dry_run:
        for job in prepared.jobs:
            click.echo(job.script, nl=False)
        return
    for job, number in zip(prepared.jobs, put_into_queue(prepared.jobs), strict=True):
        say(f"{job.kind:<11}job {number}, script {job.script_path}, log {job.log(number)}")
        click.echo(number)


@click.command()
def doctor() -> None:
    """Show what this machine has and what is missing; exit 0 when training here can work, 2 when not."""
    from slurm.doctor import can_train, examine, table

    findings = examine(Path.cwd())
    click.echo(table(findings))
    if not can_train(findings):
        sys.exit(2)
