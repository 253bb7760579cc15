"""What happened to the jobs of a run or a corpus, one JSON object a line, in DIRECTORY/slurm/.

    slurm/jobs.jsonl        what `foreword submit` and `foreword cancel` did, and what a training job says of itself
    slurm/12_3.jsonl        what a job of a preparation says of itself: one file each, because many write at once

An event has `time` (seconds since the epoch), `job_id` (12, or 12_3 for an element of an array; none for a job that
sbatch has refused), `restart` (how often the job had come back from the queue), `event` (refused, submitted, started,
stopped, requeued, crashed, hung, preflight_failed, finished, failed, gave_up or cancelled) and, where they are known,
`reason`, `exit_code`, `nodes` and `next_start_delay_s`; `submitted` also has `kind`, and `after`: the job that it waits
for. The end of a start of training has `checkpoint_step`, that of the newest complete checkpoint then, and `requeued`
the nodes that are `excluded`.
"""

import json
import os
import re
import time
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from foreword.console import warn

JOBS_DIRECTORY = "slurm"
JOBS_NAME = "jobs.jsonl"
_OF_ONE_JOB = re.compile(r"\d+(_\d+)?\.jsonl")


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value or []


class JobEvent(BaseModel):
    """One thing that happened to a job; see the module."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    time: float
    job_id: str = ""
    event: str
    restart: int = 0
    reason: str | None = None
    exit_code: int | None = None
    nodes: Annotated[list[str], BeforeValidator(_as_list)] = []
    next_start_delay_s: float | None = None
    kind: str | None = None
    after: str | None = None
    checkpoint_step: int | None = None
    excluded: list[str] = []


def read_events(directory: Path) -> list[JobEvent]:
    """Everything that happened to the jobs of a run or a corpus, in the order of time.

    A line that is not an event is named in a warning and passed over, so that what else is known can be told.
    """
    events: list[JobEvent] = []
    jobs = directory / JOBS_DIRECTORY
    for path in sorted(jobs.iterdir()) if jobs.is_dir() else ():
        if path.name != JOBS_NAME and not _OF_ONE_JOB.fullmatch(path.name):
            continue
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            try:
                events.append(JobEvent.model_validate_json(line))
            except ValidationError:
                warn(f"{path}:{number}: not an event of a job")
    return sorted(events, key=lambda event: event.time)


def append_event(directory: Path, job_id: str, event: str, **facts: Any) -> None:
    """Add an event that happens now to DIRECTORY/slurm/jobs.jsonl.

    Raises:
        OSError: it cannot be written.
    """
    record = {"time": round(time.time(), 3), "job_id": job_id, "event": event, **facts}
    (directory / JOBS_DIRECTORY).mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory / JOBS_DIRECTORY / JOBS_NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(descriptor, (json.dumps(record) + "\n").encode())
    finally:
        os.close(descriptor)
