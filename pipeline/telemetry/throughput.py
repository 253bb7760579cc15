"""What the loop did between two records: tokens, time, operations, memory."""

import os
import time
from pathlib import Path

import torch

from pipeline.config import ModelConfig
from pipeline.model.flops import device_peak_flops, training_flops


class Throughput:
    """Counts over a window of steps; `rates` closes the window and opens the next.

    Args:
        model: shape of the model.
        padded_vocab_size: rows of its embedding.
        world_size: processes that share the work.
        device: the kind of device that each of them has.
    """

    def __init__(self, model: ModelConfig, padded_vocab_size: int, world_size: int, device: torch.device) -> None:
        self.model, self.padded_vocab_size, self.device = model, padded_vocab_size, device
        peak = device_peak_flops(device)
        self.peak_flops = peak * world_size if peak else None
        self.restart()

    def restart(self) -> None:
        """Forget the window, so that time spent on something else (an evaluation, a save) does not count."""
        self._started = time.perf_counter()
        self._tokens = self._targets = self._attended_pairs = 0
        self._wait_s = 0.0

    def add(self, tokens: int, targets: int, attended_pairs: int, wait_s: float) -> None:
        """Count one step: its global batch, and how long this rank waited for its data."""
        self._tokens += tokens
        self._targets += targets
        self._attended_pairs += attended_pairs
        self._wait_s += wait_s

    def rates(self) -> dict[str, float | None]:
        """Rates over the window, of all processes together; `mfu` is None where the device's peak is not known."""
        elapsed_s = time.perf_counter() - self._started
        flops = training_flops(self.model, self.padded_vocab_size, self._tokens, self._targets, self._attended_pairs)
        rates = {
            "tokens_per_s": self._tokens / elapsed_s,
            "targets_per_s": self._targets / elapsed_s,
            "flops_per_s": flops / elapsed_s,
            "mfu": flops / elapsed_s / self.peak_flops if self.peak_flops else None,
            "data_wait_fraction": self._wait_s / elapsed_s,
        }
        self.restart()
        return rates

    def memory_bytes(self) -> int:
        """Peak device memory of this process; on a CPU, what the process holds now."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        resident_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return resident_pages * os.sysconf("SC_PAGE_SIZE")
