"""Position in the run -> row of the split: a keyed pseudo-random permutation, computed on the fly.

Each epoch visits every row once in an order of its own. Nothing is stored: the row at position i is a pure function of
(corpus, seed, i), so that seeking is free and every process agrees without talking.

Method: a balanced Feistel network over the smallest even number of bits that holds the rows, with cycle walking for
the values outside (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). The round function is the
finaliser of splitmix64 (Steele, Lea and Flood, 2014).
"""

import hashlib
from functools import lru_cache

import numpy as np

ROUNDS = 6


class DataOrder:
    """The order in which a run visits the rows of a split.

    Args:
        num_rows: rows in the split, at least 1.
        corpus_id: the manifest's SHA-256, so that another corpus has another order.
        seed: the run's data seed.
    """

    def __init__(self, num_rows: int, corpus_id: str, seed: int) -> None:
        if num_rows < 1:
            raise ValueError("an order needs at least one row")
        self.num_rows = num_rows
        self.corpus_id = corpus_id
        self.seed = seed

    def rows_at(self, positions: np.ndarray) -> np.ndarray:
        """Rows at the given positions of the run.

        Args:
            positions: int64 [n], any order, 0 or greater; position p lies in epoch p // num_rows.

        Returns:
            int64 [n], each in [0, num_rows).
        """
        positions = np.asarray(positions, dtype=np.int64)
        rows = np.empty_like(positions)
        epochs = positions // self.num_rows
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            keys = _round_keys(self.corpus_id, self.seed, int(epoch))
            rows[chosen] = permute(positions[chosen] % self.num_rows, self.num_rows, keys)
        return rows


def permute(values: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """Apply the permutation of [0, size) that `keys` (uint64 [ROUNDS]) selects to int64 `values` in [0, size)."""
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    permuted = _feistel(values.astype(np.uint64), half_bits, keys)
    outside = permuted >= size
    while outside.any():
        permuted[outside] = _feistel(permuted[outside], half_bits, keys)
        outside = permuted >= size
    return permuted.astype(np.int64)


def _feistel(values: np.ndarray, half_bits: int, keys: np.ndarray) -> np.ndarray:
    bits, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> bits, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right + key) & mask)
    return (left << bits) | right


def _mix(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@lru_cache(maxsize=4)
def _round_keys(corpus_id: str, seed: int, epoch: int) -> np.ndarray:
    digest = hashlib.shake_256(f"foreword order|{corpus_id}|{seed}|{epoch}".encode()).digest(8 * ROUNDS)
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)
