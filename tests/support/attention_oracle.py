"""Attention by its definition in float64, under a mask written pair by pair, and random inputs for it.

Shape suffixes: B rows, H heads, S columns, D features of a head.
"""

import math

import numpy as np
import torch
from segment_lists import Segments, visible
from torch import Tensor

from pipeline.data.batch import Batch, make_batch

HEADS, HEAD_DIM = 2, 8


def batch_of(rows: list[Segments], row_length: int) -> Batch:
    """A batch of these segments, of tokens that do not matter."""
    segments = [np.array(row, dtype=np.int32) for row in rows]
    return make_batch(np.zeros((len(rows), row_length), dtype=np.uint16), segments, np.arange(len(rows)))


def mask_of(rows: list[Segments], row_length: int) -> Tensor:
    """bool [B, 1, S queries, S keys]."""
    return torch.stack([visible(row, row_length - 1) for row in rows])[:, None]


def leaves(num_rows: int, sequence_length: int, seed: int, head_dim: int = HEAD_DIM) -> tuple[list[Tensor], Tensor]:
    """Queries, keys and values, float64 [B, H, S, D] with gradients wanted, and weights to sum an output with."""
    generator = torch.Generator().manual_seed(seed)
    shape = (4, num_rows, HEADS, sequence_length, head_dim)
    *exact, weights = torch.randn(shape, generator=generator, dtype=torch.float64).unbind()
    return [tensor.requires_grad_() for tensor in exact], weights


def attend(q_BHSD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, mask_B1SS: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v where the mask is True."""
    scores = q_BHSD @ k_BHSD.transpose(-1, -2) / math.sqrt(q_BHSD.shape[-1])
    return scores.masked_fill(~mask_B1SS, -torch.inf).softmax(-1) @ v_BHSD
