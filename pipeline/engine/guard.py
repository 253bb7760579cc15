"""Loss and gradient norm of a step -> why its update must not be made, if it must not.

All ranks hand in the same two numbers and keep the same history, so they come to the same answer; the history goes into
checkpoints, so that a resumed run judges as the uninterrupted one would.
"""

import math
from collections import deque
from statistics import median

from pipeline.checkpoint.meta import GuardState
from pipeline.config.optimization import GuardConfig

# the standard deviation of a normal distribution in units of its median absolute deviation
MAD_TO_SIGMA = 1.4826
# a window of nearly equal values would make a spike of everything: its spread is taken as at least this part of it
LEAST_SPREAD = 0.01


class StepGuard:
    """Judges steps.

    A loss or norm that is not finite is always refused. With `spike_threshold`, so is one that exceeds the median of
    the last `spike_window` accepted steps by more than so many standard deviations (estimated from the median absolute
    deviation, which the spikes themselves do not move); nothing is called a spike before the window is full.

    Attributes:
        skipped_in_a_row: how many steps were skipped since the last update.
    """

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self.skipped_in_a_row = 0
        self._losses: deque[float] = deque(maxlen=config.spike_window)
        self._grad_norms: deque[float] = deque(maxlen=config.spike_window)

    def objection(self, loss: float, grad_norm: float) -> str | None:
        """Why the update of a step with this mean loss (nats) and global gradient norm must not be made, or None."""
        for name, value, recent in (
            ("loss", loss, self._losses),
            ("gradient norm", grad_norm, self._grad_norms),
        ):
            if not math.isfinite(value):
                return f"the {name} is not finite"
            if self.config.spike_threshold is not None and len(recent) == self.config.spike_window:
                middle = median(recent)
                spread = max(MAD_TO_SIGMA * median(abs(x - middle) for x in recent), LEAST_SPREAD * abs(middle))
                if value > middle + self.config.spike_threshold * spread:
                    return f"the {name} {value:.4g} is a spike beside {middle:.4g} +- {spread:.2g}"
        return None

    def made(self, loss: float, grad_norm: float) -> None:
        """The update of a step was made."""
        self.skipped_in_a_row = 0
        if self.config.spike_threshold is not None:
            self._losses.append(loss)
            self._grad_norms.append(grad_norm)

    def skipped(self) -> None:
        """The update of a step was not made."""
        self.skipped_in_a_row += 1

    @property
    def is_out_of_patience(self) -> bool:
        """Whether more steps in a row were skipped than the configuration allows."""
        return self.skipped_in_a_row > self.config.max_skipped_in_a_row

    @property
    def state(self) -> GuardState:
        """What a checkpoint keeps."""
        return GuardState(
            skipped_in_a_row=self.skipped_in_a_row, losses=tuple(self._losses), grad_norms=tuple(self._grad_norms)
        )

    def restore(self, state: GuardState) -> None:
        """Continue from a checkpoint."""
        self.skipped_in_a_row = state.skipped_in_a_row
        self._losses = deque(state.losses, maxlen=self.config.spike_window)
        self._grad_norms = deque(state.grad_norms, maxlen=self.config.spike_window)
