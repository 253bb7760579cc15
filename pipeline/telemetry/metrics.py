"""metrics.jsonl -> what the run did: its steps, and the events between them."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreword.errors import DataError

METRICS_NAME = "metrics.jsonl"
_OF_A_BUCKET = re.compile(r"(.+)/(\d+(?:-\d+|\+))")


@dataclass(frozen=True)
class RunMetrics:
    """What metrics.jsonl tells.

    Attributes:
        steps: the records of training steps in order; of two with the same step the later one.
        events: starts, checkpoints, validations and stops, as they happened.
    """

    steps: list[dict[str, Any]]
    events: list[dict[str, Any]]

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of one key, where it has a value."""
        present = [(record["step"], record[key]) for record in self.steps if record.get(key) is not None]
        return [step for step, _ in present], [value for _, value in present]

    def event_series(self, event: str, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of one key of one kind of event."""
        present = {e["step"]: e[key] for e in self.events if e["event"] == event and e.get(key) is not None}
        return sorted(present), [present[step] for step in sorted(present)]

    def by_prefix_len(self, key: str) -> dict[str, tuple[list[int], list[float]]]:
        """Bucket of prefix lengths -> steps and values of one key of the validations, in ascending order of buckets."""
        keys = dict.fromkeys(k for event in self.events if event["event"] == "validation" for k in event)
        buckets = [bucket for measure, bucket in map(measure_and_bucket, keys) if measure == key and bucket]
        in_order = sorted(buckets, key=lambda bucket: int(bucket.rstrip("+").split("-")[0]))
        return {bucket: self.event_series("validation", f"{key}/{bucket}") for bucket in in_order}


def measure_and_bucket(key: str) -> tuple[str, str | None]:
    """A key of a validation, "prefix_loss/16-63" for example, in its two parts; the latter None for a total."""
    match = _OF_A_BUCKET.fullmatch(key)
    return (match[1], match[2]) if match else (key, None)


def read_metrics(run_dir: Path) -> RunMetrics:
    """Read a run's metrics.jsonl; a last line that a killed process left unfinished is passed over.

    Raises:
        DataError: there is none, or another line is not a record.
    """
    path = run_dir / METRICS_NAME
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path, remedy="give a run's directory") from None
    steps: dict[int, dict[str, Any]] = {}
    events: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if "event" in record:
                events.append(record)
            else:
                steps[record["step"]] = record
        except (ValueError, TypeError, KeyError):
            if number == len(lines):
                continue
            raise DataError("not a metrics record", where=f"{path}:{number}") from None
    return RunMetrics([steps[step] for step in sorted(steps)], events)
