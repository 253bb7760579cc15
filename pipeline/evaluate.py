"""A model and a split -> losses over fixed rows: with prefixes read in both directions, and with them read causally.

The shard's boundaries decide what is scored, for both readings; so the two losses are over the same tokens and their
difference is what seeing the prefix in both directions is worth. Sums are in float64 and over all ranks, so the result
does not depend on how the rows are spread over them.

Shape suffixes: B rows, S columns, N scored positions, P buckets of prefix lengths.
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from data_prep.shards import Corpus
from foreword.errors import DataError
from pipeline.data.batch import Batch
from pipeline.data.corpora import require_rows
from pipeline.data.masking import TokenMasking
from pipeline.data.objective import SegmentObjectives
from pipeline.data.rows import NO_ROW, RowReader
from pipeline.distributed.agreement import in_step
from pipeline.distributed.parallel import Parallel

# first prefix length of each bucket; lengths 0 and 1 are both causal
PREFIX_BUCKETS = (0, 2, 16, 64, 256, 1024, 4096)
LARGEST_EXPONENT = math.log(sys.float_info.max)


@dataclass(frozen=True)
class Score:
    """What a model makes of some tokens.

    Attributes:
        nll: sum of their negative log-likelihoods, in nats.
        targets: how many tokens.
        text_bytes: how many UTF-8 bytes of text they stand for.
    """

    nll: float
    targets: int
    text_bytes: int

    @property
    def loss(self) -> float:
        """Nats per token; NaN without tokens."""
        return self.nll / self.targets if self.targets else math.nan

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite where that is too large for a float."""
        return math.inf if self.loss > LARGEST_EXPONENT else math.exp(self.loss)

    @property
    def bits_per_byte(self) -> float:
        """Comparable between tokenizers; NaN without text."""
        return self.nll / math.log(2) / self.text_bytes if self.text_bytes else math.nan

    def as_dict(self) -> dict[str, float]:
        """Plain numbers."""
        return {
            "loss": self.loss,
            "perplexity": self.perplexity,
            "bits_per_byte": self.bits_per_byte,
            "targets": self.targets,
            "text_bytes": self.text_bytes,
        }


@dataclass(frozen=True)
class Readings:
    """The same tokens scored with their prefixes read causally, and in both directions."""

    causal: Score
    prefix: Score

    def summary(self) -> dict[str, float]:
        """The numbers for a log; bits per byte only where the tokens stand for text."""
        numbers = {
            "prefix_loss": self.prefix.loss,
            "causal_loss": self.causal.loss,
            "prefix_bits_per_byte": self.prefix.bits_per_byte,
            "causal_bits_per_byte": self.causal.bits_per_byte,
            "targets": self.prefix.targets,
        }
        return {key: number for key, number in numbers.items() if math.isfinite(number)}


