"""Logits -> tokens. A draw is a pure function of (seed, row's key, number of the token), on every device.

So a row gets the same tokens in whatever batch it stands, as far as its logits are the same: nothing is drawn from a
generator that has a state.

Shape suffixes: B rows, V vocabulary without padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_prep.keyed import keyed_bits, to_unit
from foreword.errors import CheckpointError
from pipeline.model.tensor_parallel import Ranks


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen; the filters are applied in the order in which they stand here, as transformers does.

    Attributes:
        repetition_penalty: the logits of tokens that the row holds already, its prompt included, are divided by it
            where they are positive and multiplied where they are negative (Keskar et al. 2019, "CTRL"); 1 is none.
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: keep the k likeliest tokens.
        top_p: keep the likeliest tokens that together reach this probability (nucleus sampling, Holtzman et al. 2020).
        seed: of the draws.
    """

    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0


GREEDY = Sampling(temperature=0.0)


def draws(seed: int, row_keys: Sequence[int], number: int) -> np.ndarray:
    """float64 [B] in [0, 1): what decides the `number`-th token of each row."""
    keys = np.asarray(row_keys, dtype=np.uint64)
    return to_unit(keyed_bits(seed, "sample", keys, np.full(len(keys), number)))


def seen_tokens(rows: Sequence[Sequence[int]], vocab_size: int, device: torch.device) -> Tensor:
    """bool [B, V]: which tokens each row holds."""
    seen_BV = torch.zeros(len(rows), vocab_size, dtype=torch.bool)
    for seen_V, ids in zip(seen_BV, rows, strict=True):
        seen_V[list(ids)] = True
    return seen_BV.to(device)


def choose(logits_BV: Tensor, sampling: Sampling, draws_B: np.ndarray, seen_BV: Tensor | None = None) -> Tensor:
    """One token per row: int64 [B], on the device of the logits.

    Args:
        logits_BV: fp32.
        sampling: see there.
        draws_B: float64 in [0, 1), see `draws`.
        seen_BV: bool, what the repetition penalty is about; needed when there is one.

    Raises:
        CheckpointError: a logit is not a finite number.
    """
    if not logits_BV.isfinite().all():
        raise CheckpointError(
            "the model's logits are not finite numbers",
            remedy="use a checkpoint from before the run diverged, or a wider --dtype than fp16",
        )
    if sampling.repetition_penalty != 1.0:
        assert seen_BV is not None
        penalty, exact_BV = sampling.repetition_penalty, logits_BV.double()
        penalised_BV = torch.where(exact_BV > 0, exact_BV / penalty, exact_BV * penalty)
        largest = torch.finfo(torch.float32).max  # no penalty, however extreme, makes a logit infinite
        logits_BV = torch.where(seen_BV, penalised_BV.clamp(-largest, largest).float(), logits_BV)
    if sampling.temperature == 0.0:
        return logits_BV.argmax(-1)
    # the largest becomes 0, so that no temperature, however small, makes it infinite
    scaled_BV = (logits_BV - logits_BV.amax(-1, keepdim=True)).double() / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < scaled_BV.shape[-1]:
        lowest_kept_B1 = scaled_BV.topk(sampling.top_k).values[:, -1:]
        scaled_BV = scaled_BV.masked_fill(scaled_BV < lowest_kept_B1, -torch.inf)
    probabilities_BV = scaled_BV.softmax(-1)
    if sampling.top_p is not None:
        sorted_BV, ids_BV = probabilities_BV.sort(descending=True, stable=True)
        before_BV = sorted_BV.cumsum(-1) - sorted_BV  # the likeliest token is always kept
        left_out_BV = torch.zeros_like(before_BV, dtype=torch.bool).scatter(1, ids_BV, before_BV >= sampling.top_p)
        probabilities_BV = probabilities_BV.masked_fill(left_out_BV, 0.0)
    # the first token at which the sum of the probabilities, in the order of the ids, passes the draw
    reached_BV = probabilities_BV.cumsum(-1)
    total_B1 = reached_BV[:, -1:]
    draws_B1 = torch.from_numpy(draws_B).to(logits_BV.device)[:, None] * total_B1
    below_total_B1 = torch.nextafter(total_B1, torch.zeros_like(total_B1))  # where the product was rounded up to it
    return torch.searchsorted(reached_BV, torch.minimum(draws_B1, below_total_B1), right=True)[:, 0]


def same_on_all_ranks(chosen: Tensor, ranks: Ranks) -> Tensor:
    """The first rank's choice, in place: the ranks' sums may differ in their last bits, what they read must not."""
    if ranks.size > 1:
        torch.distributed.broadcast(chosen, group=ranks.group, group_src=0)
    return chosen
