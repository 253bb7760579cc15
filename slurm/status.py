"""What a person asks about a run or a corpus: its state and why, how far it is, its jobs and what happened to them.

What comes in: a directory, and Slurm's queue where there is one. What goes out: `Status`. Promise: nothing is changed;
without Slurm, or when it does not answer, what the directory tells is told.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_prep.manifest import MANIFEST_NAME, Manifest
from data_prep.plan import PLAN_NAME
from data_prep.work import WORK_DIRECTORY
from data_prep.work_progress import PrepProgress
from data_prep.work_progress import read_progress as read_prep_progress
from foreword.console import warn
from foreword.errors import ConfigError, DataError, MachineError
from pipeline.checkpoint.find import CHECKPOINTS
from pipeline.run.lease import LEASE
from pipeline.run.progress import CONFIG_NAME, RunProgress
from pipeline.run.progress import read_progress as read_run_progress
from pipeline.telemetry.metrics import METRICS_NAME
from slurm import clients
from slurm.clients import EndedJob, QueuedJob
from slurm.events import JOBS_DIRECTORY, JobEvent, read_events
from slurm.logs import last_error, log_of

Kind = Literal["run", "corpus"]
OF_A_RUN = (METRICS_NAME, LEASE, CHECKPOINTS, CONFIG_NAME)
OF_A_CORPUS = (MANIFEST_NAME, f"{WORK_DIRECTORY}/{PLAN_NAME}")
WORK_IS_FRESH_S = 120.0  # a preparation outside of Slurm counts as running when it finished something so recently
# events that end a job's start, and what the run is called after them
ENDS = {"failed": "failed", "gave_up": "failed", "stopped": "stopped", "cancelled": "cancelled"}
STARTS_AGAIN = ("requeued", "crashed", "hung", "preflight_failed")


@dataclass(frozen=True)
class Status:
    """See the module.

    Attributes:
        state: running, starting, queued, finished, failed, stopped, cancelled, interrupted (its process is gone without
            a word), unfinished (a corpus on which nobody works), or new.
        reason: why, where there is something to say.
        run, prep, manifest: how far it is; the manifest is a finished corpus's.
        jobs: those that the queue shows.
        events: what happened to its jobs.
    """

    directory: Path
    kind: Kind
    state: str
    reason: str | None
    run: RunProgress | None
    prep: PrepProgress | None
    manifest: Manifest | None
    jobs: tuple[QueuedJob, ...]
    events: tuple[JobEvent, ...]


def status_of(directory: Path, queued: Sequence[QueuedJob] | None = None) -> Status:
    """The status of a run or corpus.

    Args:
        directory: the run's or the corpus's.
        queued: what the queue shows of it, when that was asked for already.

    Raises:
        ConfigError: there is no such directory.
        DataError: it is neither a run nor a corpus, or cannot be read.
    """
    try:
        return _status_of(directory, queued)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=error.filename or directory) from None


def _status_of(directory: Path, queued: Sequence[QueuedJob] | None) -> Status:
    kind, happened = kind_of(directory), read_events(directory)
    events = [event for event in happened if event.job_id]
    ended: list[EndedJob] = []
    known: list[QueuedJob] = list(queued or ())
    if events and queued is None:
        try:
            known = clients.jobs_by_id(event.job_id for event in events)
        except MachineError as error:
            warn(f"what Slurm knows is missing: {error}")
    live = tuple(sorted((job for job in known if job.is_live), key=_place))
    if events and not live:
        last_id = events[-1].job_id
        ended = [EndedJob(job.job_id, job.state, 0) for job in known if job.job_id == last_id]
        ended = ended or [job for job in clients.accounted_jobs([last_id]) if job.job_id == last_id]
    if kind == "run":
        run = read_run_progress(directory)
        state, reason = _state_of_run(directory, run, live, events, ended)
        reason = _with_refusal(reason, happened)
        return Status(directory, kind, state, reason, run, None, None, live, tuple(happened))
    manifest = Manifest.load(directory) if (directory / MANIFEST_NAME).is_file() else None
    prep = read_prep_progress(directory) if manifest is None else None
    state, reason = _state_of_corpus(directory, manifest, prep, live, events, ended)
    reason = _with_refusal(reason, happened)
    return Status(directory, kind, state, reason, None, prep, manifest, live, tuple(happened))


def _with_refusal(reason: str | None, happened: Sequence[JobEvent]) -> str | None:
    """The reason, and that sbatch refused the last submission, if it did."""
    if not happened or happened[-1].event != "refused":
        return reason
    return "; ".join(filter(None, [reason, f"not submitted: {happened[-1].reason}"]))


def _place(job: QueuedJob) -> tuple[bool, list[int]]:
    """Running jobs before waiting ones, each by their numbers."""
    return job.is_waiting, [int(number) for number in job.job_id.split("_") if number.isdecimal()]


def kind_of(directory: Path) -> Kind:
    """What a directory holds, or will hold once its first job has started.

    Raises:
        ConfigError: there is no such directory.
        DataError: neither a run nor a corpus.
    """
    if not directory.is_dir():
        raise ConfigError("no such directory", where=directory, remedy="give the directory of a run or a corpus")
    if any((directory / name).exists() for name in OF_A_CORPUS):
        return "corpus"
    if any((directory / name).exists() for name in OF_A_RUN):
        return "run"
    scripts = {path.name.partition("-")[0] for path in (directory / JOBS_DIRECTORY).glob("*.sbatch")}
    if not scripts:
        raise DataError("neither a run nor a corpus", where=directory, remedy="check the path")
    return "run" if "train" in scripts else "corpus"


def _state_of_run(
    directory: Path,
    run: RunProgress,
    live: Sequence[QueuedJob],
    events: Sequence[JobEvent],
    ended: Sequence[EndedJob],
) -> tuple[str, str | None]:
    waiting = [job for job in live if job.is_waiting]
    working = [job for job in live if not job.is_waiting]
    if working and not (run.is_finished and working[0].state == "COMPLETING"):
        began = max((event.time for event in events if event.event == "started"), default=0.0)
        if run.is_held or (run.recorded or 0.0) > began:
            return "running", None
        return "starting", None
    if waiting:
        return "queued", _why_it_waits(waiting[0], events)
    if run.is_held:
        return "running", f"{run.holder.claim}" if run.holder else None
    if run.is_finished:
        return "finished", None
    return _state_without_jobs(directory, events, ended) or _state_without_slurm(run)


def _state_without_slurm(run: RunProgress) -> tuple[str, str | None]:
    last = run.events[-1] if run.events else None
    if last is None:
        return ("interrupted", "its process is gone without a word") if run.holder else ("new", None)
    if last["event"] == "stop":
        return "stopped", f"{last['reason']} after step {last['step']}; the same command continues"
    return "interrupted", "its process is gone without a word; the same command continues from the newest checkpoint"


def _state_of_corpus(
    directory: Path,
    manifest: Manifest | None,
    prep: PrepProgress | None,
    live: Sequence[QueuedJob],
    events: Sequence[JobEvent],
    ended: Sequence[EndedJob],
) -> tuple[str, str | None]:
    if manifest is not None:
        return "finished", None
    if any(not job.is_waiting for job in live):
        return "running", None
    if live:
        return "queued", _why_it_waits(live[0], events)
    if prep is not None and prep.changed is not None and time.time() - prep.changed < WORK_IS_FRESH_S and not events:
        return "running", "something was finished a moment ago"
    return _state_without_jobs(directory, events, ended) or ("unfinished", None)


def _state_without_jobs(
    directory: Path, events: Sequence[JobEvent], ended: Sequence[EndedJob]
) -> tuple[str, str | None] | None:
    """What became of the jobs that were submitted last, now that none is in the queue; None when they ended well."""
    recent = _of_last_submission(events)
    if not recent:
        return None
    latest = {event.job_id: event for event in recent}
    failures = [event for event in recent if event is latest[event.job_id] and event.event in ("failed", "gave_up")]
    event = failures[0] if failures else recent[-1]  # later failures may follow from the first
    if event.event in ENDS:
        said = last_error(log_of(directory, event.job_id)) if failures else None
        reason = f"job {event.job_id}: {event.reason or event.event}" + (f"\n{said}" if said else "")
        was_cancelled = any(other.event == "cancelled" and other.job_id == event.job_id for other in recent)
        return "cancelled" if was_cancelled and not failures else ENDS[event.event], reason
    found = f"({ended[0].state if ended else 'Slurm has forgotten how'})"
    if event.event == "submitted":
        waited = f", which waited for job {event.after}," if event.after else ""
        return "failed", f"job {event.job_id}{waited} left the queue without a start {found}"
    if event.event == "finished":
        return None
    return "interrupted", f"job {event.job_id} ended without a word {found}"


def _of_last_submission(events: Sequence[JobEvent]) -> list[JobEvent]:
    """The events of the job, or of the chain of jobs, that was submitted last; of other jobs when none was.

    It goes by the jobs' numbers: the clocks of login and compute nodes may differ.
    """
    submitted = [event for event in events if event.event == "submitted"]
    numbers = {event.job_id for event in submitted}
    begin = max((at for at, event in enumerate(submitted) if event.after not in numbers), default=0)
    former = {event.job_id for event in submitted[:begin]}
    return [event for event in events if event.job_id.partition("_")[0] not in former]


def _why_it_waits(job: QueuedJob, events: Sequence[JobEvent]) -> str | None:
    again = [event for event in events if event.event in STARTS_AGAIN and event.reason]
    number = job.job_id.partition("_")[0]
    after = [event.after for event in events if event.event == "submitted" and event.job_id == number]
    why = f"for job {after[-1]}" if job.reason == "Dependency" and after else f"({job.reason})" if job.reason else ""
    words = [f"job {job.job_id} waits {why}".rstrip()]
    if job.starts:
        words.append(f"expected to start at {job.starts}")
    if again and again[-1].job_id.partition("_")[0] == number:
        words.append(f"it was put back because: {again[-1].reason}")
    return "; ".join(words)
