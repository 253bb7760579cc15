"""One record per logged step: to metrics.jsonl (the truth), to the console, and to Weights & Biases.

metrics.jsonl is only ever appended to. A run that goes back to a checkpoint writes its steps again: of two records with
the same step, the later one counts. Records with an `event` mark starts, stops, checkpoints and evaluations.
"""

import json
import netrc
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from foreword.console import Progress, progress, say
from pipeline.checkpoint.meta import Progress as TrainProgress
from pipeline.config import TrainConfig, WandbConfig

METRICS_NAME = "metrics.jsonl"
WANDB_HOST = "api.wandb.ai"


class Telemetry:
    """Writes a run's records; used on rank 0 only. A context manager: everything is flushed at its end.

    Args:
        config: the resolved configuration.
        wandb_run_id: the run to continue, or None for a new one.
        first_step: the step training starts from.
    """

    def __init__(self, config: TrainConfig, wandb_run_id: str | None, first_step: int) -> None:
        self.config = config
        self._file = (config.run_dir / METRICS_NAME).open("a", encoding="utf-8")
        self._stack = ExitStack()
        self._stack.callback(self._file.close)
        self._wandb = _start_wandb(config, wandb_run_id)
        if self._wandb is not None:
            self._stack.callback(self._wandb.finish)
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = self._stack.enter_context(progress("train", config.schedule.total_steps, "steps"))
            self._bar.update(first_step)

    def __enter__(self) -> "Telemetry":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def wandb_run_id(self) -> str | None:
        """Goes into each checkpoint, so that a resumed run continues the same one."""
        return None if self._wandb is None else self._wandb.id

    def step(self, record: dict[str, Any]) -> None:
        """Write the record of a training step."""
        self._write(record)
        if self._wandb is not None:
            self._wandb.log({key: value for key, value in record.items() if value is not None})
        line = f"loss {record['loss']:.4f}  norm {record['grad_norm']:.3f}  {record['tokens_per_s']:,.0f} tokens/s"
        if self._bar is not None:
            self._bar.update(record["step"], line)
        else:
            say(f"step {record['step']:>6}/{self.config.schedule.total_steps}  {line}  lr {record['lr']:.2e}")

    def start(self, step: int, topology: dict[str, Any], checkpoint: Path | None) -> None:
        """The run starts, or continues from `checkpoint`."""
        say(f"resumed from {checkpoint}" if checkpoint else f"a new run in {self.config.run_dir}")
        self._event("start", step, topology=topology, resumed_from=checkpoint and str(checkpoint))

    def validation(self, step: int, summary: dict[str, float]) -> None:
        """The validation split was evaluated."""
        say(f"step {step:>6}  validation: " + "  ".join(f"{key} {value:.4f}" for key, value in summary.items()))
        self._event("validation", step, **summary)

    def checkpoint(self, step: int, path: Path, seconds: float) -> None:
        """A checkpoint was saved, in `seconds` during which training stood still."""
        say(f"step {step:>6}  saved {path} in {seconds:.1f} s")
        self._event("checkpoint", step, path=str(path), seconds=round(seconds, 3))

    def stop(self, step: int, reason: str) -> None:
        """The run stops before its end."""
        self._event("stop", step, reason=reason)

    def finish(self, progress: TrainProgress, loss: float | None) -> None:
        """The run has taken its last step."""
        self._event("finish", progress.step, loss=loss)
        tokens, targets = progress.tokens_consumed, progress.targets_consumed
        say(f"finished: {progress.step} steps, {tokens:,} tokens, {targets:,} of them scored")

    def _event(self, event: str, step: int, **facts: Any) -> None:
        """Numbers among the facts go to Weights & Biases as `event/key`."""
        self._write({"event": event, "step": step, **facts})
        numbers = {f"{event}/{key}": value for key, value in facts.items() if isinstance(value, int | float)}
        if self._wandb is not None and numbers:
            self._wandb.log({"step": step, **numbers})

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps({**record, "time": round(time.time(), 3)}) + "\n")
        self._file.flush()


def wandb_mode(config: WandbConfig) -> str:
    """online, offline or disabled: `auto` follows WANDB_MODE, and is online only where an API key is at hand."""
    if config.mode != "auto":
        return config.mode
    if "WANDB_MODE" in os.environ:
        return os.environ["WANDB_MODE"]
    return "online" if "WANDB_API_KEY" in os.environ or _netrc_has_key() else "offline"


def _netrc_has_key() -> bool:
    try:
        return netrc.netrc().authenticators(WANDB_HOST) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _start_wandb(config: TrainConfig, run_id: str | None) -> Any:
    mode = wandb_mode(config.logging.wandb)
    if mode == "disabled":
        return None
    import wandb

    run = wandb.init(
        project=config.logging.wandb.project,
        name=config.logging.wandb.name,
        dir=config.run_dir,
        id=run_id,
        resume="allow" if mode == "online" else None,
        mode=mode,  # type: ignore[arg-type]
        config=config.model_dump(mode="json"),
        settings=wandb.Settings(silent=True, console="off"),
    )
    # the step of an offline segment starts at 0 again after a resume: the record's own step is the axis
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    return run
