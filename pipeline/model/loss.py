"""Hidden states at scored positions -> negative log-likelihoods, without the logits of a whole batch ever existing.

The vocabulary is split over the tensor-parallel group. Positions are taken in chunks; a chunk's logits are used for its
losses and, when gradients are wanted, at once for its gradients, and are then forgotten. So the head is computed once,
and memory is bounded by one chunk whatever the batch. (The gradient of a sum does not have to wait for `backward`: it
is known up to the factor that `backward` brings; Liger Kernel's fused linear cross entropy does the same.)

The cross entropy is computed in place, over one buffer for all chunks: what the textbook's way costs beyond its matrix
products is passes over fresh memory. It follows megatron-core's `vocab_parallel_cross_entropy`, which takes the maximum
with its index and leaves a second copy of the logits to autograd.

The vocabulary is padded to a multiple of 128; a padding id gets no probability and no gradient.

Shape suffixes: N scored positions, C positions of a chunk, D hidden size, V this rank's part of the padded vocabulary.
"""

import torch
from megatron.core.tensor_parallel import copy_to_tensor_model_parallel_region
from torch import Tensor
from torch.distributed import ProcessGroup, ReduceOp, all_reduce

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
        head = _Head(weight_VD, vocab_size, group, len(hidden_ND))
        chunks = zip(hidden_ND.split(POSITIONS_PER_CHUNK), labels_N.split(POSITIONS_PER_CHUNK), strict=True)
        return torch.cat([head.nll(head.logits(hidden_CD), labels_C) for hidden_CD, labels_C in chunks])


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
        head = _Head(weight_VD, vocab_size, group, len(hidden_ND))
        grad_hidden_ND = torch.empty_like(hidden_ND)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32)  # many chunks add up: not in bf16
        loss_sum = hidden_ND.new_zeros((), dtype=torch.float32)
        chunks = (tensor.split(POSITIONS_PER_CHUNK) for tensor in (hidden_ND, labels_N, grad_hidden_ND))
        for hidden_CD, labels_C, grad_hidden_CD in zip(*chunks, strict=True):
            logits_CV = head.logits(hidden_CD)
            loss_sum += head.nll(logits_CV, labels_C).sum()
            grad_logits_CV = head.gradient(logits_CV, labels_C).to(hidden_CD.dtype)
            torch.mm(grad_logits_CV, weight_VD, out=grad_hidden_CD)
            if hidden_CD.dtype == torch.float32:
                grad_weight_VD.addmm_(grad_logits_CV.T, hidden_CD)
            else:
                grad_weight_VD += grad_logits_CV.T @ hidden_CD
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD.to(weight_VD.dtype))
        return loss_sum

    @staticmethod
    def backward(ctx, grad_output):
        grad_hidden_ND, grad_weight_VD = ctx.saved_tensors
        return grad_hidden_ND * grad_output, grad_weight_VD * grad_output, None, None, None


class _Head:
    """This rank's part of the vocabulary, and room for one chunk's logits."""

    def __init__(self, weight_VD: Tensor, vocab_size: int, group: ProcessGroup, positions: int) -> None:
        self.weight_VD, self.group = weight_VD, group
        self.first_id = group.rank() * len(weight_VD)
        self.first_padding = max(0, vocab_size - self.first_id)
        self.buffer_CV = weight_VD.new_empty(min(POSITIONS_PER_CHUNK, positions), len(weight_VD))

    def logits(self, hidden_CD: Tensor) -> Tensor:
        """Fp32 [C, V], valid until the next call; -inf for padding ids."""
        logits_CV = torch.mm(hidden_CD, self.weight_VD.T, out=self.buffer_CV[: len(hidden_CD)]).float()
        logits_CV[:, self.first_padding :] = -torch.inf
        return logits_CV

    def nll(self, logits_CV: Tensor, labels_C: Tensor) -> Tensor:
        """Fp32 [C]; leaves the probabilities in the logits' place."""
        highest_C = logits_CV.amax(-1)
        self._reduce(highest_C, ReduceOp.MAX)
        logits_CV.sub_(highest_C[:, None])
        column_C1, is_here_C1 = self._columns(labels_C)
        label_logit_C = torch.where(is_here_C1, logits_CV.gather(1, column_C1), 0.0).squeeze(1)
        exp_CV = logits_CV.exp_()
        sums_2C = torch.stack([exp_CV.sum(-1), label_logit_C])
        self._reduce(sums_2C, ReduceOp.SUM)
        exp_CV.div_(sums_2C[0][:, None])
        return sums_2C[0].log() - sums_2C[1]

    def gradient(self, probabilities_CV: Tensor, labels_C: Tensor) -> Tensor:
        """Of the chunk's sum with regard to its logits, in the probabilities' place."""
        column_C1, is_here_C1 = self._columns(labels_C)
        return probabilities_CV.scatter_add_(1, column_C1, -is_here_C1.to(probabilities_CV.dtype))

    def _columns(self, labels_C: Tensor) -> tuple[Tensor, Tensor]:
        """Where each label is in this rank's part (anywhere, when it is not), and whether it is."""
        column_C1 = (labels_C - self.first_id)[:, None]
        is_here_C1 = (column_C1 >= 0) & (column_C1 < len(self.weight_VD))
        return column_C1.clamp(0, len(self.weight_VD) - 1), is_here_C1

    def _reduce(self, values: Tensor, operation: ReduceOp.RedOpType) -> None:
        if self.group.size() > 1:
            all_reduce(values, operation, group=self.group)
