"""Scored segments -> everything that `foreword eval` tells, as plain values for JSON."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.evaluation.bootstrap import CONFIDENCE, Interval, intervals
from pipeline.evaluation.documents import Origins
from pipeline.evaluation.scores import Readings, finite, prefix_buckets
from pipeline.evaluation.segments import SegmentScores

DIFFERENCES = ("loss", "bits_per_byte", "accuracy")


def describe(scores: SegmentScores, origins: Origins | None, *, resamples: int, seed: int) -> dict[str, Any]:
    """All scored tokens, by length of the prefix, and by source where that is known, each with intervals.

    Args:
        scores: the lines of all segments.
        origins: of these segments; None when nobody knows.
        resamples: for the intervals; 0 is none.
        seed: of the resamples.

    Returns:
        `causal`, `prefix` and `difference` (causal - prefix) of everything; `by_prefix_len` and `by_source`: lists of
        the same; `resampling`: how the intervals came to be.
    """
    unit_K = np.arange(len(scores.row)) if origins is None else origins.document
    all_K = np.ones(len(scores.row), dtype=bool)
    groups: dict[Any, np.ndarray] = {"all": all_K}
    groups |= {("prefix", *bucket): is_in_K for bucket, is_in_K in prefix_buckets(scores).items()}
    if origins is not None:
        groups |= {("source", name): origins.source == index for index, name in enumerate(origins.sources)}
    found = intervals(scores, unit_K, groups, resamples=resamples, seed=seed) if resamples else {}
    told = {name: _group(scores.where(is_in_K), found.get(name)) for name, is_in_K in groups.items()}
    by_prefix_len = [
        {"shortest": key[1], "longest": key[2], **values} for key, values in told.items() if key[0] == "prefix"
    ]
    by_source = [{"source": key[1], **values} for key, values in told.items() if key[0] == "source"]
    return {
        **told["all"],
        "by_prefix_len": by_prefix_len,
        "by_source": None if origins is None else sorted(by_source, key=lambda values: values["source"]),
        "segments": len(scores.row),
        "resampling": {
            "units": "segments" if origins is None else "documents",
            "number": int(unit_K.max()) + 1,
            "resamples": resamples,
            "seed": seed,
            "confidence": CONFIDENCE,
        },
    }


def _group(scores: SegmentScores, found: Mapping[str, Mapping[str, Interval]] | None) -> dict[str, Any]:
    readings = Readings.of(scores)
    causal, prefix = readings.causal.as_dict(), readings.prefix.as_dict()
    difference = {
        measure: finite(getattr(readings.causal, measure) - getattr(readings.prefix, measure))
        for measure in DIFFERENCES
    }
    told = {"causal": causal, "prefix": prefix, "difference": difference}
    return {reading: {**values, "intervals": found and found[reading]} for reading, values in told.items()}
