"""Hidden states at scored positions -> negative log-likelihoods, without the logits of a whole batch ever existing.

The vocabulary is split over the tensor-parallel group. Positions are taken in chunks; a chunk's logits are used for its
losses and, when gradients are wanted, at once for its gradients, and are then forgotten. So the head is computed once,
and memory is bounded by one chunk whatever the batch. (The gradient of a sum does not have to wait for `backward`: it
is known up to the factor that `backward` brings; Liger Kernel's fused linear cross entropy does the same.)

The cross entropy is computed in place, over one buffer for all chunks: what the textbook's way costs beyond its matrix
products is passes over fresh memory. It follows megatron-core's `vocab_parallel_cross_entropy`, which takes the maximum
with its index and leaves a second copy of the logits to autograd. In bf16 the passes that are left move 44 bytes for
each logit, which for the 124M model would be a fifth of a fast GPU's step: there `pipeline.engine.compilation` fuses
them.

The vocabulary is padded to a multiple of 128; a padding id gets no probability and no gradient.

z-loss (Chowdhery et al. 2022, "PaLM", section 5) keeps the logits from drifting: `z_loss` x log(Z)^2 is added to each
position's loss, where Z is the softmax's normaliser. It is in the gradients alone: what is returned and reported stays
the plain negative log-likelihood, so that runs with and without it, and training and validation, can be compared. Its
gradient is a factor of each position on the probabilities, which have to be divided by Z anyway.

Shape suffixes: N scored positions, C positions of a chunk, D hidden size, V this rank's part of the padded vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.model.tensor_parallel import Ranks, all_reduce, copy_for_parts

# Fewer make the sum of the weight's gradients, which passes over the whole matrix once per chunk, cost more than the
# multiplication. More fall out of a CPU's caches; a GPU, whose memory is slower beside its arithmetic, needs more.
POSITIONS_PER_CHUNK = {"cpu": 512, "cuda": 4096}

# (logits, labels, first id, first padding, z_loss, ranks) -> losses and gradients; `chunk_loss`, or it compiled
ChunkLoss = Callable[[Tensor, Tensor, int, int, float, Ranks], tuple[Tensor, Tensor]]


def scored_nll(hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, vocab_size: int, ranks: Ranks) -> Tensor:
    """Negative log-likelihood of each label, in nats: fp32 [N], without gradients.

    Args:
        hidden_ND: final hidden states, the same on every rank.
        weight_VD: this rank's rows of the output matrix.
        labels_N: int64 ids in [0, vocab_size).
        vocab_size: ids from here on are padding.
        ranks: the tensor-parallel group.
    """
    with torch.no_grad():
        head = _Head(weight_VD, vocab_size, ranks, len(hidden_ND))
        chunks = zip(hidden_ND.split(head.size), labels_N.split(head.size), strict=True)
        return torch.cat([head.loss(hidden_CD, labels_C)[0] for hidden_CD, labels_C in chunks])


def scored_nll_and_hits(
    hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, vocab_size: int, ranks: Ranks
) -> Tensor:
    """Each label's negative log-likelihood, and 1 where it is the likeliest id, else 0: fp32 [2, N], without gradients.

    Of several likeliest ids the first counts, as for `torch.argmax` over the whole vocabulary. Arguments as of
    `scored_nll`.
    """
    with torch.no_grad():
        head = _Head(weight_VD, vocab_size, ranks, len(hidden_ND))
        chunks = zip(hidden_ND.split(head.size), labels_N.split(head.size), strict=True)
        return torch.cat([head.scores(hidden_CD, labels_C) for hidden_CD, labels_C in chunks], dim=1)


def scored_nll_sum(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    labels_N: Tensor,
    vocab_size: int,
    ranks: Ranks,
    *,
    z_loss: float = 0.0,
    compute: ChunkLoss | None = None,
) -> Tensor:
    """The sum of `scored_nll` as an fp32 scalar with gradients (zero ones when N is 0); arguments as there.

    Args:
        z_loss: the gradients are those of the sum of nll + z_loss * log(Z)^2.
        compute: `chunk_loss` unless given.
    """
    if not torch.is_grad_enabled():
        return scored_nll(hidden_ND, weight_VD, labels_N, vocab_size, ranks).sum()
    # each rank knows its part of the vocabulary's contribution to the hidden states' gradient: this adds them up, or
    # under sequence parallelism the gathering that they come from does
    if not ranks.sequence_parallel:
        hidden_ND = copy_for_parts(hidden_ND, ranks)
    return _ScoredNllSum.apply(hidden_ND, weight_VD, labels_N, vocab_size, ranks, z_loss, compute or chunk_loss)


def chunk_loss(
    logits_CV: Tensor, labels_C: Tensor, first_id: int, first_padding: int, z_loss: float, ranks: Ranks
) -> tuple[Tensor, Tensor]:
    """Losses of a chunk and the gradient of their sum with regard to its logits.

    Args:
        logits_CV: this rank's part, in any precision; fp32 ones are overwritten.
        labels_C: ids in the whole vocabulary.
        first_id: of this rank's part.
        first_padding: column from which on this rank's part is padding; see `own_ids`.
        z_loss: see the module.
        ranks: the tensor-parallel group.

    Returns:
        Negative log-likelihoods, fp32 [C]; the gradient [C, V] in the precision of the logits, z-loss in it.
    """
    dtype, num_columns = logits_CV.dtype, logits_CV.shape[1]
    logits_CV = logits_CV.float()
    logits_CV[:, first_padding:] = -torch.inf
    # where each label is in this rank's part (anywhere, when it is not), and whether it is
    column_C1 = (labels_C - first_id)[:, None]
    is_here_C1 = (column_C1 >= 0) & (column_C1 < num_columns)
    column_C1 = column_C1.clamp(0, num_columns - 1)

    highest_C = all_reduce(logits_CV.amax(-1), "max", ranks)
    logits_CV.sub_(highest_C[:, None])
    label_logit_C = torch.where(is_here_C1, logits_CV.gather(1, column_C1), 0.0).squeeze(1)
    exp_CV = logits_CV.exp_()
    exp_sum_C, label_logit_C = all_reduce(torch.stack([exp_CV.sum(-1), label_logit_C]), "sum", ranks)
    log_sum_C = exp_sum_C.log()

    z_factor_C = 1.0 + 2.0 * z_loss * (log_sum_C + highest_C)
    probabilities_CV = exp_CV.div_((exp_sum_C / z_factor_C)[:, None])
    at_label_C1 = probabilities_CV.gather(1, column_C1) - is_here_C1.float()
    gradient_CV = probabilities_CV.to(dtype).scatter_(1, column_C1, at_label_C1.to(dtype))
    return log_sum_C - label_logit_C, gradient_CV


def likeliest_ids(logits_CV: Tensor, first_id: int, ranks: Ranks) -> Tensor:
    """The likeliest id of the whole vocabulary for each position of a chunk, the first of several: int64 [C].

    Args:
        logits_CV: this rank's part, fp32, padding already -inf.
        first_id: of this rank's part.
        ranks: the tensor-parallel group.
    """
    own_highest_C, own_column_C = logits_CV.max(-1)
    highest_C = all_reduce(own_highest_C, "max", ranks)
    nowhere = torch.iinfo(torch.int64).min
    return -all_reduce(torch.where(own_highest_C == highest_C, -(own_column_C + first_id), nowhere), "max", ranks)


def own_ids(num_rows: int, vocab_size: int, ranks: Ranks) -> tuple[int, int]:
    """The first id of this rank's `num_rows` rows of the output matrix, and which row is the first padding there."""
    first_id = ranks.rank * num_rows
    return first_id, max(0, vocab_size - first_id)


