"""Micro-batches -> one update of the weights, over any ZeRO stage, or none when the step is refused.

Rooms: `engine` (the step), `deepspeed` (DeepSpeed set up from the configuration), `recompute` (what layers keep for the
backward pass), `compilation` (torch.compile), `optimizer` (AdamW behind a gate), `guard` (which steps are refused).
"""

from pipeline.engine.engine import Engine, StepResult

__all__ = ["Engine", "StepResult"]
