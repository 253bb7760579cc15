"""The segments of a batch -> the sequences of two flash-attention calls that need no mask; arithmetic on the CPU.

Flash attention for sequences of different lengths knows two masks: none, and a causal one that is aligned to the end,
so that of m queries over n keys the last one sees all n and the first one n - m + 1. The rule splits into exactly
these. Of a segment with n tokens and a prefix of p:

    the prefix rows   0 .. p - 1   see the keys 0 .. p - 1       p queries over p keys, no mask
    the other rows    p .. n - 1   see the keys 0 .. themselves  n - p queries over n keys, causal

so the two calls compute p * p + (n - p)(n + p + 1) / 2 = (n (n + 1) + p (p - 1)) / 2 pairs: those that the rule allows
and not one more. (A causal call over all rows, whose prefix rows a second call then overwrites, would cost p (p + 1) /
2 pairs more: for uniform prefixes a quarter of the whole attention.)

The last row of a segment sees all of it whatever its prefix, so it always belongs to the causal call; and so does the
one row of a prefix of length 1. So the causal call has at least one query in every segment, a batch without prefixes is
one call over everything in its own order, and no call has a sequence without queries or without keys.

Shape suffixes: G segments; sequence boundaries have one entry more than there are sequences.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sequences:
    """The sequences of one call.

    Attributes:
        cu_q: int32 [sequences + 1], where the queries of each sequence start, and their number at the end.
        cu_k: the same for its keys.
        max_q: the longest sequence's number of queries.
        max_k: the longest sequence's number of keys.
    """

    cu_q: np.ndarray
    cu_k: np.ndarray
    max_q: int
    max_k: int

    @classmethod
    def of_lengths(cls, num_queries: np.ndarray, num_keys: np.ndarray) -> "Sequences":
        """From the number of queries and keys of each sequence."""
        return cls(_boundaries(num_queries), _boundaries(num_keys), int(num_queries.max()), int(num_keys.max()))


@dataclass(frozen=True)
class PrefixRows:
    """The second call, and which tokens it is about. All numbers of tokens are in the flattened [B * S], ascending.

    Attributes:
        sequences: one per prefix of at least two tokens; the queries are `queries`, the keys are `keys`.
        queries: int64, the tokens whose rows this call computes.
        keys: int64, the tokens of these prefixes.
        others: int64, all tokens that are not in `queries`: the queries of the causal call.
    """

    sequences: Sequences
    queries: np.ndarray
    keys: np.ndarray
    others: np.ndarray


def split_sequences(segments_G3: np.ndarray) -> tuple[Sequences, PrefixRows | None]:
    """The causal call's sequences, one per segment over all keys, and the prefix call, if there is any.

    Args:
        segments_G3: int64, start in the flattened tokens, length and prefix length of segments that tile them (see
            `Batch.segments_G3`).
    """
    start_G, length_G, prefix_len_G = segments_G3.T
    in_prefix_call_G = np.where(prefix_len_G > 1, np.minimum(prefix_len_G, length_G - 1), 0)
    causal = Sequences.of_lengths(length_G - in_prefix_call_G, length_G)
    some = in_prefix_call_G > 0
    if not some.any():
        return causal, None
    queries = _ranges(start_G[some], in_prefix_call_G[some])
    is_other = np.ones(int(length_G.sum()), dtype=bool)
    is_other[queries] = False
    return causal, PrefixRows(
        sequences=Sequences.of_lengths(in_prefix_call_G[some], prefix_len_G[some]),
        queries=queries,
        keys=_ranges(start_G[some], prefix_len_G[some]),
        others=np.flatnonzero(is_other),
    )


def _boundaries(lengths: np.ndarray) -> np.ndarray:
    return np.append(0, np.cumsum(lengths)).astype(np.int32)


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """start, start + 1, ... for each start, one after the other."""
    first = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(starts - first, lengths)
