"""Slurm's own commands, and their answers as values.

What cannot be asked (no Slurm here, no answer in time, a refusal) is a MachineError with Slurm's own words. Nothing
else in this package starts these programs, but for the scripts on the nodes.
"""

import getpass
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from foreword.errors import MachineError
from slurm.config import TIME_LIMIT, seconds_of

COMMENT_PREFIX = "foreword:"  # what follows it in a job's comment is the run or corpus that the job works on
ANSWER_TIMEOUT_S = 30.0  # a client without a cluster tries for a minute
SEPARATOR = "\x1f"  # in no name of a job or directory: Foreword refuses control characters there
WAITING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"}
ENDED = {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE"}
ENDED |= {"OUT_OF_MEMORY", "REVOKED"}
_QUEUE_FIELDS = {"job_id": "%i", "state": "%T", "reason": "%r", "running": "%M", "left": "%L", "start": "%S"}
_QUEUE_FIELDS |= {"nodes": "%N", "name": "%j", "comment": "%k"}


@dataclass(frozen=True)
class QueuedJob:
    """A job, or an element of an array, as squeue shows it.

    Attributes:
        job_id: 12, or 12_3.
        state: RUNNING, PENDING, COMPLETED, ...
        reason: why it waits, or why it ended; None where there is nothing to say.
        running_s, left_s: time it has run for, and time it has left; None where there is no such time.
        starts: when it is expected to start, while it waits and Slurm knows.
        nodes: where it runs, as Slurm abbreviates it.
        directory: what it works on.
    """

    job_id: str
    state: str
    reason: str | None
    running_s: int | None
    left_s: int | None
    starts: str | None
    nodes: str | None
    name: str
    directory: Path | None

    @property
    def is_live(self) -> bool:
        """Whether it waits, or runs, or is about to be gone."""
        return self.state not in ENDED

    @property
    def is_waiting(self) -> bool:
        """Whether it is in the queue, for the first time or again."""
        return self.state in WAITING


@dataclass(frozen=True)
class EndedJob:
    """A job as the accounting remembers it; `exit_code` is the script's."""

    job_id: str
    state: str
    exit_code: int


def is_here(client: str) -> bool:
    """Whether this machine has one of Slurm's commands."""
    return shutil.which(client) is not None


def own_jobs() -> list[QueuedJob]:
    """This user's jobs that were submitted by Foreword, live ones only.

    Raises:
        MachineError: squeue cannot be asked.
    """
    jobs = _queue("--user", _user())
    return [job for job in jobs if job.directory is not None]


def jobs_by_id(job_ids: Iterable[str]) -> list[QueuedJob]:
    """What the controller still knows of these jobs, live or ended not long ago; elements of arrays one by one.

    Raises:
        MachineError: squeue cannot be asked.
    """
    numbers = sorted({job_id.partition("_")[0] for job_id in job_ids if job_id})
    if not numbers:
        return []
    try:
        return _queue("--states=all", "--jobs", ",".join(numbers))
    except MachineError as error:
        if "Invalid job id" in str(error):  # it has forgotten the only one that it was asked for
            return []
        raise


def accounted_jobs(job_ids: Iterable[str]) -> list[EndedJob]:
    """What the accounting remembers of these jobs; nothing where there is none."""
    numbers = sorted({job_id.partition("_")[0] for job_id in job_ids})
    if not numbers or not is_here("sacct"):
        return []
    words = ["--allocations", "--noheader", "--parsable2", f"--delimiter={SEPARATOR}", "--format=JobID,State,ExitCode"]
    try:
        answer = ask("sacct", *words, "--jobs", ",".join(numbers))
    except MachineError:  # a cluster without accounting
        return []
    rows = [line.split(SEPARATOR) for line in answer.splitlines() if line.count(SEPARATOR) == 2]
    return [EndedJob(job_id, state.partition(" ")[0], int(code.partition(":")[0])) for job_id, state, code in rows]


def has_steps(job_id: str) -> bool:
    """Whether processes that srun started are running in a job.

    Raises:
        MachineError: squeue cannot be asked.
    """
    steps = ask("squeue", "--noheader", "--steps", "--jobs", job_id, "--format=%i").split()
    return any(step.rpartition(".")[2].isdecimal() for step in steps)  # not batch, not extern


def submit_script(script: Path, *options: str) -> str:
    """Hand a script to sbatch; returns the job's number.

    Raises:
        MachineError: there is no sbatch, or it refused the job; its own words are in the message.
    """
    answer = ask("sbatch", "--parsable", *options, str(script))
    return answer.strip().partition(";")[0]  # with several clusters sbatch answers "number;cluster"


def ask(client: str, *words: str) -> str:
    """Run one of Slurm's commands and return its standard output.

    Raises:
        MachineError: it is not on this machine, did not answer, or refused.
    """
    if not is_here(client):
        remedy = "run this on a login node of the cluster"
        raise MachineError(f"there is no {client} on this machine", remedy=remedy)
    try:
        done = subprocess.run(
            [client, *words], capture_output=True, text=True, errors="replace", check=False, timeout=ANSWER_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise MachineError(f"{client} did not answer in {ANSWER_TIMEOUT_S:.0f} s", remedy="try again later") from None
    if done.returncode:
        said = done.stderr.strip() or f"exit code {done.returncode}"
        raise MachineError(f"{client} refused: {said}")
    return done.stdout


def _queue(*which: str) -> list[QueuedJob]:
    layout = SEPARATOR.join(_QUEUE_FIELDS.values())
    answer = ask("squeue", "--noheader", "--array", *which, f"--format={layout}")
    lines = [line.split(SEPARATOR) for line in answer.splitlines()]
    return [_read(line) for line in lines if len(line) == len(_QUEUE_FIELDS)]


def _read(line: Sequence[str]) -> QueuedJob:
    values = dict(zip(_QUEUE_FIELDS, line, strict=True))
    comment = values["comment"]
    started = values["state"] not in WAITING
    return QueuedJob(
        job_id=values["job_id"],
        state=values["state"],
        reason=None if values["reason"] == "None" else values["reason"],
        running_s=_seconds(values["running"]) if started else None,
        left_s=_seconds(values["left"]) if started else None,
        starts=None if started or values["start"] == "N/A" else values["start"],
        nodes=values["nodes"] or None,
        name=values["name"],
        directory=Path(comment.removeprefix(COMMENT_PREFIX)) if comment.startswith(COMMENT_PREFIX) else None,
    )


def _seconds(text: str) -> int | None:
    return seconds_of(text) if TIME_LIMIT.fullmatch(text) else None


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return str(os.getuid())
