"""`foreword job`: what the scripts of `foreword submit` call on the nodes. Text in, text and exit codes out."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from foreword.errors import EXIT_BUG, EXIT_HUNG, EXIT_STOPPED


@click.group()
def job() -> None:
    """What the scripts of `foreword submit` call on the nodes: nothing that a person needs to type."""


def _limits(command: Callable[..., Any]) -> Callable[..., Any]:
    options = (
        click.option("--max-restarts", type=int, required=True, help="How often the job comes back in all."),
        click.option("--max-failures", type=int, required=True, help="In a row without a new checkpoint."),
        click.option("--delay-s", type=float, required=True, help="Before the start after the first of them."),
    )
    for option in options:
        command = option(command)
    return command


@job.command()
@click.argument("run", type=click.Path(path_type=Path))
@_limits
def begin(run: Path, max_restarts: int, max_failures: int, delay_s: float) -> None:
    """Write down that a start begins. Standard input: the nodes of the partition, from sinfo."""
    from foreword.console import say
    from slurm.job.bookkeeping import ThisStart
    from slurm.job.bookkeeping import begin as write_down
    from slurm.job.cluster_state import read_nodes
    from slurm.job.policy import Limits

    start = ThisStart.of(run)
    given_up = write_down(start, read_nodes(sys.stdin), Limits(max_restarts, max_failures, delay_s))
    if given_up is not None:
        say(f"foreword job {start.job_id}: {given_up.words}")
        sys.exit(EXIT_BUG)


@job.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--exit-code", type=int, required=True, help="Of srun.")
@click.option("--preflight-failed", is_flag=True, help="It did not come to training.")
@click.option("--state", required=True, help="What `scontrol show job --oneliner` says.")
@_limits
def end(
    run: Path, exit_code: int, preflight_failed: bool, state: str, max_restarts: int, max_failures: int, delay_s: float
) -> None:
    """Write down how a start ended, and print what to do. Standard input: the nodes of the partition, from sinfo.

    The first word is end, requeue (with scontrol), adjust (it is in the queue already) or cancel; the others are
    settings of the next start for `scontrol update`.
    """
    from foreword.console import say
    from slurm.job.bookkeeping import ThisStart
    from slurm.job.bookkeeping import end as write_down
    from slurm.job.cluster_state import JobState, read_nodes
    from slurm.job.policy import Limits

    start = ThisStart.of(run)
    instruction = write_down(
        start,
        exit_code=exit_code,
        preflight_failed=preflight_failed,
        job=JobState.read(state, start.restarts),
        nodes=read_nodes(sys.stdin),
        limits=Limits(max_restarts, max_failures, delay_s),
    )
    decision = instruction.decision
    delay = f", not before {decision.delay_s:g} s from now" if decision.delay_s else ""
    say(f"foreword job {start.job_id}: {decision.words}{delay}")
    click.echo(instruction.line())


@job.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("event")
@click.argument("reason")
def note(run: Path, event: str, reason: str) -> None:
    """Write down that something happened to the job."""
    from slurm.job.bookkeeping import ThisStart

    ThisStart.of(run).note(event, reason=reason)


@job.command()
def port() -> None:
    """Print a port of this node that stays free for a minute."""
    from slurm.job.port import reserve_port

    click.echo(reserve_port())


@job.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--gpus", type=int, required=True, help="That each node should have.")
@click.option("--needs-bytes", type=int, required=True, help="Of space in the run's directory.")
@click.option("--timeout-s", type=float, required=True, help="When to give up.")
def look(run: Path, gpus: int, needs_bytes: int, timeout_s: float) -> None:
    """A task of the preflight: look at this node and at the network, and print what is found."""
    from slurm.job.bookkeeping import ThisStart
    from slurm.preflight.report import probe_directory
    from slurm.preflight.task import run_task

    start = ThisStart.of(run)
    probe = probe_directory(run, start.job_id, start.restarts)
    run_task(os.environ, gpus=gpus, needs_bytes=needs_bytes, probe=probe, timeout_s=timeout_s)


@job.command()
@click.argument("run", type=click.Path(path_type=Path))
def preflight(run: Path) -> None:
    """Compare what the tasks of the preflight say on standard input.

    Exit codes: 75 when they were told to stop, 76 when the job should start elsewhere.
    """
    began = time.monotonic()
    from foreword.console import say, warn
    from slurm.job.bookkeeping import ThisStart
    from slurm.preflight.report import (
        hear,
        judge,
        probe_directory,
        remove_probe,
        result_path,
        was_stopped,
        write_report,
    )

    start = ThisStart.of(run)
    others: list[str] = []

    def pass_on(line: str) -> None:
        others.append(line)
        say(line)

    arrived = list(hear(sys.stdin, pass_on))
    seen = remove_probe(probe_directory(run, start.job_id, start.restarts))
    if was_stopped(others):
        say("the preflight was told to stop")
        sys.exit(EXIT_STOPPED)
    report = judge(start.nodes, arrived, seen, round(time.monotonic() - began, 1))
    say(report.table())
    try:
        write_report(result_path(run, start.job_id, start.restarts), report)
    except OSError as error:
        warn(f"{run}: the result of the preflight cannot be written: {error.strerror}")
    if not report.ok:
        sys.exit(EXIT_HUNG)
