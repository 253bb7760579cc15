"""Every backend equals attention computed in float64 under a mask written pair by pair, forward and gradients."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from segment_lists import Segments, rows_of_segments, visible
from torch import Tensor

from data_prep.shards import PADDING
from foreword.errors import ConfigError
from pipeline.attention import AttentionBackend, select_backend
from pipeline.attention.sdpa import SdpaBackend
from pipeline.data.batch import Batch, make_batch

BACKENDS: list[AttentionBackend] = [SdpaBackend()]
HEADS, HEAD_DIM = 2, 4


def batch_of(rows: list[Segments], row_length: int) -> Batch:
    segments = [np.array(row, dtype=np.int32) for row in rows]
    return make_batch(np.zeros((len(rows), row_length), dtype=np.uint16), segments, np.arange(len(rows)))


def oracle(q: Tensor, k: Tensor, v: Tensor, rows: list[Segments]) -> Tensor:
    """Attention by its definition, on float64 [B, H, S, D]."""
    mask = torch.stack([visible(row, q.shape[2]) for row in rows])[:, None]
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: type(backend).__name__)
@settings(max_examples=100, deadline=None)
@given(rows_of_segments())
def test_outputs_and_gradients_equal_the_float64_oracle(
    backend: SdpaBackend, drawn: tuple[list[Segments], int]
) -> None:
    rows, row_length = drawn
    generator = torch.Generator().manual_seed(row_length)
    shape = (4, len(rows), HEADS, row_length - 1, HEAD_DIM)
    *exact, weights = torch.randn(shape, generator=generator, dtype=torch.float64).unbind()
    exact = [tensor.requires_grad_() for tensor in exact]
    inputs = [tensor.detach().float().requires_grad_() for tensor in exact]

    expected = oracle(*exact, rows)
    actual = backend.prepare(batch_of(rows, row_length)).attend(*inputs)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)

    expected_gradients = torch.autograd.grad((expected * weights).sum(), exact)
    actual_gradients = torch.autograd.grad((actual * weights).sum(), inputs)
    for got, want in zip(actual_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)


def test_a_batch_of_single_causal_segments_needs_no_mask() -> None:
    assert SdpaBackend().prepare(batch_of([[(0, 0)], [(0, 1)]], 8)).mask_B1SS is None


@pytest.mark.parametrize("row", [[(0, 2)], [(0, 0), (4, 0)], [(0, 0), (6, PADDING)]])
def test_any_other_batch_has_one(row: Segments) -> None:
    assert SdpaBackend().prepare(batch_of([[(0, 0)], row], 8)).mask_B1SS is not None


@pytest.mark.parametrize("name", ["varlen", "flex", "quadratic"])
def test_a_backend_that_is_not_there_says_why_and_what_is(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}'[\s\S]*available: auto, sdpa"):
        select_backend(name)
