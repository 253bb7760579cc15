"""Optimizer step -> learning rate, as a pure function, so that a resumed run needs no scheduler state."""

import math

from pipeline.config import ScheduleConfig


def learning_rate(step: int, peak_lr: float, schedule: ScheduleConfig) -> float:
    """Learning rate of optimizer step `step` (0 is the first).

    Rises linearly to `peak_lr` over `warmup_steps`, then falls to `min_lr_ratio * peak_lr` at `total_steps` and stays.
    """
    if step < schedule.warmup_steps:
        return peak_lr * (step + 1) / schedule.warmup_steps
    decay_steps = max(1, schedule.total_steps - schedule.warmup_steps)
    progress = min(1.0, (step - schedule.warmup_steps) / decay_steps)
    remaining = {
        "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
        "linear": 1.0 - progress,
        "constant": 1.0,
    }[schedule.kind]
    return peak_lr * (schedule.min_lr_ratio + (1.0 - schedule.min_lr_ratio) * remaining)
