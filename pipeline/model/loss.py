"""Hidden states at scored positions -> negative log-likelihoods, without the logits of a whole batch ever existing.

The vocabulary is split over the tensor-parallel group. Positions are taken in chunks; a chunk's logits are used for its
losses and, when gradients are wanted, at once for its gradients, and are then forgotten. So the head is computed once,
and memory is bounded by one chunk whatever the batch. (The gradient of a sum does not have to wait for `backward`: it
is known up to the factor that `backward` brings; Liger Kernel's fused linear cross entropy does the same.)

The vocabulary is padded to a multiple of 128; a padding id gets no probability and no gradient.

Shape suffixes: N scored positions, C positions of a chunk, D hidden size, V this rank's part of the padded vocabulary.
"""

import torch
from megatron.core.tensor_parallel import copy_to_tensor_model_parallel_region, vocab_parallel_cross_entropy
from torch import Tensor
from torch.distributed import ProcessGroup

# Fewer make the sum of the weight's gradients, which passes over the whole matrix once per chunk, cost more than the
# multiplication; more fall out of a CPU's caches.
POSITIONS_PER_CHUNK = 512


def scored_nll(hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, vocab_size: int, group: ProcessGroup) -> Tensor:
    """Negative log-likelihood of each label, in nats: fp32 [N], without gradients.

    Args:
        hidden_ND: final hidden states, the same on every rank of `group`.
        weight_VD: this rank's rows of the output matrix.
        labels_N: int64 ids in [0, vocab_size).
        vocab_size: ids from here on are padding.
        group: the tensor-parallel group.
    """
    with torch.no_grad():
        chunks = zip(hidden_ND.split(POSITIONS_PER_CHUNK), labels_N.split(POSITIONS_PER_CHUNK), strict=True)
        return torch.cat([_nll(_logits(h_CD, weight_VD, vocab_size, group), labels_C) for h_CD, labels_C in chunks])


def scored_nll_sum(
    hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, vocab_size: int, group: ProcessGroup
) -> Tensor:
    """The sum of `scored_nll` as an fp32 scalar with gradients (zero ones when N is 0); arguments as there."""
    if not torch.is_grad_enabled():
        return scored_nll(hidden_ND, weight_VD, labels_N, vocab_size, group).sum()
    # each rank knows its part of the vocabulary's contribution to the hidden states' gradient: this adds them up
    hidden_ND = copy_to_tensor_model_parallel_region(hidden_ND, group=group)
    return _ScoredNllSum.apply(hidden_ND, weight_VD, labels_N, vocab_size, group)


class _ScoredNllSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, labels_N, vocab_size, group):
        grad_hidden_ND = torch.empty_like(hidden_ND)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32)  # many chunks add up: not in bf16
        loss_sum = hidden_ND.new_zeros((), dtype=torch.float32)
        chunks = (tensor.split(POSITIONS_PER_CHUNK) for tensor in (hidden_ND, labels_N, grad_hidden_ND))
        for hidden_CD, labels_C, grad_hidden_CD in zip(*chunks, strict=True):
            logits_CV = _logits(hidden_CD, weight_VD, vocab_size, group).requires_grad_()
            with torch.enable_grad():
                chunk_sum = _nll(logits_CV, labels_C).sum()
            (grad_logits_CV,) = torch.autograd.grad(chunk_sum, logits_CV)
            torch.mm(grad_logits_CV, weight_VD, out=grad_hidden_CD)
            if hidden_CD.dtype == torch.float32:
                grad_weight_VD.addmm_(grad_logits_CV.T, hidden_CD)
            else:
                grad_weight_VD += grad_logits_CV.T @ hidden_CD
            loss_sum += chunk_sum
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD.to(weight_VD.dtype))
        return loss_sum

    @staticmethod
    def backward(ctx, grad_output):
        grad_hidden_ND, grad_weight_VD = ctx.saved_tensors
        return grad_hidden_ND * grad_output, grad_weight_VD * grad_output, None, None, None


def _logits(hidden_CD: Tensor, weight_VD: Tensor, vocab_size: int, group: ProcessGroup) -> Tensor:
    """This rank's part of the logits, [C, V] in the dtype of `hidden_CD`; -inf for padding ids."""
    logits_CV = hidden_CD @ weight_VD.T
    first_id = group.rank() * weight_VD.shape[0]
    logits_CV[:, max(0, vocab_size - first_id) :] = -torch.inf
    return logits_CV


def _nll(logits_CV: Tensor, labels_C: Tensor) -> Tensor:
    """Fp32 [C]; may overwrite `logits_CV`."""
    return vocab_parallel_cross_entropy(logits_CV, labels_C)
