"""The kernels themselves, where there is a GPU: forward, gradients and leaks against the float64 oracle.

A kernel that rounds to bf16 can be as far from the oracle as rounding takes it, and no farther: the yardstick is dense
attention in the same precision (`sdpa` with its mask), whose error is measured on the same inputs.
"""

import numpy as np
import pytest
import torch
from attention_oracle import attend, batch_of, leaves, mask_of
from segment_lists import Segments
from torch import Tensor

from data_prep.shards import PADDING
from pipeline.attention import select_backend
from pipeline.attention.sdpa import SdpaBackend

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

CUDA = torch.device("cuda")
HEAD_DIM = 64
KERNELS = [("varlen", torch.bfloat16), ("varlen", torch.float16), ("flex", torch.bfloat16), ("sdpa", torch.bfloat16)]
MODEST = 2.0  # times the yardstick's error
FLOOR = {torch.bfloat16: 2e-2, torch.float16: 3e-3}  # of values of size 1


def random_row(random: np.random.Generator, row_length: int) -> Segments:
    """Segments of very unequal lengths, single tokens among them, with prefixes of every kind."""
    cuts = random.integers(1, row_length, size=random.choice([0, 1, 3, 12, 60]))
    starts = np.unique(np.concatenate([[0], cuts, cuts[:3] + 1]))
    starts = starts[starts < row_length]
    lengths = np.diff(np.append(starts, row_length))
    prefix_lens = [random.choice([0, min(1, n), n - 1, n, random.integers(0, n + 1)]) for n in lengths]
    row = [(int(start), int(p)) for start, p in zip(starts, prefix_lens, strict=True)]
    return [*row[:-1], (row[-1][0], PADDING)] if random.random() < 0.3 else row


def batches() -> list[tuple[list[Segments], int]]:
    random = np.random.default_rng(0)
    corners: list[Segments] = [[(0, 0)], [(0, 1)], [(0, 512)], [(0, 513)], [(i, 1) for i in range(513)], [(0, PADDING)]]
    fuzzed = [([random_row(random, length) for _ in range(4)], length) for length in (129, 257, 513, 1025, 200)]
    return [(corners, 513), ([[(0, 0)], [(0, 0), (100, 1)]], 513), *fuzzed]


@pytest.mark.parametrize(("name", "dtype"), KERNELS)
@pytest.mark.parametrize("index", range(len(batches())))
def test_a_kernel_equals_the_float64_oracle(name: str, dtype: torch.dtype, index: int) -> None:
    rows, row_length = batches()[index]
    batch = batch_of(rows, row_length).to(CUDA)
    exact, weights = leaves(len(rows), row_length - 1, seed=index, head_dim=HEAD_DIM)
    exact = [x.detach().to(CUDA, dtype).double().requires_grad_() for x in exact]  # what the kernels can represent
    weights = weights.to(CUDA, dtype).double()
    expected = attend(*exact, mask_of(rows, row_length).to(CUDA))
    wanted = [expected, *torch.autograd.grad((expected * weights).sum(), exact)]

    got = outputs_and_gradients(select_backend(name, CUDA, dtype).prepare(batch), exact, weights, dtype)
    yardstick = outputs_and_gradients(SdpaBackend().prepare(batch), exact, weights, dtype)
    for what, found, rounded, want in zip(("output", "dq", "dk", "dv"), got, yardstick, wanted, strict=True):
        assert not found.isnan().any(), what
        error, allowed = (found - want).abs().max(), (rounded - want).abs().max()
        assert error <= MODEST * allowed + FLOOR[dtype] * want.abs().max().clamp(max=1.0), f"{what}: {error:.2e}"


def outputs_and_gradients(plan, exact: list[Tensor], weights: Tensor, dtype: torch.dtype) -> list[Tensor]:
    inputs = [x.detach().to(dtype).requires_grad_() for x in exact]
    out = plan.attend(*inputs)
    return [x.double() for x in (out, *torch.autograd.grad((out * weights.to(dtype)).sum(), inputs))]


@pytest.mark.parametrize(("name", "dtype"), KERNELS)
def test_only_the_queries_that_see_a_token_notice_it(name: str, dtype: torch.dtype) -> None:
    rows, row_length = [[(0, 40), (70, 0), (90, 20), (120, 1), (121, PADDING)], [(0, 128)]], 129
    mask = mask_of(rows, row_length)[:, 0].to(CUDA)
    plan = select_backend(name, CUDA, dtype).prepare(batch_of(rows, row_length).to(CUDA))
    q, k, v = (x.detach().to(CUDA, dtype) for x in leaves(2, 128, seed=3, head_dim=HEAD_DIM)[0])
    before = plan.attend(q, k, v)
    for token in range(0, 128, 3):
        other_v = v.clone()
        other_v[:, :, token] += 100.0
        moved = (plan.attend(q, k, other_v) != before).any(-1).any(1)
        assert torch.equal(moved, mask[:, :, token]), f"token {token}"


def test_planning_does_not_wait_for_the_device() -> None:
    batch = batch_of([[(0, 30), (64, 0), (100, 20)]], 129).to(CUDA)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for name in ("varlen", "flex", "sdpa"):
            select_backend(name, CUDA, torch.bfloat16).prepare(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
