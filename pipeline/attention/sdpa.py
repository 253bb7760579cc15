"""`torch.nn.functional.scaled_dot_product_attention`: runs anywhere, and is the oracle for the other backends.

The mask is dense, boolean, and built once per batch. Calls per segment need no mask, but on a CPU they win only for few
long segments (by a quarter at 4 rows of 1024 tokens in segments of 256) and lose by a factor of two to three on short
rows, where the calls themselves cost more than the attention. A batch whose rows are each one causal segment needs no
mask at all.

Shape suffixes: B rows, H heads, S queries or keys, D features of a head; q, k and v may differ in S.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.data.batch import Batch


@dataclass(frozen=True)
class SdpaPlan:
    """Which keys a query sees: those in `mask_B1SS`; without one, the keys up to itself (`is_causal`) or all keys."""

    mask_B1SS: Tensor | None = None
    is_causal: bool = False

    def attend(self, q_BHSD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor) -> Tensor:
        """See `AttentionPlan.attend`."""
        return F.scaled_dot_product_attention(
            q_BHSD, k_BHSD, v_BHSD, attn_mask=self.mask_B1SS, is_causal=self.is_causal
        )


class SdpaBackend:
    """Dense-mask attention."""

    name: ClassVar[str] = "sdpa"

    def prepare(self, batch: Batch) -> SdpaPlan:
        """See `AttentionBackend.prepare`."""
        one_segment_each = len(batch.segments_G3) == len(batch.tokens_BS)
        if one_segment_each and (batch.segments_G3[:, 2] <= 1).all():
            return SdpaPlan(is_causal=True)
        return SdpaPlan(mask_B1SS=dense_mask(batch)[:, None])


def dense_mask(batch: Batch) -> Tensor:
    """The rule written out: bool [B, S queries, S keys], True where the query sees the key."""
    columns_S = torch.arange(batch.tokens_BS.shape[1], device=batch.tokens_BS.device)
    return (batch.segment_start_BS[:, :, None] <= columns_S) & (columns_S < batch.key_end_BS[:, :, None])
