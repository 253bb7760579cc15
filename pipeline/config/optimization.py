"""From gradients to updates: batches, optimizer, schedule, and the steps that are skipped."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from foreword.config import Section

DecayRate = Annotated[float, Field(ge=0.0, lt=1.0)]


class BatchWarmup(Section):
    """The global batch grows from `start_size` rows by `increment` rows at a time, at equal distances.

    It has its full size after `steps` steps or `tokens` tokens. `increment` is `start_size` unless set.
    """

    start_size: PositiveInt
    increment: PositiveInt | None = None
    steps: PositiveInt | None = None
    tokens: PositiveInt | None = None

    @model_validator(mode="after")
    def _one_length(self) -> "BatchWarmup":
        _exactly_one(self, "steps", "tokens")
        return self


class BatchConfig(Section):
    """Rows (or tokens) per optimizer step, and rows per forward pass of one data-parallel rank.

    The global batch is reached by gradient accumulation.
    """

    global_batch_size: PositiveInt | None = None
    global_batch_tokens: PositiveInt | None = None
    micro_batch_size: PositiveInt
    warmup: BatchWarmup | None = None

    @model_validator(mode="after")
    def _one_size(self) -> "BatchConfig":
        _exactly_one(self, "global_batch_size", "global_batch_tokens")
        return self


class OptimizerConfig(Section):
    """AdamW. Weight decay acts on matrices only, the embeddings among them; not on biases and layer norms."""

    lr: PositiveFloat
    betas: tuple[DecayRate, DecayRate] = (0.9, 0.95)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.1
    clip_grad_norm: NonNegativeFloat = 1.0


class ScheduleConfig(Section):
    """Linear warmup, then a decay to `min_lr_ratio` x lr at the end of the run; see `pipeline.schedule`.

    All lengths are in steps or all in tokens. `wsd` stays at the peak and decays over the last `decay_steps` or
    `decay_tokens`.
    """

    kind: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    total_steps: PositiveInt | None = None
    total_tokens: PositiveInt | None = None
    warmup_steps: NonNegativeInt | None = None
    warmup_tokens: NonNegativeInt | None = None
    decay_steps: PositiveInt | None = None
    decay_tokens: PositiveInt | None = None
    min_lr_ratio: NonNegativeFloat = Field(0.1, le=1.0)

    @property
    def unit(self) -> Literal["steps", "tokens"]:
        """What the lengths are counted in."""
        return "steps" if self.total_steps is not None else "tokens"

    @property
    def total(self) -> int:
        """Length of the run."""
        return getattr(self, f"total_{self.unit}")

    @property
    def warmup(self) -> int:
        """Length of the rise."""
        return getattr(self, f"warmup_{self.unit}") or 0

    @property
    def decay(self) -> int:
        """Length of the fall at the end, of `wsd`."""
        return getattr(self, f"decay_{self.unit}") or 0

    @model_validator(mode="after")
    def _lengths_fit(self) -> "ScheduleConfig":
        _exactly_one(self, "total_steps", "total_tokens")
        unit, other = self.unit, "tokens" if self.unit == "steps" else "steps"
        for length in ("warmup", "decay"):
            if getattr(self, f"{length}_{other}") is not None:
                raise ValueError(f"{length}_{other} beside total_{unit}: use {length}_{unit}")
        if self.kind == "wsd" and not self.decay:
            raise ValueError(f"kind wsd needs decay_{unit}")
        if self.kind != "wsd" and self.decay:
            raise ValueError(f"decay_{unit} belongs to kind wsd, not to {self.kind}")
        if self.warmup >= self.total:
            raise ValueError(f"warmup_{unit} {self.warmup} must be below total_{unit} {self.total}")
        if self.warmup + self.decay > self.total:
            raise ValueError(
                f"warmup_{unit} {self.warmup} and decay_{unit} {self.decay} do not fit into total_{unit} {self.total}"
            )
        return self


class LossScalingConfig(Section):
    """Dynamic loss scaling, for precision fp16 alone.

    The scale starts at 2^`initial_scale_power`, doubles after `window` steps without an overflow, and is halved by one
    once `hysteresis` - 1 of them have been borne.
    """

    initial_scale_power: NonNegativeInt = 16
    window: PositiveInt = 1000
    hysteresis: PositiveInt = 2


class GuardConfig(Section):
    """Steps whose update is skipped, on all ranks together: see `pipeline.engine.guard`.

    A loss or gradient that is not finite is always skipped; with `spike_threshold` (in standard deviations) also one
    that far above the last `spike_window` accepted steps. More than `max_skipped_in_a_row` end the run.
    """

    max_skipped_in_a_row: NonNegativeInt = 10
    spike_threshold: PositiveFloat | None = None
    spike_window: Annotated[int, Field(ge=8)] = 128


def _exactly_one(section: Section, first: str, second: str) -> None:
    if (getattr(section, first) is None) == (getattr(section, second) is None):
        raise ValueError(f"set either {first} or {second}")
