"""Flash attention on packed tokens without any mask: `torch.nn.attention.varlen`. CUDA, bf16 or fp16.

`pipeline.attention.sequences` tells how the rule becomes one causal call and, for the rows inside prefixes, one call
without a mask, with no query-key pair computed in vain. Queries are sorted into the two calls and their results back;
keys and values go into the causal call as they are, and a copy of those in prefixes goes into the other. A batch
without prefixes is one call and nothing is moved.

torch 2.10 has `is_causal` where later versions have `window_size`; 2.11 is the oldest that Foreword takes.

Shape suffixes: B rows, S columns, T = B * S tokens, H heads of this tensor-parallel rank, D features of a head, Q
queries of the prefix call, K keys of the prefix call, O the other tokens.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import varlen

from pipeline.attention.sequences import PrefixRows, Sequences, split_sequences
from pipeline.data.batch import Batch

NO_MASK, CAUSAL = (-1, -1), (-1, 0)


@dataclass(frozen=True)
class Call:
    """One call's sequences on the device; see `Sequences`."""

    cu_q: Tensor
    cu_k: Tensor
    max_q: int
    max_k: int
    window_size: tuple[int, int]

    def __call__(self, q_QHD: Tensor, k_KHD: Tensor, v_KHD: Tensor) -> Tensor:
        """Attention inside of each sequence: [Q, H, D]."""
        out: Any = varlen.varlen_attn(
            q_QHD, k_KHD, v_KHD, self.cu_q, self.cu_k, self.max_q, self.max_k, window_size=self.window_size
        )
        return out


@dataclass(frozen=True)
class PrefixCall:
    """The call for rows inside prefixes, and which tokens it reads and leaves; see `PrefixRows`."""

    call: Call
    queries_Q: Tensor
    keys_K: Tensor
    others_O: Tensor


@dataclass(frozen=True)
class VarlenPlan:
    """The causal call of a batch, and its prefix call if it has prefixes."""

    causal: Call
    prefix: PrefixCall | None

    def attend(self, q_BHSD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor) -> Tensor:
        """See `AttentionPlan.attend`."""
        batch_size = q_BHSD.shape[0]
        q_THD, k_THD, v_THD = (x_BHSD.transpose(1, 2).flatten(0, 1) for x_BHSD in (q_BHSD, k_BHSD, v_BHSD))
        if self.prefix is None:
            out_THD = self.causal(q_THD, k_THD, v_THD)
        else:
            rows = self.prefix
            q_OHD, q_QHD = _Part.apply(q_THD, rows.others_O, rows.queries_Q)
            out_OHD = self.causal(q_OHD, k_THD, v_THD)
            out_QHD = rows.call(q_QHD, _Take.apply(k_THD, rows.keys_K), _Take.apply(v_THD, rows.keys_K))
            out_THD = _Join.apply(out_OHD, out_QHD, rows.others_O, rows.queries_Q)
        return out_THD.unflatten(0, (batch_size, -1)).transpose(1, 2)


class VarlenBackend:
    """Attention by `varlen_attn`."""

    name: ClassVar[str] = "varlen"

    def prepare(self, batch: Batch) -> VarlenPlan:
        """See `AttentionBackend.prepare`; the arithmetic is on the CPU, what comes of it is copied asynchronously."""
        device = batch.tokens_BS.device
        causal, prefix = split_sequences(batch.segments_G3)
        return VarlenPlan(
            causal=_call(causal, CAUSAL, device), prefix=None if prefix is None else _prefix_call(prefix, device)
        )


def _call(sequences: Sequences, window_size: tuple[int, int], device: torch.device) -> Call:
    cu_q, cu_k = _to_device(sequences.cu_q, device), _to_device(sequences.cu_k, device)
    return Call(cu_q, cu_k, sequences.max_q, sequences.max_k, window_size)


def _prefix_call(rows: PrefixRows, device: torch.device) -> PrefixCall:
    return PrefixCall(
        call=_call(rows.sequences, NO_MASK, device),
        queries_Q=_to_device(rows.queries, device),
        keys_K=_to_device(rows.keys, device),
        others_O=_to_device(rows.others, device),
    )


def _to_device(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    if device.type == "cuda":  # from pageable memory the copy would wait for the device
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


# Each index below names a token once. So the gradient of taking rows is putting them back, which autograd, that has to
# allow for repetitions, would do by sorting or by atomic additions.


class _Part(torch.autograd.Function):
    """x [T, ...] -> its rows `first` and its rows `second`, which together are all rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(first, second)
        return x.index_select(0, first), x.index_select(0, second)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _joined(*grads, *ctx.saved_tensors), None, None


class _Join(torch.autograd.Function):
    """The inverse of `_Part`."""

    @staticmethod
    def forward(ctx: Any, x_first: Tensor, x_second: Tensor, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(first, second)
        return _joined(x_first, x_second, first, second)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (grad,) = grads
        first, second = ctx.saved_tensors
        return grad.index_select(0, first), grad.index_select(0, second), None, None


class _Take(torch.autograd.Function):
    """x [T, ...] -> its rows `index`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.num_rows = x.shape[0]
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        (index,) = ctx.saved_tensors
        return grad.new_zeros(ctx.num_rows, *grad.shape[1:]).index_copy_(0, index, grad), None


def _joined(x_first: Tensor, x_second: Tensor, first: Tensor, second: Tensor) -> Tensor:
    joined = x_first.new_empty(x_first.shape[0] + x_second.shape[0], *x_first.shape[1:])
    return joined.index_copy_(0, first, x_first).index_copy_(0, second, x_second)