@dataclass(frozen=True)
class EvalResult:
    """All scored tokens, and the buckets of prefix lengths that have any.

    Attributes:
        total: over everything.
        by_prefix_len: (shortest prefix, longest prefix or None) -> the tokens behind such prefixes.
    """

    total: Readings
    by_prefix_len: dict[tuple[int, int | None], Readings]

    def summary(self) -> dict[str, float]:
        """The numbers for a log: those of the total, and those of each bucket as "prefix_loss/16-63" and so on."""
        by_bucket = {
            f"{key}/{bucket_name(*bucket)}": value
            for bucket, readings in self.by_prefix_len.items()
            for key, value in readings.summary().items()
        }
        return self.total.summary() | by_bucket

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, for JSON."""
        buckets = [
            {
                "shortest": shortest,
                "longest": longest,
                "causal": readings.causal.as_dict(),
                "prefix": readings.prefix.as_dict(),
            }
            for (shortest, longest), readings in self.by_prefix_len.items()
        ]
        total = {"causal": self.total.causal.as_dict(), "prefix": self.total.prefix.as_dict()}
        return {**total, "by_prefix_len": buckets}


def bucket_name(shortest: int, longest: int | None) -> str:
    """A bucket of prefix lengths as it is written: 16-63, or 4096+."""
    return f"{shortest}+" if longest is None else f"{shortest}-{longest}"


@torch.no_grad()
def evaluate(
    model: Callable[..., Tensor], batches: Iterable[Batch], token_bytes: np.ndarray, group: dist.ProcessGroup
) -> EvalResult:
    """Score every batch twice, and sum over `group`.

    Args:
        model: called as `model(batch, reduction="none")`, gives nats per scored position (`GPT2`).
        batches: this rank's rows, on the model's device; as many batches on every rank of `group` (see
            `split_batches`), because a ZeRO-3 model is gathered for each call.
        token_bytes: int32 [vocab_size], UTF-8 bytes that each id stands for.
        group: the data-parallel group; CPU tensors are summed over it.

    Raises:
        DataError: nothing is scored in any batch. An error of `batches` on one rank is raised on all.
    """
    starts_P = torch.tensor(PREFIX_BUCKETS)
    # causal nats, prefix nats, targets, bytes for each bucket; the counts are exact up to 2^53
    sums_4P = torch.zeros(4, len(PREFIX_BUCKETS), dtype=torch.float64)
    for batch in in_step(batches):
        prefix_N = model(batch, reduction="none").double().cpu()
        causal_N = model(batch.read_causally(), reduction="none").double().cpu()
        prefix_len_N = batch.prefix_len_BS.flatten()[batch.scored_N].cpu()
        labels_N = batch.labels_BS.flatten()[batch.scored_N].cpu()
        bytes_N = torch.from_numpy(token_bytes)[labels_N].double()
        bucket_N = torch.bucketize(prefix_len_N, starts_P, right=True) - 1
        sums_4P.index_add_(1, bucket_N, torch.stack([causal_N, prefix_N, torch.ones_like(prefix_N), bytes_N]))
    dist.all_reduce(sums_4P, group=group)
    if not sums_4P[2].any():
        raise DataError(
            "no token is scored in these rows",
            remedy="every segment is all prefix: check the prefix policy",
            on_all_ranks=True,
        )
    return _result(sums_4P)


@torch.no_grad()
def score_targets(
    model: Callable[..., Tensor], batches: Iterable[Batch], token_bytes: np.ndarray, group: dist.ProcessGroup
) -> Score:
    """Score the batches' targets as they are read, once, and sum over `group`; arguments as those of `evaluate`."""
    sums_3 = torch.zeros(3, dtype=torch.float64)  # nats, targets, bytes
    for batch in in_step(batches):
        nll_N = model(batch, reduction="none").double().cpu()
        labels_N = batch.labels_BS.flatten()[batch.scored_N].cpu()
        text_bytes = torch.from_numpy(token_bytes)[labels_N].sum()
        sums_3 += torch.tensor([nll_N.sum(), len(labels_N), text_bytes], dtype=torch.float64)
    dist.all_reduce(sums_3, group=group)
    nll, targets, text_bytes = sums_3.tolist()
    return Score(nll, int(targets), int(text_bytes))


def split_batches(
    corpus: Corpus,
    split: str,
    *,
    rows: int | None,
    micro_batch_size: int,
    parallel: Parallel,
    objectives: SegmentObjectives | None = None,
    masking: TokenMasking | None = None,
) -> Iterator[Batch]:
    """This rank's part of `rows` rows spread evenly over a split (all of them with None), always the same rows.

    Every rank gets the same number of batches of `micro_batch_size` rows; where rows run out, rows of padding take
    their places. Prefixes end where the shards say; or `objectives` and `masking` draw them and masked tokens, always
    the same ones.

    Raises:
        DataError: the split has no rows, or one that cannot be read.
    """
    reader = RowReader([corpus], split, objectives, masking)
    size = len(require_rows(reader.splits[0]))
    count = size if rows is None else min(rows, size)
    chosen = np.arange(count) * size // count
    per_round = micro_batch_size * parallel.data_parallel_size
    padded = np.pad(chosen, (0, -count % per_round), constant_values=NO_ROW)
    for numbers in padded.reshape(-1, micro_batch_size)[parallel.data_parallel_rank :: parallel.data_parallel_size]:
        first = np.zeros_like(numbers)  # the only corpus, in its first epoch
        yield reader.read(first, numbers, first).to(parallel.device)


def _result(sums_4P: Tensor) -> EvalResult:
    ends: list[int | None] = [start - 1 for start in PREFIX_BUCKETS[1:]]
    buckets = zip(PREFIX_BUCKETS, [*ends, None], sums_4P.T, strict=True)
    by_prefix_len = {(start, end): _readings(sums_4) for start, end, sums_4 in buckets if sums_4[2] > 0}
    return EvalResult(_readings(sums_4P.sum(1)), by_prefix_len)


def _readings(sums_4: Tensor) -> Readings:
    causal_nll, prefix_nll, targets, text_bytes = sums_4.tolist()
    return Readings(
        causal=Score(causal_nll, int(targets), int(text_bytes)), prefix=Score(prefix_nll, int(targets), int(text_bytes))
    )
