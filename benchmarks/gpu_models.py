"""Whole optimizer steps: Foreword's engine on packed batches, and a plain compiled PyTorch GPT-2 beside it."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gpu_batches import make_synthetic_batch
from plain_gpt2 import PlainGPT2
from torch import nn

from foreword.config import validate
from pipeline.attention import COMPUTE_DTYPES, select_backend
from pipeline.config.model import ModelConfig
from pipeline.config.train import TrainConfig
from pipeline.data.batch import Batch
from pipeline.distributed.parallel import Parallel
from pipeline.engine import Engine
from pipeline.model import build_model
from pipeline.plan.flops import attended_pairs, training_flops
from pipeline.telemetry.throughput import device_peak_flops
from pipeline.vocabulary import padded_vocab_size

LR = 1e-4
ROUNDS = 3
WARM_UP_STEPS = 3
DIFFERENT_STEPS = 2  # kinds of a step whose batches differ, so that nothing is fast only because it was seen before


@dataclass(frozen=True)
class Workload:
    """What one step is made of.

    Attributes:
        name: the model's size, as the tables say it.
        model: its shape.
        vocab_size: ids in use.
        rows: of a micro-batch.
        sequence_length: of a row.
        accumulation_steps: micro-batches of a step.
        precision: as the configuration says it.
    """

    name: str
    model: ModelConfig
    vocab_size: int
    rows: int
    sequence_length: int
    accumulation_steps: int
    precision: str

    @property
    def tokens(self) -> int:
        """Input tokens of a step."""
        return self.rows * self.sequence_length * self.accumulation_steps


@dataclass(frozen=True)
class Speed:
    """What a step came to; rates are medians over rounds in which the layouts took turns."""

    model: str
    contender: str
    layout: str
    rows: int
    step_s: float
    tokens_per_s: float
    targets_per_s: float
    mfu: float | None
    peak_bytes: int | None
    loss: float


def measure_foreword(
    work: Workload, layouts: Sequence[str], parallel: Parallel, *, attention: str, seconds: float
) -> list[Speed]:
    """Steps of the engine on each layout of batches; about `seconds` long, without the making and compiling."""
    dtype = COMPUTE_DTYPES[work.precision]
    backend = select_backend(attention, parallel.device, dtype)
    model = build_model(work.model, work.vocab_size, backend=backend, seed=1).to(parallel.device)
    engine = Engine(model, _train_config(work), parallel, work.accumulation_steps)

    def step(batches: list[Batch]) -> float:
        targets = sum(batch.num_targets for batch in batches)
        return engine.step(batches, targets, LR).loss

    try:
        return _measure(f"foreword, {backend.name}", step, work, layouts, parallel.device, seconds)
    finally:
        engine.deepspeed.destroy()  # its hooks keep the model, and the next one needs the memory


def measure_plain(work: Workload, device: torch.device, *, compile_whole: bool, seconds: float) -> list[Speed]:
    """Steps of the plain model over whole rows as nanoGPT takes them: fp32 weights under autocast, compiled on CUDA.

    Args:
        work: the step.
        device: where.
        compile_whole: the model as one graph, as nanoGPT does; otherwise block by block, which takes seconds and not
            minutes for many layers.
        seconds: about how long to measure, without the compiling.
    """
    torch.set_float32_matmul_precision("high")  # as nanoGPT
    with torch.device(device):
        model = PlainGPT2(work.model, padded_vocab_size(work.vocab_size))
    if device.type == "cuda":
        for module in [model] if compile_whole else model.blocks:
            module.compile()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), fused=device.type == "cuda")
    dtype = COMPUTE_DTYPES[work.precision]

    def step(batches: list[Batch]) -> float:
        total = 0.0
        for batch in batches:
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = model(batch.tokens_BS, batch.labels_BS)
            (loss / len(batches)).backward()
            total = loss.detach() / len(batches) + total
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(total)

    contender = "plain PyTorch" if device.type != "cuda" else f"plain, {'' if compile_whole else 'blocks '}compiled"
    return _measure(contender, step, work, ["whole"], device, seconds)


def _measure(
    contender: str,
    step: Callable[[list[Batch]], float],
    work: Workload,
    layouts: Sequence[str],
    device: torch.device,
    seconds: float,
) -> list[Speed]:
    """Warm up on every layout, then let them take turns."""
    steps = {layout: _steps_of(work, layout, device) for layout in layouts}
    once_s, peaks, losses = {}, {}, {}
    for layout in layouts:
        for number in range(WARM_UP_STEPS):
            if device.type == "cuda" and number == WARM_UP_STEPS - 1:  # compiling and its trials are over
                torch.cuda.reset_peak_memory_stats(device)
            started = time.perf_counter()
            step(steps[layout][number % DIFFERENT_STEPS])
            once_s[layout] = time.perf_counter() - started
        peaks[layout] = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    turn_s = seconds / ROUNDS / len(layouts)
    step_s: dict[str, list[float]] = {layout: [] for layout in layouts}
    for _ in range(ROUNDS):
        for layout in layouts:
            count = max(DIFFERENT_STEPS, int(turn_s / once_s[layout]))
            started = time.perf_counter()
            for number in range(count):
                losses[layout] = step(steps[layout][number % DIFFERENT_STEPS])  # its value waits for the device
            step_s[layout].append((time.perf_counter() - started) / count)
    return [
        _speed(contender, work, layout, statistics.median(step_s[layout]), steps, peaks, losses[layout], device)
        for layout in layouts
    ]


def _steps_of(work: Workload, layout: str, device: torch.device) -> list[list[Batch]]:
    return [
        [
            make_synthetic_batch(
                work.rows, work.sequence_length, work.vocab_size, layout=layout, seed=number * 1000 + micro
            ).to(device)
            for micro in range(work.accumulation_steps)
        ]
        for number in range(DIFFERENT_STEPS)
    ]


def _speed(
    contender: str,
    work: Workload,
    layout: str,
    step_s: float,
    steps: Mapping[str, list[list[Batch]]],
    peaks: Mapping[str, int | None],
    loss: float,
    device: torch.device,
) -> Speed:
    batches = [batch for step in steps[layout] for batch in step]
    targets = sum(batch.num_targets for batch in batches) / DIFFERENT_STEPS
    pairs = sum(attended_pairs(batch.segments_G3) for batch in batches) // DIFFERENT_STEPS
    flops = training_flops(work.model, padded_vocab_size(work.vocab_size), work.tokens, int(targets), pairs)
    peak = device_peak_flops(device)
    return Speed(
        model=work.name,
        contender=contender,
        layout=layout,
        rows=work.rows,
        step_s=step_s,
        tokens_per_s=work.tokens / step_s,
        targets_per_s=targets / step_s,
        mfu=flops / step_s / peak if peak else None,
        peak_bytes=peaks[layout],
        loss=loss,
    )


def _train_config(work: Workload) -> TrainConfig:
    rows = work.rows * work.accumulation_steps
    values: dict[str, Any] = {
        "run_dir": Path("unused"),
        "data": {"corpus": Path("unused")},
        "model": work.model.model_dump(),
        "precision": work.precision,
        "batch": {"global_batch_size": rows, "micro_batch_size": work.rows},
        "parallel": {"zero_stage": 1},
        "optimizer": {"lr": LR},
        "schedule": {"total_steps": 10**6, "kind": "constant"},
    }
    return validate(values, TrainConfig)
