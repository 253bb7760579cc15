"""Position in the run -> learning rate, rows of the next step, and whether the run is over.

All are pure functions of how many steps and samples (rows) lie behind, so that a resumed run needs no scheduler state.
Lengths are in optimizer steps or in tokens, as the configuration says; a token is an input position, so that a row has
`sequence_length` of them. A step whose update is skipped counts like any other: it has read its rows, and neither the
learning rate nor the batch size waits for it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from foreword.errors import ConfigError
from pipeline.config.optimization import BatchConfig, BatchWarmup, ScheduleConfig


@dataclass(frozen=True)
class Schedule:
    """The course of a run.

    Args:
        config: shape and lengths.
        peak_lr: the highest learning rate.
        batch: rows per step.
        sequence_length: tokens of a row.

    Raises:
        ConfigError: a batch in tokens that is not a whole number of rows, or a warm-up that does not lead to it.
    """

    config: ScheduleConfig
    peak_lr: float
    batch: BatchConfig
    sequence_length: int

    def __post_init__(self) -> None:
        tokens, length = self.batch.global_batch_tokens, self.sequence_length
        if tokens is not None and (tokens < length or tokens % length):
            near = max(1, tokens // length) * length
            raise ConfigError(
                f"global_batch_tokens {tokens} is not a multiple of the corpus's sequence_length {length}",
                where="batch.global_batch_tokens",
                remedy=f"use {near} or {near + length}",
            )
        if self.batch.warmup is not None:
            _check_warmup(self.batch.warmup, self.global_batch_size)

    @property
    def global_batch_size(self) -> int:
        """Rows of a step once the batch has grown to its full size."""
        if self.batch.global_batch_size is not None:
            return self.batch.global_batch_size
        assert self.batch.global_batch_tokens is not None  # the configuration sets exactly one of the two
        return self.batch.global_batch_tokens // self.sequence_length

    @property
    def all_batch_sizes(self) -> range:
        """The rows that a step can have, ascending."""
        warmup = self.batch.warmup
        if warmup is None:
            return range(self.global_batch_size, self.global_batch_size + 1)
        return range(warmup.start_size, self.global_batch_size + 1, warmup.increment or warmup.start_size)

    def batch_size(self, step: int, samples: int) -> int:
        """Rows of the step that begins after `step` steps and `samples` rows."""
        warmup = self.batch.warmup
        if warmup is None:
            return self.global_batch_size
        done, length = (step, warmup.steps) if warmup.steps else (samples * self.sequence_length, warmup.tokens)
        sizes = self.all_batch_sizes
        return sizes[min(len(sizes) - 1, done * (len(sizes) - 1) // (length or 1))]

    def batch_sizes(self, step: int, samples: int) -> Iterator[int]:
        """Rows of the step after `step` steps and `samples` rows, of the next one, and so on without end."""
        while True:
            rows = self.batch_size(step, samples)
            yield rows
            step, samples = step + 1, samples + rows

    def is_over(self, step: int, samples: int) -> bool:
        """Whether the run ends here; a run in tokens ends with the step that reaches its length."""
        return self._position(step, samples) >= self.config.total

    def total_steps(self, step: int = 0, samples: int = 0) -> int:
        """The number of the last step of a run that has come to (`step`, `samples`)."""
        if self.config.total_steps is not None:
            return self.config.total_steps
        while self.batch_size(step, samples) < self.global_batch_size and not self.is_over(step, samples):
            step, samples = step + 1, samples + self.batch_size(step, samples)
        left = self.config.total - samples * self.sequence_length
        return step + max(0, -(-left // (self.global_batch_size * self.sequence_length)))

    def total_samples(self) -> int:
        """Rows of the whole run."""
        step, samples, last = 0, 0, self.total_steps()
        while step < last and self.batch_size(step, samples) < self.global_batch_size:
            step, samples = step + 1, samples + self.batch_size(step, samples)
        return samples + (last - step) * self.global_batch_size

    def learning_rate(self, step: int, samples: int) -> float:
        """Learning rate of the step that begins after `step` steps and `samples` rows.

        Rises linearly to `peak_lr` over the warmup. Then `cosine` and `linear` fall to `min_lr_ratio * peak_lr` at the
        end of the run; `wsd` (warmup, stable, decay: Hu et al. 2024, MiniCPM) stays until `decay` before the end and
        falls linearly from there; `constant` stays. Beyond the end it remains as it was at the end.
        """
        config, done = self.config, self._position(step, samples)
        if done < config.warmup:
            after = self._position(step + 1, samples + self.batch_size(step, samples))
            return self.peak_lr * min(1.0, after / config.warmup)
        start = config.total - config.decay if config.kind == "wsd" else config.warmup
        progress = min(1.0, max(0.0, (done - start) / max(1, config.total - start)))
        remaining = {
            "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
            "linear": 1.0 - progress,
            "wsd": 1.0 - progress,
            "constant": 1.0,
        }[config.kind]
        return self.peak_lr * (config.min_lr_ratio + (1.0 - config.min_lr_ratio) * remaining)

    def _position(self, step: int, samples: int) -> int:
        """How far the run has come, in the unit of the schedule's lengths."""
        return step if self.config.total_steps is not None else samples * self.sequence_length


def _check_warmup(warmup: BatchWarmup, global_batch_size: int) -> None:
    increment = warmup.increment or warmup.start_size
    if warmup.start_size >= global_batch_size or (global_batch_size - warmup.start_size) % increment:
        raise ConfigError(
            f"from {warmup.start_size} rows in steps of {increment} the batch does not grow to {global_batch_size}",
            where="batch.warmup",
            remedy="use an increment that divides the difference between start_size and the global batch",
        )
