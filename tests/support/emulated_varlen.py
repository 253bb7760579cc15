"""`varlen_attn` in plain PyTorch, one sequence after the other, on any device and in any precision.

The causal mask is aligned to the end of the keys, as in flash attention (and as `torch.nn.attention.bias` relies on for
`causal_lower_right`). What the kernels do not check, and answer with garbage, is refused here.
"""

import math

import torch
from torch import Tensor

FULL, CAUSAL = (-1, -1), (-1, 0)


def emulated_varlen_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    window_size: tuple[int, int] = FULL,
) -> Tensor:
    """[queries, H, D] from queries [queries, H, D] and keys and values [keys, H, D]."""
    assert cu_q.dtype == cu_k.dtype == torch.int32 and len(cu_q) == len(cu_k)
    assert (cu_q[0], cu_k[0], cu_q[-1], cu_k[-1]) == (0, 0, len(q), len(k))
    assert (max_q, max_k) == (int(cu_q.diff().max()), int(cu_k.diff().max()))
    assert cu_q.diff().min() > 0 and cu_k.diff().min() > 0, "a sequence without queries or keys"
    out = []
    for q0, q1, k0, k1 in zip(cu_q[:-1], cu_q[1:], cu_k[:-1], cu_k[1:], strict=True):
        scores = torch.einsum("qhd,khd->hqk", q[q0:q1], k[k0:k1]) / math.sqrt(q.shape[-1])
        if window_size == CAUSAL:
            assert q1 - q0 <= k1 - k0, "rows that see no key"
            unseen = torch.ones_like(scores[0], dtype=torch.bool).triu(int(k1 - k0) - int(q1 - q0) + 1)
            scores = scores.masked_fill(unseen, -torch.inf)
        else:
            assert window_size == FULL
        out.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v[k0:k1]))
    return torch.cat(out)
