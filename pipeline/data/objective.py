"""How each segment is trained: causally, as a prefix-LM, or by masked tokens; and where its prefix ends.

A segment's objective is drawn by the configured weights, and its boundary is the shard's or drawn too. Every draw is a
function of its key (seed, corpus, epoch, row, segment), so it is the same on any number of processes, with any
micro-batches, and after any resume; and each epoch draws anew.

    causal         prefix length 0: every token but the first is predicted from those before it
    prefix         the shard's prefix length, or a drawn one: the tokens behind it are predicted
    bidirectional  prefix length = length: all tokens see each other, and masked ones are predicted
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from data_prep.keyed import keyed_bits, to_range, to_unit
from pipeline.config.objective import OBJECTIVES, BoundariesConfig, ObjectiveName
from pipeline.data.segments import Segments


@dataclass(frozen=True)
class RowKeys:
    """What the draws of B rows depend on, besides the seed.

    Attributes:
        corpus: uint64 [B], see `corpus_key`.
        epoch: int64 [B], the corpus's own.
        row: int64 [B], number in the split.
    """

    corpus: np.ndarray
    epoch: np.ndarray
    row: np.ndarray

    def bits(self, seed: int, purpose: str, row: np.ndarray, place: np.ndarray) -> np.ndarray:
        """uint64 [n]: random bits for each `place` (int64 [n], segment or column) of `row` (int64 [n], in [0, B))."""
        return keyed_bits(seed, purpose, self.corpus[row], self.epoch[row], self.row[row], place)


def corpus_key(manifest_sha256: str) -> int:
    """64 bits that stand for a corpus."""
    return int(manifest_sha256[:16], 16)


class SegmentObjectives:
    """Gives each segment its objective and its prefix length.

    Args:
        weights: objective -> weight, each above 0.
        boundaries: where the prefixes of the `prefix` objective end.
        seed: of the draws.
    """

    def __init__(self, weights: Mapping[ObjectiveName, float], boundaries: BoundariesConfig, seed: int) -> None:
        self.boundaries, self.seed = boundaries, seed
        values = np.array([weights.get(name, 0.0) for name in OBJECTIVES])
        self._reached = np.cumsum(values / values.sum())  # a draw below the first is the first objective, and so on
        self._last = int(np.flatnonzero(values)[-1])  # where rounding leaves the sum below 1

    def assign(self, segments: Segments, keys: RowKeys) -> Segments:
        """The same segments with the prefix lengths of their objectives; padding stays padding."""
        draws = to_unit(keys.bits(self.seed, "object", segments.row, segments.number))
        objective = np.minimum(np.searchsorted(self._reached, draws, side="right"), self._last)
        is_prefix, is_masked = (objective == OBJECTIVES.index(name) for name in ("prefix", "bidirectional"))
        prefix_len = np.where(is_prefix, self._boundaries(segments, keys), 0)
        prefix_len = np.where(is_masked, segments.length, prefix_len)
        is_padding = segments.is_padding
        return replace(
            segments,
            prefix_len=np.where(is_padding, segments.prefix_len, prefix_len),
            masked=is_masked & ~is_padding,
        )

    def _boundaries(self, segments: Segments, keys: RowKeys) -> np.ndarray:
        """int64 [K]: prefix lengths, at most length - 1 when they are drawn, so that a target is left."""
        policy, fraction = self.boundaries.policy, self.boundaries.fraction
        if policy == "shards":
            return segments.prefix_len
        bits, targets_at_most = keys.bits(self.seed, "boundary", segments.row, segments.number), segments.length - 1
        if fraction is None:
            return np.minimum(1 + to_range(bits, np.maximum(targets_at_most, 1)), targets_at_most)
        lowest, highest = fraction
        share = lowest + (highest - lowest) * to_unit(bits)
        return np.minimum((share * segments.length).astype(np.int64), targets_at_most)
