"""A model and batches -> what it makes of each segment, on all ranks the same.

A segment's line depends on the segment and the model alone, and the lines are put in the order of their rows; so what
is made of them depends neither on the number of processes nor on how the rows are spread over them, as far as the
model's own numbers do not.

Shape suffixes: N scored positions of a batch, K segments, 2 readings (causal, prefix).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from foreword.errors import DataError
from pipeline.data.batch import Batch
from pipeline.distributed.agreement import in_step


@dataclass(frozen=True)
class SegmentScores:
    """One line for each segment in which a token is scored, by row and place in it.

    Attributes:
        row: int64 [K], number in the split.
        segment: int64 [K], number in the row.
        prefix_len: int64 [K].
        targets: int64 [K], scored tokens.
        text_bytes: int64 [K], UTF-8 bytes of text that they stand for.
        nll_2K: float64, sum of their negative log-likelihoods in nats: prefixes read causally, and in both directions.
        hits_2K: int64, how many of them are the model's likeliest id.
    """

    row: np.ndarray
    segment: np.ndarray
    prefix_len: np.ndarray
    targets: np.ndarray
    text_bytes: np.ndarray
    nll_2K: np.ndarray
    hits_2K: np.ndarray

    def where(self, chosen_K: np.ndarray) -> "SegmentScores":
        """Those segments; `chosen_K` is bool [K] or indices."""
        return SegmentScores(*(getattr(self, field.name)[..., chosen_K] for field in fields(self)))


@torch.no_grad()
def score_segments(
    model: Callable[..., Tensor], batches: Iterable[Batch], token_bytes: np.ndarray, group: dist.ProcessGroup
) -> SegmentScores:
    """Score every batch twice, prefixes read causally and in both directions; every rank gets the lines of all.

    Args:
        model: called as `model(batch, reduction="scores")` (`GPT2`).
        batches: this rank's rows, on the model's device; as many batches on every rank of `group` (see
            `split_batches`), because a ZeRO-3 model is gathered for each call.
        token_bytes: int32 [vocab_size], UTF-8 bytes that each id stands for.
        group: the data-parallel group; CPU tensors are gathered over it.

    Raises:
        DataError: nothing is scored in any batch. An error of `batches` on one rank is raised on all.
    """
    lines = [_lines_of(model, batch, token_bytes) for batch in in_step(batches)]
    own = np.concatenate([np.empty((len(_COLUMNS), 0)), *lines], axis=1)
    table = np.concatenate(_gather_columns(own, group), axis=1)
    if not table.shape[1]:
        raise DataError(
            "no token is scored in these rows",
            remedy="every segment is all prefix: check the prefix policy",
            on_all_ranks=True,
        )
    table = table[:, np.lexsort((table[1], table[0]))]
    row, segment, prefix_len, targets, text_bytes = table[:5].astype(np.int64)
    hits_2K = table[7:].astype(np.int64)
    return SegmentScores(row, segment, prefix_len, targets, text_bytes, nll_2K=table[5:7], hits_2K=hits_2K)


@torch.no_grad()
def score_targets(
    model: Callable[..., Tensor], batches: Iterable[Batch], token_bytes: np.ndarray, group: dist.ProcessGroup
) -> tuple[float, int, int]:
    """Score the batches' targets as they are read, once, and sum over `group`; arguments as those of `score_segments`.

    Returns:
        Nats, targets, and bytes of text.
    """
    sums_3 = torch.zeros(3, dtype=torch.float64)
    for batch in in_step(batches):
        nll_N = model(batch, reduction="none").double().cpu()
        labels_N = batch.labels_BS.flatten()[batch.scored_N].cpu()
        text_bytes = torch.from_numpy(token_bytes)[labels_N].sum()
        sums_3 += torch.tensor([nll_N.sum(), len(labels_N), text_bytes], dtype=torch.float64)
    dist.all_reduce(sums_3, group=group)
    nll, targets, text_bytes = sums_3.tolist()
    return nll, int(targets), int(text_bytes)


_COLUMNS = (
    *("row", "segment", "prefix_len", "targets", "text_bytes"),
    *("causal_nll", "prefix_nll", "causal_hits", "prefix_hits"),
)


def _lines_of(model: Callable[..., Tensor], batch: Batch, token_bytes: np.ndarray) -> np.ndarray:
    """float64 [columns, segments], in which counts are exact up to 2^53."""
    causal_2N, prefix_2N = (
        model(read, reduction="scores").double().cpu().numpy() for read in (batch.read_causally(), batch)
    )
    scored_N = batch.scored_N.cpu().numpy()
    if not len(scored_N):
        return np.empty((len(_COLUMNS), 0))

    def at_scored(values_BS: Tensor) -> np.ndarray:
        return values_BS.flatten()[batch.scored_N].cpu().numpy()

    place_N, segment_N = scored_N // batch.tokens_BS.shape[1], at_scored(batch.segment_ids_BS)
    is_first_N = np.append(True, (place_N[1:] != place_N[:-1]) | (segment_N[1:] != segment_N[:-1]))
    first_K = np.flatnonzero(is_first_N)  # positions ascend, so that a segment's are next to each other
    summed = [np.ones(len(scored_N)), token_bytes[at_scored(batch.labels_BS)].astype(np.float64)]
    summed += [causal_2N[0], prefix_2N[0], causal_2N[1], prefix_2N[1]]
    return np.stack(
        [
            batch.row_ids[place_N[first_K]],
            segment_N[first_K],
            at_scored(batch.prefix_len_BS)[first_K],
            *(np.add.reduceat(values_N, first_K) for values_N in summed),
        ]
    )


def _gather_columns(own: np.ndarray, group: dist.ProcessGroup) -> list[np.ndarray]:
    """[rows, n] of every rank, with an n of its own."""
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(group.size())]
    dist.all_gather(sizes, torch.tensor([own.shape[1]]), group=group)
    largest = max(int(size) for size in sizes)
    padded = torch.from_numpy(np.pad(own, ((0, 0), (0, largest - own.shape[1]))))
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded, group=group)
    return [part[:, : int(size)].numpy() for part, size in zip(parts, sizes, strict=True)]
