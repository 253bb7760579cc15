"""What the steps did, and how fast: between two records, and since the start.

Rates are over the time that the steps took and waited for their data; evaluating and saving do not slow them down.
"""

import os
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.config.model import ModelConfig
from pipeline.plan.flops import peak_flops, training_flops
from pipeline.telemetry.clock import Clock


@dataclass(frozen=True)
class Work:
    """Steps and what they were made of, summed over all ranks; see `StepCounts`."""

    steps: int = 0
    skipped_steps: int = 0
    tokens: int = 0
    targets: int = 0
    attended_pairs: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: "Work") -> "Work":
        return Work(*(mine - theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


class Throughput:
    """Counts steps.

    Args:
        model: shape of the model.
        padded_vocab_size: rows of its embedding.
        world_size: processes that share the work.
        device: the kind of device that each of them has.
        clock: tells where this process's time goes.
    """

    def __init__(
        self, model: ModelConfig, padded_vocab_size: int, world_size: int, device: torch.device, clock: Clock
    ) -> None:
        self._model, self._padded_vocab_size, self._device, self._clock = model, padded_vocab_size, device, clock
        peak = device_peak_flops(device)
        self._peak_flops = peak * world_size if peak else None
        self._work = self._work_at_record = Work()
        self._seconds_at_record = clock.seconds()

    def add(self, work: Work) -> None:
        """Count a step."""
        self._work += work

    def rates(self) -> dict[str, float | None]:
        """Rates since the last call, of all processes together; `mfu` is None where the device's peak is not known."""
        seconds, before = self._clock.seconds(), self._seconds_at_record
        training_s, data_wait_s = (seconds[part] - before[part] for part in ("training", "data_wait"))
        rates = self._rates(self._work - self._work_at_record, training_s + data_wait_s)
        self._work_at_record, self._seconds_at_record = self._work, seconds
        return {**rates, "data_wait_fraction": data_wait_s / (training_s + data_wait_s)}

    def summary(self) -> dict[str, Any]:
        """All since the start: counts, rates, and seconds by part, which add up to `total_s`."""
        seconds = self._clock.seconds()
        work, total_s = self._work, sum(seconds.values())
        counts = {"steps": work.steps, "skipped_steps": work.skipped_steps}
        counts |= {"tokens": work.tokens, "targets": work.targets}
        rates = self._rates(work, seconds["training"] + seconds["data_wait"])
        by_part = {f"{part}_s": part_s for part, part_s in seconds.items()}
        return {**counts, **rates, "total_s": total_s, **by_part, "memory_bytes": self.memory_bytes()}

    def memory_bytes(self) -> int:
        """Peak device memory of this process; on a CPU, what the process holds now."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        resident_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return resident_pages * os.sysconf("SC_PAGE_SIZE")

    def _rates(self, work: Work, elapsed_s: float) -> dict[str, float | None]:
        if not work.steps:
            return dict.fromkeys(("tokens_per_s", "targets_per_s", "flops_per_s", "mfu"))
        flops = training_flops(self._model, self._padded_vocab_size, work.tokens, work.targets, work.attended_pairs)
        return {
            "tokens_per_s": work.tokens / elapsed_s,
            "targets_per_s": work.targets / elapsed_s,
            "flops_per_s": flops / elapsed_s,
            "mfu": flops / elapsed_s / self._peak_flops if self._peak_flops else None,
        }


def device_peak_flops(device: torch.device) -> float | None:
    """Peak of this device in FLOP/s, or None where it is not known (a CPU, say)."""
    return peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
