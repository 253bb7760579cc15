"""AdamW behind a gate: the one place where weights, moments and Adam's step count change.

Whatever wraps it (nothing, or one of DeepSpeed's ZeRO optimizers, which call it once per flat buffer), a step whose
gate stays shut leaves all of them as they were.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pipeline.config.optimization import OptimizerConfig


class GatedAdamW(torch.optim.AdamW):
    """torch's AdamW, which asks `is_open` before each update.

    Attributes:
        is_open: whether the update may be made; must answer the same for all calls of one optimizer step.
    """

    is_open: Callable[[], bool] = staticmethod(lambda: True)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update, if the gate is open; the gradients have been summed, unscaled and clipped by then."""
        if self.is_open():
            super().step(closure)


def make_optimizer(model: nn.Module, config: OptimizerConfig, *, fused: bool) -> GatedAdamW:
    """AdamW over all parameters; `fused` takes torch's single-kernel implementation."""
    return GatedAdamW(
        parameter_groups(model, config), lr=config.lr, betas=config.betas, eps=config.eps, fused=fused or None
    )


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict]:
    """Matrices with weight decay; biases and layer norms without."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.requires_grad and p.dim() < 2]
    return [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
