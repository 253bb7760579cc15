"""Scored segments -> what a person reads: losses, perplexities, bits per byte and accuracies.

The shard's boundaries (or drawn ones) decide what is scored, for both readings of the prefixes; so the two losses are
over the same tokens and their difference is what seeing the prefix in both directions is worth.

Shape suffixes: K segments, 2 readings (causal, prefix).
"""

import math
import sys
from dataclasses import dataclass

import numpy as np

from pipeline.evaluation.segments import SegmentScores

# first prefix length of each bucket; lengths 0 and 1 are both causal
PREFIX_BUCKETS = (0, 2, 16, 64, 256, 1024, 4096)
LARGEST_EXPONENT = math.log(sys.float_info.max)
Bucket = tuple[int, int | None]
"""Shortest and longest prefix of a bucket; None has no end."""


@dataclass(frozen=True)
class Score:
    """What a model makes of some tokens.

    Attributes:
        nll: sum of their negative log-likelihoods, in nats.
        targets: how many tokens.
        text_bytes: how many UTF-8 bytes of text they stand for.
        hits: of how many the model finds no other id likelier; None where that was not counted.
    """

    nll: float
    targets: int
    text_bytes: int
    hits: int | None = None

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

    @property
    def accuracy(self) -> float:
        """The share of tokens that are the model's first guess; NaN where that was not counted."""
        return self.hits / self.targets if self.targets and self.hits is not None else math.nan

    def as_dict(self) -> dict[str, float | None]:
        """Plain numbers for JSON, None where there is none."""
        return {
            "loss": finite(self.loss),
            "perplexity": finite(self.perplexity),
            "bits_per_byte": finite(self.bits_per_byte),
            "accuracy": finite(self.accuracy),
            "targets": self.targets,
            "text_bytes": self.text_bytes,
        }


@dataclass(frozen=True)
class Readings:
    """The same tokens scored with their prefixes read causally, and in both directions."""

    causal: Score
    prefix: Score

    @classmethod
    def of(cls, scores: SegmentScores) -> "Readings":
        """All of these segments together."""
        targets, text_bytes = int(scores.targets.sum()), int(scores.text_bytes.sum())
        causal, prefix = (
            Score(float(nll_K.sum()), targets, text_bytes, int(hits_K.sum()))
            for nll_K, hits_K in zip(scores.nll_2K, scores.hits_2K, strict=True)
        )
        return cls(causal, prefix)

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
        by_prefix_len: bucket -> the tokens behind such prefixes.
    """

    total: Readings
    by_prefix_len: dict[Bucket, Readings]

    @classmethod
    def of(cls, scores: SegmentScores) -> "EvalResult":
        """Sum up."""
        buckets = {bucket: Readings.of(scores.where(is_in_K)) for bucket, is_in_K in prefix_buckets(scores).items()}
        return cls(Readings.of(scores), buckets)

    def summary(self) -> dict[str, float]:
        """The numbers for a log: those of the total, and those of each bucket as "prefix_loss/16-63" and so on."""
        by_bucket = {
            f"{key}/{bucket_name(*bucket)}": value
            for bucket, readings in self.by_prefix_len.items()
            for key, value in readings.summary().items()
        }
        return self.total.summary() | by_bucket


def prefix_buckets(scores: SegmentScores) -> dict[Bucket, np.ndarray]:
    """Bucket -> which segments have such a prefix, bool [K]; in ascending order, without empty ones."""
    bucket_K = np.searchsorted(PREFIX_BUCKETS, scores.prefix_len, side="right") - 1
    ends = [*(start - 1 for start in PREFIX_BUCKETS[1:]), None]
    return {(PREFIX_BUCKETS[index], ends[index]): bucket_K == index for index in np.unique(bucket_K).tolist()}


def bucket_name(shortest: int, longest: int | None) -> str:
    """A bucket of prefix lengths as it is written: 16-63, or 4096+."""
    return f"{shortest}+" if longest is None else f"{shortest}-{longest}"


def finite(number: float) -> float | None:
    """The number; None where it is none, because JSON knows no others."""
    return number if math.isfinite(number) else None
