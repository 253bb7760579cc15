"""`foreword train --profile`: a few steps under torch's profiler.

What goes out: a trace for each of the first ranks, RUN/profile/steps_FIRST-LAST_rank_R.json in Chrome's format, which
https://ui.perfetto.dev and chrome://tracing show; and on rank 0 a table of the most expensive operations. A trace that
cannot be written is a warning: training goes on as usual.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, schedule

from foreword.console import say, warn
from foreword.files import TEMPORARY_PREFIX
from pipeline.telemetry.clock import Clock

DIRECTORY = "profile"
WARM_UP_STEPS = 3  # compiling, first allocations, caches
RANKS = 8  # those that write a trace: the first node's, as a rule
OPERATIONS = 10


class StepProfiler:
    """Profiles `steps` steps after the first few. A context manager around the loop, which calls `step` after each.

    Args:
        steps: how many; None is none, and then nothing is done.
        run_dir: where the traces go.
        rank: this process's.
        device: of this process.
        first_step: the step that the loop starts from.
        clock: hears of the time that writing takes.
    """

    def __init__(
        self, steps: int | None, run_dir: Path, rank: int, device: torch.device, first_step: int, clock: Clock
    ) -> None:
        self._directory, self._rank, self._device, self._clock = run_dir / DIRECTORY, rank, device, clock
        self._first_profiled = first_step + WARM_UP_STEPS + 2  # one more is the profiler's own warm-up
        self._step, self._written = first_step, False
        self._profile: Any = None
        if steps is not None and rank < RANKS:
            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
            course = schedule(skip_first=WARM_UP_STEPS, wait=0, warmup=1, active=steps, repeat=1)
            self._profile = profile(activities=activities, schedule=course, on_trace_ready=self._write)

    def __enter__(self) -> "StepProfiler":
        if self._profile is not None:
            self._profile.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self._profile is None:
            return
        self._profile.__exit__(*error)  # steps under way are written
        if not self._written and self._rank == 0:
            warn(f"nothing is profiled: the first step to be was {self._first_profiled}, after a warm-up")

    def step(self, step: int) -> None:
        """The run has taken `step`."""
        self._step = step
        if self._profile is not None:
            self._profile.step()

    def _write(self, profiled: Any) -> None:
        with self._clock.spent_on("profiling"):
            steps = self._step - self._first_profiled + 1
            if steps < 1:  # the run has ended between the warm-up and the first step
                return
            self._written = True
            name = f"steps_{self._first_profiled:08d}-{self._step:08d}_rank_{self._rank}.json"
            temporary = self._directory / f"{TEMPORARY_PREFIX}{name}"
            try:
                self._directory.mkdir(exist_ok=True)
                profiled.export_chrome_trace(str(temporary))
                temporary.replace(self._directory / name)
            except (OSError, RuntimeError) as error:
                warn(f"the trace of rank {self._rank} cannot be written: {error}")
                return
            if self._rank == 0:
                say(operation_table(profiled.key_averages(), steps, on_gpu=self._device.type == "cuda"))
                say(f"traces of {steps} steps, for https://ui.perfetto.dev: {self._directory}")


def operation_table(averages: Sequence[Any], steps: int, *, on_gpu: bool) -> str:
    """The operations that took the most time by themselves, without what they call, a line each.

    Args:
        averages: what `torch.profiler.profile.key_averages` gives.
        steps: how many were profiled.
        on_gpu: whether the GPU's kernels are what counts, or the processor's operations.
    """
    wanted = DeviceType.CUDA if on_gpu else DeviceType.CPU
    time_us = {
        event: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in averages
        if event.device_type == wanted and not event.is_user_annotation
    }
    total_us = sum(time_us.values())
    lines = [f"{'the most expensive operations':<56}{'calls/step':>12}{'ms/step':>12}{'share':>9}"]
    for event in sorted(time_us, key=lambda event: -time_us[event])[:OPERATIONS]:
        name = event.key if len(event.key) <= 54 else f"{event.key[:51]}..."
        share = time_us[event] / total_us
        lines.append(f"  {name:<54}{event.count / steps:>12,.1f}{time_us[event] / 1000 / steps:>12,.2f}{share:>9.1%}")
    return "\n".join(lines)
