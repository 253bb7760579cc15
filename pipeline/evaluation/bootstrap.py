"""How sure a number is: percentile intervals from resampled documents (Efron 1979; Efron and Tibshirani 1993).

Tokens of one document are not independent, so what is drawn again, with replacement, are whole documents: as many as
there are. Every draw gives sums of every group of segments, from them each measure, and of 1000 such measures the
2.5th and the 97.5th percentile are the interval. The causal and the prefix reading are of the same draws, so the
interval of their difference is that of a paired comparison. All of it follows from the lines and the seed.

Shape suffixes: K segments, U units (documents), R resamples, M sums (`SUMS`).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.evaluation.segments import SegmentScores

SUMS = ("targets", "text_bytes", "causal_nll", "prefix_nll", "causal_hits", "prefix_hits")
CONFIDENCE = 0.95
DRAWS_AT_ONCE = 2**23

Interval = tuple[float, float] | None
"""Lower and upper end; None where fewer than two units have a share in the number."""


def intervals(
    scores: SegmentScores, unit_K: np.ndarray, groups: Mapping[Any, np.ndarray], *, resamples: int, seed: int
) -> dict[Any, dict[str, dict[str, Interval]]]:
    """Intervals of every measure of every group.

    Args:
        scores: the lines.
        unit_K: int64, which unit each segment belongs to, in [0, units).
        groups: name -> which segments are of the group, bool [K].
        resamples: how many times to draw.
        seed: of the draws.

    Returns:
        Group -> "causal", "prefix" or "difference" (causal - prefix) -> measure -> interval.
    """
    units = int(unit_K.max()) + 1
    by_group = {name: _unit_sums(scores, unit_K, is_in_K) for name, is_in_K in groups.items()}
    drawn: dict[Any, list[np.ndarray]] = {name: [] for name in groups}
    for counts_RU in _resampled_counts(units, resamples, seed):
        for name, (units_of_group, sums_UM) in by_group.items():
            drawn[name].append(counts_RU[:, units_of_group] @ sums_UM)
    return {
        name: _intervals_of(np.concatenate(drawn[name]), len(units_of_group))
        for name, (units_of_group, _) in by_group.items()
    }


def _unit_sums(scores: SegmentScores, unit_K: np.ndarray, is_in_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The units that have segments in the group, and their sums, float64 [U, M]."""
    units_of_group, place_K = np.unique(unit_K[is_in_K], return_inverse=True)
    chosen = scores.where(is_in_K)
    columns = [chosen.targets, chosen.text_bytes, *chosen.nll_2K, *chosen.hits_2K]
    sums = [np.bincount(place_K, weights=column, minlength=len(units_of_group)) for column in columns]
    return units_of_group, np.stack(sums, axis=1)


def _resampled_counts(units: int, resamples: int, seed: int) -> Any:
    """float64 [R, U], how often each unit was drawn: some resamples at a time, `resamples` in all."""
    generator = np.random.default_rng(seed)
    at_once = max(1, DRAWS_AT_ONCE // units)
    for begin in range(0, resamples, at_once):
        number = min(at_once, resamples - begin)
        drawn = generator.integers(units, size=(number, units)) + units * np.arange(number)[:, None]
        yield np.bincount(drawn.reshape(-1), minlength=number * units).reshape(number, units).astype(np.float64)


def _intervals_of(sums_RM: np.ndarray, units: int) -> dict[str, dict[str, Interval]]:
    targets, text_bytes, causal_nll, prefix_nll, causal_hits, prefix_hits = sums_RM.T
    with np.errstate(divide="ignore", invalid="ignore"):  # resamples without a token of the group, or without text
        by_reading = {
            reading: {
                "loss": nll / targets,
                "bits_per_byte": nll / np.log(2) / text_bytes,
                "accuracy": hits / targets,
            }
            for reading, nll, hits in (("causal", causal_nll, causal_hits), ("prefix", prefix_nll, prefix_hits))
        }
    by_reading["difference"] = {
        measure: values - by_reading["prefix"][measure] for measure, values in by_reading["causal"].items()
    }
    found = {
        reading: {measure: _percentiles(values, units) for measure, values in measures.items()}
        for reading, measures in by_reading.items()
    }
    for reading in ("causal", "prefix"):
        ends = found[reading]["loss"]
        with np.errstate(over="ignore"):
            perplexities = None if ends is None else (float(np.exp(ends[0])), float(np.exp(ends[1])))
        found[reading]["perplexity"] = perplexities if perplexities and np.isfinite(perplexities).all() else None
    return found


def _percentiles(values_R: np.ndarray, units: int) -> Interval:
    values_R = values_R[np.isfinite(values_R)]
    if units < 2 or not len(values_R):
        return None
    outside = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(values_R, [outside, 100 - outside])
    return float(low), float(high)
