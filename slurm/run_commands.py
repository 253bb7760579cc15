"""`foreword status`, `report`, `cancel` and `logs`: what a person asks about a run or a corpus."""

import sys
from contextlib import suppress
from pathlib import Path

import click

DIRECTORY = click.Path(path_type=Path)


@click.command()
@click.argument("run", required=False, type=DIRECTORY)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: an object, or without RUN a list of them.")
def status(run: Path | None, as_json: bool) -> None:
    """Show how far RUN is, what its jobs do, and what happened to them; RUN is the directory of a run or a corpus.

    It works without Slurm too. Without RUN: one line for each run and corpus that has jobs of yours in the queue.
    """
    from slurm import show_status
    from slurm.clients import own_jobs
    from slurm.status import status_of

    if run is not None:
        found = status_of(run.absolute())
        click.echo(show_status.as_json(show_status.facts(found)) if as_json else show_status.describe(found))
        return
    jobs = own_jobs()
    directories = dict.fromkeys(job.directory for job in jobs if job.directory and job.directory.is_dir())
    statuses = [status_of(directory, [job for job in jobs if job.directory == directory]) for directory in directories]
    if as_json:
        click.echo(show_status.as_json([show_status.facts(status) for status in statuses]))
    elif statuses:
        click.echo(show_status.overview(statuses))
    else:
        click.echo("no job of yours in the queue was submitted by Foreword", err=True)


@click.command()
@click.argument("run", type=DIRECTORY)
def report(run: Path) -> None:
    """Write RUN/report.html, one page that needs no network.

    It shows curves, restarts with their reasons, where the time went, what the model wrote, the data and the
    configuration of RUN.
    """
    from pipeline.report.run_page import write_report
    from slurm.events import read_events

    click.echo(write_report(run, [event.model_dump(exclude_defaults=True) for event in read_events(run)]))


@click.command()
@click.argument("run", type=DIRECTORY)
@click.option("--now", is_flag=True, help="Do not wait for a save: what was done since the last checkpoint is lost.")
def cancel(run: Path, now: bool) -> None:
    """End the jobs of RUN, the directory of a run or a corpus; they save first and do not come back.

    Jobs that wait leave the queue. `foreword submit` continues later from where they ended.
    """
    from slurm.cancel import cancel as cancel_jobs
    from slurm.status import kind_of

    run = run.absolute()
    kind_of(run)
    count = 0
    for job, done in cancel_jobs(run, at_once=now):
        click.echo(f"job {job.job_id} ({job.state}): {done}")
        count += 1
    if not count:
        click.echo(f"{run}: no job of it is in the queue", err=True)


@click.command()
@click.argument("run", type=DIRECTORY)
@click.option("--follow", "-f", is_flag=True, help="Go on with what is written next, over restarts and new jobs.")
@click.option("--job", metavar="N", help="Of this job; of an array also N_K, its element K.")
@click.option("--lines", "-n", type=click.IntRange(min=1), help="Begin with the last so many lines.")
def logs(run: Path, follow: bool, job: str | None, lines: int | None) -> None:
    """Print the log that a job of RUN wrote to last; RUN is the directory of a run or a corpus."""
    from slurm import logs as written
    from slurm.status import kind_of

    run = run.absolute()
    kind_of(run)

    def announce(log: Path) -> None:
        click.echo(f"==> {log}", err=True)

    if follow:
        chunks = written.follow(run, job, lines, announce)
    else:
        log = written.require_log(run, job)
        announce(log)
        chunks = written.read_log(log, lines)
    with suppress(KeyboardInterrupt):  # the reader has seen enough
        for chunk in chunks:
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
