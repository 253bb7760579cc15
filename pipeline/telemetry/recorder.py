"""One record per logged step: to metrics.jsonl (the truth), to the console, and to Weights & Biases.

A run that goes back to a checkpoint writes its steps again: of two records with the same step, the later one counts.
Records with an `event` mark starts, stops, checkpoints and evaluations. The file itself: see `record_file`.
"""

import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from foreword.console import Progress, progress, say, warn
from pipeline.checkpoint.meta import Origin
from pipeline.checkpoint.meta import Progress as TrainProgress
from pipeline.config.objective import describe_objectives
from pipeline.config.train import TrainConfig
from pipeline.telemetry.metrics import METRICS_NAME
from pipeline.telemetry.record_file import RecordFile
from pipeline.telemetry.summary import summary_table
from pipeline.telemetry.wandb_run import start_wandb


class Telemetry:
    """Writes a run's records; used on rank 0 only. A context manager: everything is flushed at its end.

    Args:
        config: the resolved configuration.
        wandb_run_id: the run to continue, or None for a new one.
        first_step: the step training starts from.
        total_steps: the step it ends with.
        directory: where metrics.jsonl is made before it takes its name: a directory on the same file system that goes
            away when another process takes the run over. None: the run's own, when there is no other process.

    Raises:
        ConfigError: WANDB_MODE is not a mode.
        MachineError: metrics.jsonl cannot be written, or Weights & Biases cannot be started. `step` and the methods
            for events raise the former too, but not for a full disk: see `record_file`.
    """

    def __init__(
        self,
        config: TrainConfig,
        wandb_run_id: str | None,
        first_step: int,
        total_steps: int,
        directory: Path | None = None,
    ) -> None:
        self.config, self.total_steps = config, total_steps
        self._bar: Progress | None = None
        with ExitStack() as stack:
            self._records = stack.enter_context(
                closing(RecordFile(config.run_dir / METRICS_NAME, directory or config.run_dir))
            )
            self._wandb = start_wandb(config, wandb_run_id)
            if self._wandb is not None:
                stack.callback(self._wandb.finish)
            if sys.stderr.isatty():
                bar = progress("train", total_steps, "steps", done=first_step)
                self._bar = stack.enter_context(bar)
            self._stack = stack.pop_all()

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
            say(f"step {record['step']:>6}/{self.total_steps}  {line}  lr {record['lr']:.2e}")

    def start(self, step: int, topology: dict[str, Any], checkpoint: Path | None, origin: Origin | None = None) -> None:
        """The run continues from `checkpoint`, or begins: with what `origin` says, or with drawn weights."""
        say(f"resumed from {checkpoint}" if checkpoint else f"a new run in {self.config.run_dir}")
        if origin is not None and checkpoint is None:
            at = f" (step {origin.progress.step})" if origin.progress else ""
            trained = f"trained with objective {describe_objectives(origin.objective)}"
            say(f"its weights are those of {origin.path}{at}, {trained}")
            say(f"optimizer {origin.optimizer}, position {origin.position}: it begins after step {step}")
        began_with = origin and origin.model_dump(mode="json")
        self._event("start", step, topology=topology, resumed_from=checkpoint and str(checkpoint), origin=began_with)

    def validation(self, step: int, summary: dict[str, float]) -> None:
        """The validation split was evaluated; the console gets the totals."""
        line = f"prefix loss {summary['prefix_loss']:.4f}, causal {summary['causal_loss']:.4f} nats/token"
        if "prefix_bits_per_byte" in summary:
            bits = summary["prefix_bits_per_byte"], summary["causal_bits_per_byte"]
            line += "; {:.4f}, {:.4f} bits/byte".format(*bits)
        if "masked_loss" in summary:
            line += f"; masked loss {summary['masked_loss']:.4f}"
        say(f"step {step:>6}  validation: {line}")
        self._event("validation", step, **summary)

    def samples(self, step: int, samples: list[dict[str, Any]]) -> None:
        """What the model writes behind a few prompts; the console gets the end of the first one."""
        first = samples[0]
        shown = f"...{first['prompt'][-30:]!r} + {first['continuation'][:60]!r}"
        say(f"step {step:>6}  {len(samples)} samples: {shown}")
        self._event("samples", step, samples=samples)

    def skipped(self, step: int, reason: str, rows: list[int]) -> None:
        """The update of a step was not made on any rank; `rows` are those of its global batch."""
        named = ", ".join(map(str, rows[:8])) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
        warn(f"step {step}: skipped, {reason}; rows {named}")
        self._event("skipped", step, reason=reason, rows=rows)

    def checkpoint(self, step: int, path: Path, size_bytes: int, stall_s: float, save_s: float) -> None:
        """A checkpoint was saved in `save_s`; for `stall_s` of that training stood still."""
        say(f"step {step:>6}  saved {path} in {save_s:.1f} s; training stood still for {stall_s:.2f} s")
        times = {"stall_s": round(stall_s, 4), "save_s": round(save_s, 3)}
        self._event("checkpoint", step, path=str(path), size_bytes=size_bytes, **times)

    def failed_save(self, step: int, error: str) -> None:
        """A checkpoint could not be saved; this was heard after `step`."""
        warn(f"the checkpoint is not saved; training goes on, and the next save is made when it is due: {error}")
        self._event("failed_save", step, error=error)

    def stop(self, step: int, reason: str) -> None:
        """The run is about to save and to stop before its end."""
        say(f"step {step:>6}  {reason}: saving, then stopping")
        self._event("stop", step, reason=reason)

    def finish(self, progress: TrainProgress, loss: float | None) -> None:
        """The run has taken its last step."""
        self._event("finish", progress.step, loss=loss)
        tokens, targets = progress.tokens_consumed, progress.targets_consumed
        say(f"finished: {progress.step} steps, {tokens:,} tokens, {targets:,} of them scored")

    def summary(self, step: int, summary: dict[str, Any]) -> None:
        """What this start has done, and where its time went; records that still wait for room are an error now."""
        self._event("summary", step, **summary)
        self._records.flush()
        say(summary_table(summary))

    def _event(self, event: str, step: int, **facts: Any) -> None:
        """Numbers among the facts go to Weights & Biases as `event/key`."""
        self._write({"event": event, "step": step, **facts})
        numbers = {f"{event}/{key}": value for key, value in facts.items() if isinstance(value, int | float)}
        if self._wandb is not None and numbers:
            self._wandb.log({"step": step, **numbers})

    def _write(self, record: dict[str, Any]) -> None:
        self._records.write({**record, "time": round(time.time(), 3)})
