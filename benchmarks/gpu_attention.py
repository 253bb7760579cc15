"""The attention backends by themselves: whether they are right, and how fast, beside plain causal flash attention.

Shape suffixes: B rows, H heads, S columns, D features of a head.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from gpu_batches import make_synthetic_batch
from torch import Tensor

from pipeline.attention import AttentionPlan, select_backend
from pipeline.attention.sdpa import SdpaBackend, dense_mask
from pipeline.plan.flops import attended_pairs

BACKENDS = ("varlen", "flex", "sdpa")
PLAIN = "plain causal"
TIMES_THE_YARDSTICK = 2.0
# what rounding alone may do to a sum whose largest values are about 1: a few units in the last place
ROUNDING = {torch.bfloat16: 2e-2, torch.float16: 3e-3, torch.float32: 1e-5}
REPETITIONS, CALLS = 7, 5


@dataclass(frozen=True)
class Shape:
    """Shape of the tensors that are attended, and the precision."""

    rows: int
    heads: int
    sequence_length: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    def random(self, count: int, seed: int) -> list[Tensor]:
        """`count` tensors [B, H, S, D], laid out as the model's are: [B, S, H, D] in memory."""
        generator = torch.Generator(self.device).manual_seed(seed)
        size = (count, self.rows, self.sequence_length, self.heads, self.head_dim)
        drawn = torch.randn(size, generator=generator, device=self.device, dtype=self.dtype)
        return [x_BSHD.transpose(1, 2) for x_BSHD in drawn]


@dataclass(frozen=True)
class Correctness:
    """A backend against attention in float64: the largest error of output and gradients, and what is allowed."""

    backend: str
    layout: str
    error: float | None
    allowed: float | None
    why_not: str | None = None

    @property
    def right(self) -> bool:
        """Whether it may be measured."""
        return self.error is not None and self.allowed is not None and self.error <= self.allowed


@dataclass(frozen=True)
class AttentionTiming:
    """Times of one layer's attention in milliseconds; FLOPs are those of the pairs that the mask allows."""

    backend: str
    layout: str
    sequence_length: int
    rows: int
    forward_ms: float
    both_ms: float
    plan_ms: float
    tflops_per_s: float


def check_backend(name: str, layout: str, shape: Shape) -> Correctness:
    """Output and gradients of one backend on one batch against float64, and against what `sdpa` makes of it."""
    batch = make_synthetic_batch(
        shape.rows, shape.sequence_length, 2, layout=layout, seed=5, median_tokens=shape.sequence_length // 6
    ).to(shape.device)
    *inputs, weights = shape.random(4, seed=1)
    exact = _with_gradients(lambda q, k, v: _by_definition(q, k, v, dense_mask(batch)[:, None]), inputs, weights, True)
    rounded = _with_gradients(SdpaBackend().prepare(batch).attend, inputs, weights, False)
    plan = select_backend(name, shape.device, shape.dtype).prepare(batch)
    found = _with_gradients(plan.attend, inputs, weights, False)
    # of the output and the three gradients, the one that is nearest to what is allowed or farthest beyond it
    errors = [_relative(got, want) for got, want in zip(found, exact, strict=True)]
    allowed = [
        TIMES_THE_YARDSTICK * _relative(got, want) * (name != "sdpa") + ROUNDING[shape.dtype]
        for got, want in zip(rounded, exact, strict=True)
    ]
    worst = max(range(len(errors)), key=lambda i: errors[i] / allowed[i])
    return Correctness(name, layout, errors[worst], allowed[worst])


def time_backend(name: str, layout: str, shape: Shape, repetitions: int = REPETITIONS) -> AttentionTiming:
    """Forward, and forward with backward, of one backend; `PLAIN` is `is_causal` over whole rows."""
    batch = make_synthetic_batch(
        shape.rows, shape.sequence_length, 2, layout="whole" if name == PLAIN else layout, seed=7
    ).to(shape.device)
    if name == PLAIN:
        attend: Callable[..., Tensor] = _plain_causal
        plan_ms = 0.0
    else:
        backend = select_backend(name, shape.device, shape.dtype)
        plan: AttentionPlan = backend.prepare(batch)
        plan_ms = _median_ms(lambda: backend.prepare(batch), shape.device, repetitions)
        attend = plan.attend
    *inputs, weights = shape.random(4, seed=1)
    inputs = [x.requires_grad_() for x in inputs]

    def forward() -> Tensor:
        with torch.no_grad():
            return attend(*inputs)

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(attend(*inputs), inputs, weights)

    forward_ms, both_ms = (_median_ms(work, shape.device, repetitions) for work in (forward, both))
    flops = 3 * 4 * attended_pairs(batch.segments_G3) * shape.heads * shape.head_dim
    return AttentionTiming(
        name, layout, shape.sequence_length, shape.rows, forward_ms, both_ms, plan_ms, flops / both_ms / 1e9
    )


def _plain_causal(q_BHSD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q_BHSD, k_BHSD, v_BHSD, is_causal=True)


def _by_definition(q_BHSD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, mask_B1SS: Tensor) -> Tensor:
    scores = q_BHSD @ k_BHSD.transpose(-1, -2) / q_BHSD.shape[-1] ** 0.5
    return scores.masked_fill(~mask_B1SS, -torch.inf).softmax(-1) @ v_BHSD


def _with_gradients(attend: Callable[..., Tensor], inputs: list[Tensor], weights: Tensor, exact: bool) -> list[Tensor]:
    """Output and gradients of the sum of the output with `weights`, in float64; computed in it too where `exact`."""
    own = [(x.detach().double() if exact else x.detach()).requires_grad_() for x in inputs]
    out = attend(*own)
    grads = torch.autograd.grad(out, own, weights.to(out.dtype))
    return [x.detach().double() for x in (out, *grads)]


def _relative(found: Tensor, wanted: Tensor) -> float:
    error = float((found - wanted).abs().max() / wanted.abs().max())
    return error if error == error else float("inf")  # NaN is as wrong as can be


def _median_ms(work: Callable[[], object], device: torch.device, repetitions: int) -> float:
    """Median time of one call, after calls that compile and warm up."""
    for _ in range(3):
        work()
    times_ms = []
    for _ in range(repetitions):
        _wait(device)
        started = time.perf_counter()
        for _ in range(CALLS):  # one after another without waiting, as the layers of a model
            work()
        _wait(device)
        times_ms.append(1e3 * (time.perf_counter() - started) / CALLS)
    return statistics.median(times_ms)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
