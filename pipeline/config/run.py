"""The life of a run: what it begins with, saves, evaluates and writes, and when it is given up."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from foreword.config import Section


class InitFrom(Section):
    """What a new run begins with in place of drawn weights; in YAML the path alone is short for `path` and resets.

    `path` is a run (its newest complete checkpoint), a checkpoint, or a weights directory. Weights are always taken;
    `optimizer: keep` takes Adam's moments and step count too, and `position: keep` the place in the schedule and in the
    order of the data. See `pipeline.init_from`.
    """

    path: Path
    optimizer: Literal["reset", "keep"] = "reset"
    position: Literal["reset", "keep"] = "reset"

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str | Path) else value


class CheckpointConfig(Section):
    """When to save, and which checkpoints stay: the last `keep_last`, every `keep_every_steps`-th, and with `keep_best`
    the one with the lowest validation loss among those saved right after an evaluation.

    `asynchronous`: training goes on while a checkpoint is written. `takeover_after_s`: how long the heartbeat of the
    process that holds the run must have been missing before another start takes the run over.
    """

    every_steps: PositiveInt = 1000
    keep_last: PositiveInt = 3
    keep_every_steps: PositiveInt | None = None
    keep_best: bool = True
    asynchronous: bool = True
    takeover_after_s: PositiveFloat = Field(default=60.0, le=300.0)  # the other ranks wait for it, with a time limit


class EvaluationConfig(Section):
    """Loss on fixed rows of the validation split; `rows` of them, or all with null.

    With `samples`, the model also continues so many prompts of that split by `sample_tokens` tokens each: one forward
    pass for each token, in which at ZeRO 3 all weights are gathered.
    """

    every_steps: PositiveInt | None = None
    rows: PositiveInt | None = 256
    samples: NonNegativeInt = 0
    sample_tokens: PositiveInt = 64

    @model_validator(mode="after")
    def _samples_have_a_time(self) -> "EvaluationConfig":
        if self.samples and self.every_steps is None:
            raise ValueError("samples are drawn at evaluations: set every_steps")
        return self


class WatchdogTimeouts(Section):
    """How long a process may make no progress: until its first step is taken; in a step, where every micro-batch is
    progress; in an evaluation, which counts as a whole; in a save, as far as training stands still for it.
    """

    start_up: PositiveFloat = 1800.0
    step: PositiveFloat = 600.0
    evaluation: PositiveFloat = 1800.0
    save: PositiveFloat = 1800.0


class WatchdogConfig(Section):
    """A run that makes no progress for so long ends, and says who holds it up; with null it waits."""

    timeout_s: WatchdogTimeouts | None = WatchdogTimeouts()

    @property
    def longest_s(self) -> float:
        """The longest of the times; 0 when there are none."""
        return max(self.timeout_s.model_dump().values()) if self.timeout_s else 0.0


class WandbConfig(Section):
    """Weights & Biases. `auto` is online where a key is set and offline elsewhere."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "foreword"
    name: str | None = None


class LoggingConfig(Section):
    """How often a metrics record is written, and where to besides metrics.jsonl."""

    every_steps: PositiveInt = 10
    wandb: WandbConfig = WandbConfig()
