"""FlexAttention with a block mask that is built once per batch and shared by all layers and heads. CUDA.

The rule gives every query one interval of keys, from its segment's start to the later of itself and its prefix's end.
Both ends never decrease along a row, and the intervals of neighbours in a segment overlap; so which of the 128 x 128
blocks are empty, full or in between follows from the first and the last query of each block of queries, and the S x S
mask, whose making can cost more than the attention, is never made. The kernel wants whole blocks: rows are padded to a
multiple of 128 in `attend`, which costs a copy of q, k and v, and the padding sees itself alone.

On a CPU PyTorch has no backward pass for it.

Shape suffixes: B rows, S columns, P = S rounded up to whole blocks, I blocks of queries, J blocks of keys, H heads, D
features of a head.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from pipeline.data.batch import Batch

BLOCK = 128


@dataclass(frozen=True)
class FlexPlan:
    """The block mask of a batch of rows of `sequence_length` tokens, and the function that takes it."""

    block_mask: BlockMask
    sequence_length: int
    kernel: Callable[..., Any]

    def attend(self, q_BHSD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor) -> Tensor:
        """See `AttentionPlan.attend`."""
        missing = -self.sequence_length % BLOCK
        if missing:
            q_BHSD, k_BHSD, v_BHSD = (F.pad(x_BHSD, (0, 0, 0, missing)) for x_BHSD in (q_BHSD, k_BHSD, v_BHSD))
        out_BHPD = self.kernel(q_BHSD, k_BHSD, v_BHSD, block_mask=self.block_mask)
        return out_BHPD[:, :, : self.sequence_length]


class FlexBackend:
    """Attention by `flex_attention`."""

    name: ClassVar[str] = "flex"

    def prepare(self, batch: Batch) -> FlexPlan:
        """See `AttentionBackend.prepare`."""
        kernel: Any = _compiled() if batch.tokens_BS.device.type == "cuda" else flex_attention
        return FlexPlan(block_mask(batch), batch.tokens_BS.shape[1], kernel)


@functools.cache
def _compiled() -> Callable[..., Any]:
    # uncompiled it would compute all of S x S; symbolic shapes have given wrong results, and here they are fixed
    return torch.compile(flex_attention, dynamic=False)


def block_mask(batch: Batch) -> BlockMask:
    """The rule as FlexAttention wants it, for all heads, on the batch's device."""
    sequence_length = batch.tokens_BS.shape[1]
    missing = -sequence_length % BLOCK
    start_BP, end_BP = batch.segment_start_BS, batch.key_end_BS
    if missing:
        itself_BM = torch.arange(sequence_length, sequence_length + missing, device=start_BP.device)
        itself_BM = itself_BM.expand(len(start_BP), -1)
        start_BP, end_BP = torch.cat([start_BP, itself_BM], 1), torch.cat([end_BP, itself_BM + 1], 1)

    first_key_J = torch.arange(0, sequence_length + missing, BLOCK, device=start_BP.device)
    start_BI1B, end_BI1B = (x_BP.unflatten(1, (-1, 1, BLOCK)) for x_BP in (start_BP, end_BP))
    reached_BIJ = (start_BI1B[..., 0] < first_key_J + BLOCK) & (end_BI1B[..., -1] > first_key_J)
    full_BIJ = (start_BI1B[..., -1] <= first_key_J) & (end_BI1B[..., 0] >= first_key_J + BLOCK)
    start_BP, end_BP = start_BP.int(), end_BP.int()

    def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (start_BP[row, query] <= key) & (key < end_BP[row, query])

    return BlockMask.from_kv_blocks(
        *_listed(reached_BIJ & ~full_BIJ), *_listed(full_BIJ), BLOCK_SIZE=BLOCK, mask_mod=visible
    )


def _listed(chosen_BIJ: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks of keys are chosen for each block of queries [B, 1, I], and which, in front [B, 1, I, J]."""
    chosen_B1IJ = chosen_BIJ[:, None].int()
    order_B1IJ = chosen_B1IJ.argsort(dim=-1, descending=True, stable=True)
    return chosen_B1IJ.sum(-1, dtype=torch.int32), order_B1IJ.int()
