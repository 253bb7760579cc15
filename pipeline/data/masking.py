"""Masked tokens: which tokens of a segment are predicted, and what the model reads in their place.

As in BERT (Devlin et al. 2019): of each masked segment's tokens a fixed share is chosen, at least one; most of these
are read as the mask token, some as a random token, and some as they are, so that the model cannot trust any token that
it reads. The choice is exact in number, by the smallest of one random key per token, and every draw is a function of
(seed, corpus, epoch, row, column): see `objective`.

Shape suffixes: B rows, S input columns; M chosen tokens, T candidates.
"""

from dataclasses import dataclass

import numpy as np

from data_prep.keyed import to_range, to_unit
from pipeline.config.objective import MaskingConfig
from pipeline.data.objective import RowKeys
from pipeline.data.segments import Segments
from pipeline.vocabulary import mask_token_id


@dataclass(frozen=True)
class MaskedTokens:
    """Chosen tokens, in ascending order of (row, column).

    Attributes:
        row, column: int64 [M].
        read_as: int64 [M], the ids that the model reads there.
    """

    row: np.ndarray
    column: np.ndarray
    read_as: np.ndarray


class TokenMasking:
    """Chooses and replaces tokens.

    Args:
        config: the shares.
        vocab_size: random tokens are drawn from [0, vocab_size).
        seed: of the draws.

    Raises:
        ConfigError: there is no mask token, see `mask_token_id`.
    """

    def __init__(self, config: MaskingConfig, vocab_size: int, seed: int) -> None:
        self.config, self.vocab_size, self.seed = config, vocab_size, seed
        self.mask_id = mask_token_id(config, vocab_size)

    def draw(self, tokens_BS: np.ndarray, segments: Segments, keys: RowKeys) -> MaskedTokens:
        """Choose tokens of the masked segments.

        A row's last column is a label and never an input, so it is no candidate.

        Args:
            tokens_BS: any integer type, the inputs.
            segments: of the same rows.
            keys: of the same rows.
        """
        row_T, column_T, segment_T = _candidates(segments)
        candidates = np.bincount(segment_T, minlength=len(segments.row))  # per segment
        wanted = num_chosen(self.config, candidates)
        bits_T = keys.bits(self.seed, "choose", row_T, column_T)
        # segment and 40 random bits in one number: a third of the time of a sort by two keys
        by_bits = np.argsort((segment_T.astype(np.uint64) << np.uint64(40)) | (bits_T >> np.uint64(24)), kind="stable")
        first = np.cumsum(candidates) - candidates
        rank = np.arange(len(by_bits)) - first[segment_T[by_bits]]
        chosen = np.sort(by_bits[rank < wanted[segment_T[by_bits]]])
        row_M, column_M = row_T[chosen], column_T[chosen]

        kind_M = to_unit(keys.bits(self.seed, "replace", row_M, column_M))
        random_M = to_range(keys.bits(self.seed, "random", row_M, column_M), np.full(len(row_M), self.vocab_size))
        is_random_M = kind_M < self.config.masked + self.config.random
        read_as_M = np.where(is_random_M, random_M, tokens_BS[row_M, column_M])
        return MaskedTokens(row_M, column_M, np.where(kind_M < self.config.masked, self.mask_id, read_as_M))


def num_chosen(config: MaskingConfig, candidates: np.ndarray) -> np.ndarray:
    """How many of `candidates` (int64 [K]) tokens of each segment are chosen: the configured share, at least one."""
    return np.minimum(np.maximum(np.rint(config.chosen * candidates), 1), candidates).astype(np.int64)


def _candidates(segments: Segments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and index into `segments` of every input in a masked segment: int64 [T] each, in order."""
    masked = np.flatnonzero(segments.masked)
    length = segments.num_inputs[masked]
    segment_T = np.repeat(masked, length)
    within_T = np.arange(len(segment_T)) - np.repeat(np.cumsum(length) - length, length)
    return segments.row[segment_T], segments.start[segment_T] + within_T, segment_T
