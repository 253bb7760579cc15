"""A run's records and the events of its jobs -> what happened to it, in the order of time, and why it started again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.telemetry.metrics import RunMetrics

# what a job says of itself that explains why the next start was needed
ENDS_OF_A_START = {"crashed", "hung", "preflight_failed", "requeued", "stopped", "cancelled", "failed", "gave_up"}


@dataclass(frozen=True)
class Moment:
    """Something that happened to a run.

    Attributes:
        time: in seconds since the epoch.
        step: of the run; None where a job's event does not say.
        what: "start", "stop", "requeued", ...
        why: a reason, a path, a list of nodes: what is known of it.
        mark: number of the restart that this is, as charts have it; None for anything else.
    """

    time: float
    step: int | None
    what: str
    why: str
    mark: int | None = None

    @property
    def when(self) -> str:
        """Date and time, UTC."""
        return datetime.fromtimestamp(self.time, UTC).strftime("%Y-%m-%d %H:%M:%S")


def history(metrics: RunMetrics, job_events: Sequence[Mapping[str, Any]]) -> list[Moment]:
    """Starts, stops, skipped steps and failed saves of the run, and what its jobs said of themselves.

    Args:
        metrics: the run's records.
        job_events: each with `time`, `event` and what else is known, see `slurm.events`.
    """
    own = [event for event in metrics.events if event["event"] in ("start", "stop", "finish", "skipped", "failed_save")]
    of_jobs = [event for event in job_events if event["event"] not in ("submitted", "started", "finished")]
    moments, restarts, ended = [], 0, ""
    for event in sorted([*own, *of_jobs], key=lambda event: event["time"]):
        mark = None
        why = _why(event)
        if event["event"] == "start" and event.get("resumed_from"):
            restarts += 1
            mark = restarts
            why = f"from {_last_part(event['resumed_from'])}; {ended or 'the process before it ended without a word'}"
        if event["event"] == "start":
            ended = ""
        elif event["event"] == "stop" or event["event"] in ENDS_OF_A_START:
            ended = f"{event['event'].replace('_', ' ')}: {_why(event)}" if _why(event) else event["event"]
        moments.append(Moment(event["time"], event.get("step"), event["event"].replace("_", " "), why, mark))
    return moments


def wall_time_s(metrics: RunMetrics) -> float:
    """Seconds from each start to the last record before the next, summed over the starts."""
    records = sorted([*metrics.steps, *metrics.events], key=lambda record: record["time"])
    total_s, began = 0.0, None
    for record, following in zip(records, [*records[1:], None], strict=True):
        if record.get("event") == "start":
            began = record["time"]
        if began is not None and (following is None or following.get("event") == "start"):
            total_s += record["time"] - began
            began = None
    return total_s


def seconds_by_part(metrics: RunMetrics) -> dict[str, float]:
    """Part -> seconds, summed over the starts that told; see `telemetry.clock`."""
    parts: dict[str, float] = {}
    for event in metrics.events:
        if event["event"] != "summary":
            continue
        for key, value in event.items():
            if key.endswith("_s") and not key.endswith("_per_s") and key != "total_s":
                parts[key] = parts.get(key, 0.0) + value
    return parts


def _why(event: Mapping[str, Any]) -> str:
    known = [str(event[key]) for key in ("reason", "error") if event.get(key)]
    if event["event"] == "start":
        origin = event.get("origin") or {}
        known += [f"with the weights of {origin['path']}"] if origin else ["with drawn weights"]
    if event.get("rows"):
        rows = event["rows"]
        known.append(f"rows {', '.join(map(str, rows[:8]))}" + (f" and {len(rows) - 8} more" if len(rows) > 8 else ""))
    if event.get("job_id"):
        known.append(f"job {event['job_id']}" + (f" on {', '.join(event['nodes'])}" if event.get("nodes") else ""))
    return "; ".join(known)


def _last_part(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
