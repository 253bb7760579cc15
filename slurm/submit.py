"""Rendered jobs -> jobs in the queue.

Promise: a job works with the configuration as it was at submission, however often it comes back from the queue: the
resolved configuration is written beside the script under its own hash, and the script names that file. Of a chain of
jobs either all are in the queue in the end, or none.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from foreword.console import say
from foreword.errors import ConfigError, ForewordError, MachineError
from foreword.files import atomic_write
from slurm import clients
from slurm.events import append_event, read_events

Kind = Literal["tokenizer", "prep", "finish", "train"]
CLUSTER_PREFIX = "cluster."


@dataclass(frozen=True)
class Submission:
    """A job that is ready to be submitted.

    Attributes:
        kind: what it does; "prep" is the job array of tasks.
        directory: the run or corpus it works on.
        script, script_path: its script, and where that is kept.
        resolved_config, resolved_config_path: the configuration it works with, and where that is kept.
        log_name: of its log beside the script; JOB stands for its number.
        waits: for what end of the job before it in a chain it waits: its success, or any.
    """

    kind: Kind
    directory: Path
    script: str
    script_path: Path
    resolved_config: str
    resolved_config_path: Path
    log_name: str = "JOB.log"
    waits: Literal["afterok", "afterany"] = "afterok"

    def log(self, number: str) -> Path:
        """Where the job's log will be; of an array, a pattern."""
        return self.script_path.parent / self.log_name.replace("JOB", number)


class Plan(Protocol):
    """What is going to be done, for a person."""

    def describe(self) -> str:
        """One line a topic."""

    def estimate(self) -> str:
        """What it will take and give, about; this may take some seconds."""


@dataclass(frozen=True)
class Prepared:
    """Plans that passed their checks, and their jobs in the order in which each waits for the one before it."""

    plans: tuple[Plan, ...]
    jobs: tuple[Submission, ...]
    warnings: tuple[str, ...] = ()


def split_overrides(overrides: Sequence[str], *prefixes: str) -> dict[str, list[str]]:
    """Sort `key=value` texts by the prefix of their key, which is taken away; "" has those with none of them."""
    found: dict[str, list[str]] = {"": [], **{prefix: [] for prefix in prefixes}}
    for text in overrides:
        prefix = next((prefix for prefix in prefixes if text.startswith(prefix)), "")
        found[prefix].append(text.removeprefix(prefix))
    return found


def submit(jobs: Sequence[Submission]) -> list[str]:
    """Write scripts and configurations and hand the jobs to sbatch, each waiting for the one before it.

    Returns:
        The jobs' numbers.

    Raises:
        MachineError: there is no sbatch here, or it refused a job; its own words are in the message. What had been
            submitted before is cancelled.
        ConfigError: a directory cannot be written, or jobs that work on it are in the queue.
    """
    if not clients.is_here("sbatch"):
        raise MachineError(
            "there is no sbatch on this machine", remedy="submit from a login node of the cluster, or use --dry-run"
        )
    for directory in dict.fromkeys(job.directory for job in jobs):
        refuse_jobs_at_work(directory)
    numbers: list[str] = []
    try:
        for job in jobs:
            _write(job)
            after = numbers[-1] if numbers else None
            options = [f"--dependency={job.waits}:{after}", "--kill-on-invalid-dep=yes"] if after else []
            number = clients.submit_script(job.script_path, *options)
            numbers.append(number)
            append_event(job.directory, number, "submitted", kind=job.kind, after=after)
    except (ForewordError, OSError, KeyboardInterrupt) as error:
        _take_back(jobs, numbers)
        if isinstance(error, MachineError):  # of sbatch
            refused = jobs[len(numbers)]
            with contextlib.suppress(OSError):
                append_event(refused.directory, "", "refused", kind=refused.kind, reason=error.what)
        if isinstance(error, OSError):
            raise ConfigError(f"cannot be written: {error.strerror}", where=error.filename) from None
        raise
    return numbers


def refuse_jobs_at_work(directory: Path) -> None:
    """Check that no job in the queue works on `directory`.

    Raises:
        ConfigError: there is one.
    """
    live = [job for job in clients.jobs_by_id(event.job_id for event in read_events(directory)) if job.is_live]
    if live:
        listed = ", ".join(f"{job.job_id} ({job.state})" for job in live[:5]) + (", ..." if len(live) > 5 else "")
        raise ConfigError(
            f"jobs that work on it are in the queue already: {listed}",
            where=directory,
            remedy=f"wait for them, or end them with `foreword cancel {directory}`",
        )


def _write(job: Submission) -> None:
    job.script_path.parent.mkdir(parents=True, exist_ok=True)
    for path, text in ((job.resolved_config_path, job.resolved_config), (job.script_path, job.script)):
        with atomic_write(path, "w") as file:
            file.write(text)


def _take_back(jobs: Sequence[Submission], numbers: Sequence[str]) -> None:
    """Cancel the jobs of a chain that could not be submitted to its end, the last one first."""
    for job, number in reversed(list(zip(jobs, numbers, strict=False))):
        try:
            clients.ask("scancel", number)
        except MachineError as error:
            say(f"job {number} ({job.kind}) is still in the queue: {error}")
            continue
        say(f"job {number} ({job.kind}) was taken back")
        with contextlib.suppress(OSError):
            append_event(job.directory, number, "cancelled", reason="the rest of its chain could not be submitted")