class _ScoredNllSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, labels_N, vocab_size, ranks, z_loss, compute):
        head = _Head(weight_VD, vocab_size, ranks, len(hidden_ND), z_loss, compute)
        grad_hidden_ND = torch.empty_like(hidden_ND)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32)  # many chunks add up: not in bf16
        loss_sum = hidden_ND.new_zeros((), dtype=torch.float32)
        chunks = (tensor.split(head.size) for tensor in (hidden_ND, labels_N, grad_hidden_ND))
        for hidden_CD, labels_C, grad_hidden_CD in zip(*chunks, strict=True):
            nll_C, grad_logits_CV = head.loss(hidden_CD, labels_C)
            loss_sum += nll_C.sum()
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
        return grad_hidden_ND * grad_output, grad_weight_VD * grad_output, None, None, None, None, None


class _Head:
    """This rank's part of the vocabulary, and room for the logits of one chunk of up to `size` positions."""

    def __init__(
        self,
        weight_VD: Tensor,
        vocab_size: int,
        ranks: Ranks,
        positions: int,
        z_loss: float = 0.0,
        compute: ChunkLoss = chunk_loss,
    ) -> None:
        self.weight_VD, self.compute = weight_VD, compute
        self.arguments = *own_ids(len(weight_VD), vocab_size, ranks), z_loss, ranks
        self.size = max(1, min(POSITIONS_PER_CHUNK[weight_VD.device.type], positions))
        self.buffer_CV = weight_VD.new_empty(self.size, len(weight_VD))

    def loss(self, hidden_CD: Tensor, labels_C: Tensor) -> tuple[Tensor, Tensor]:
        """See `chunk_loss`; the gradients are valid until the next call."""
        return self.compute(self._logits(hidden_CD), labels_C, *self.arguments)

    def scores(self, hidden_CD: Tensor, labels_C: Tensor) -> Tensor:
        """Negative log-likelihoods and hits: fp32 [2, C]."""
        first_id, first_padding, _, ranks = self.arguments
        logits_CV = self._logits(hidden_CD).float()
        logits_CV[:, first_padding:] = -torch.inf
        is_likeliest_C = likeliest_ids(logits_CV, first_id, ranks) == labels_C
        nll_C, _ = self.compute(logits_CV, labels_C, *self.arguments)
        return torch.stack([nll_C, is_likeliest_C.float()])

    def _logits(self, hidden_CD: Tensor) -> Tensor:
        return torch.mm(hidden_CD, self.weight_VD.T, out=self.buffer_CV[: len(hidden_CD)])
