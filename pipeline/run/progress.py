"""How far a run has come, told from its directory by somebody who has no part in it.

What comes in: a run's directory, at any moment of its life. What goes out: `RunProgress`. Promise: nothing is changed,
nothing is imported that takes long, and what is not there yet is None.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreword.config import load_config
from foreword.errors import ConfigError
from pipeline.checkpoint.find import complete_checkpoints
from pipeline.config.train import TrainConfig
from pipeline.run.lease import Holder, find_holder
from pipeline.schedule import Schedule
from pipeline.telemetry.metrics import METRICS_NAME, RunMetrics, read_metrics

CONFIG_NAME = "config.yaml"
RECENT_RECORDS = 50  # of which the speed is told


@dataclass(frozen=True)
class RunProgress:
    """What a run's directory tells.

    Attributes:
        step, total_steps: optimizer steps; 0 before the first record.
        loss: of the last record, in nats per scored token.
        validation: the last evaluation's event.
        tokens_per_s: of the last record.
        step_s: seconds a step takes, over the last records of the latest start, with evaluations and saves between
            them.
        checkpoint_step: of the newest complete checkpoint.
        events: starts, stops, finishes and failed saves, in order.
        recorded: when the last record was written, in seconds since the epoch.
        holder: who trains in it, or trained last.
        silence_s: after how long without a heartbeat its process counts as lost.
    """

    step: int = 0
    total_steps: int | None = None
    loss: float | None = None
    validation: dict[str, Any] | None = None
    tokens_per_s: float | None = None
    step_s: float | None = None
    checkpoint_step: int | None = None
    events: tuple[dict[str, Any], ...] = ()
    recorded: float | None = None
    holder: Holder | None = None
    silence_s: float = 60.0

    @property
    def is_held(self) -> bool:
        """Whether a process is training in it, as far as its heartbeat tells."""
        return self.holder is not None and not self.holder.is_gone and self.holder.silent_s < self.silence_s

    @property
    def is_finished(self) -> bool:
        """Whether the last thing that happened is that the run took its last step."""
        return bool(self.events) and self.events[-1]["event"] == "finish"

    @property
    def starts(self) -> int:
        """How often training has begun or gone on."""
        return sum(event["event"] == "start" for event in self.events)

    @property
    def remaining_s(self) -> float | None:
        """Seconds of training until the last step, at the present speed."""
        if self.total_steps is None or self.step_s is None:
            return None
        return max(0, self.total_steps - self.step) * self.step_s


def read_progress(run_dir: Path) -> RunProgress:
    """Look at a run.

    Raises:
        DataError: its metrics.jsonl is not one.
    """
    config = _configuration(run_dir)
    silence_s = config.checkpoint.takeover_after_s if config else RunProgress.silence_s
    checkpoints = complete_checkpoints(run_dir)
    checkpoint_step = checkpoints[-1][0] if checkpoints else None
    holder = find_holder(run_dir)
    if not (run_dir / METRICS_NAME).is_file():
        total_steps = config.schedule.total_steps if config else None
        return RunProgress(total_steps=total_steps, checkpoint_step=checkpoint_step, holder=holder, silence_s=silence_s)
    metrics = read_metrics(run_dir)
    # a run that went back to a checkpoint has records of later steps, from before
    last = max(metrics.steps, key=_time, default={})
    validations = [event for event in metrics.events if event["event"] == "validation"]
    told = ("start", "stop", "finish", "failed_save")
    return RunProgress(
        step=max((*metrics.steps, *metrics.events), key=_time)["step"] if last or metrics.events else 0,
        total_steps=_total_steps(config, last),
        loss=last.get("loss"),
        validation=validations[-1] if validations else None,
        tokens_per_s=last.get("tokens_per_s"),
        step_s=_seconds_per_step(metrics),
        checkpoint_step=checkpoint_step,
        events=tuple(event for event in metrics.events if event["event"] in told),
        recorded=max((_time(record) for record in (*metrics.steps, *metrics.events)), default=None),
        holder=holder,
        silence_s=silence_s,
    )


def _configuration(run_dir: Path) -> TrainConfig | None:
    """That of the latest start; None before the first, or when another version of Foreword has written it."""
    try:
        return load_config(run_dir / CONFIG_NAME, [], TrainConfig)
    except ConfigError:
        return None


def _total_steps(config: TrainConfig | None, last: dict[str, Any]) -> int | None:
    """The number of the run's last step; a length in tokens needs a record, which tells how long rows are."""
    if config is None:
        return None
    if config.schedule.total_steps is not None or not last.get("samples_consumed"):
        return config.schedule.total_steps
    sequence_length = last["tokens_consumed"] // last["samples_consumed"]
    schedule = Schedule(config.schedule, config.optimizer.lr, config.batch, sequence_length)
    return schedule.total_steps(last["step"], last["samples_consumed"])


def _seconds_per_step(metrics: RunMetrics) -> float | None:
    since = max((_time(event) for event in metrics.events if event["event"] == "start"), default=0.0)
    recent = sorted((record for record in metrics.steps if _time(record) >= since), key=_time)[-RECENT_RECORDS:]
    if len(recent) < 2:
        return None
    return (_time(recent[-1]) - _time(recent[0])) / (recent[-1]["step"] - recent[0]["step"])


def _time(record: dict[str, Any]) -> float:
    return record["time"]
