"""Weights of several corpora -> which corpus gives the row at each position of the run, and its how-manieth row.

The corpora take turns in a fixed cycle whose length is the sum of the weights as whole numbers, so nothing is drawn or
remembered: the row at a position is a pure function of it, and after any number of rows each corpus has given its exact
share to within less than one row.

Method: a schedule with that bound always exists (Tijdeman, "The chairman assignment problem", 1980). The k-th row of a
corpus with share s must come in the window [floor(k / s), ceil((k + 1) / s)); earliest deadline first finds a schedule
that keeps all windows (Baruah, Cohen, Plaxton and Varvel, "Proportionate progress", 1996).
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from heapq import heappop, heappush
from math import gcd, lcm

import numpy as np

from foreword.errors import ConfigError

LONGEST_CYCLE = 10_000


class Blend:
    """Turns of several corpora.

    Args:
        weights: whole numbers above 0, one for each corpus, as `whole_weights` gives them.
    """

    def __init__(self, weights: Sequence[int]) -> None:
        self._weights = np.array(weights, dtype=np.int64)
        self._turns = turns(weights)
        taken = self._turns[:, None] == np.arange(len(weights))
        self._taken_before = np.cumsum(taken, axis=0) - taken  # [cycle, corpora]

    def sources_at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Who gives the rows at `positions` (int64 [n], 0 or greater).

        Returns:
            int64 [n], the corpus; and int64 [n], how many rows that corpus has given before.
        """
        cycle, place = np.divmod(positions, len(self._turns))
        corpus = self._turns[place]
        return corpus, cycle * self._weights[corpus] + self._taken_before[place, corpus]


def turns(weights: Sequence[int]) -> np.ndarray:
    """One cycle: int64 [sum(weights)], the corpus whose turn it is; corpus c has `weights[c]` turns."""
    total = sum(weights)
    windows = sorted(
        (k * total // weight, -(-(k + 1) * total // weight), corpus)
        for corpus, weight in enumerate(weights)
        for k in range(weight)
    )
    open_windows: list[tuple[int, int]] = []
    order, following = [], 0
    for place in range(total):
        while following < total and windows[following][0] <= place:
            _, deadline, corpus = windows[following]
            heappush(open_windows, (deadline, corpus))
            following += 1
        order.append(heappop(open_windows)[1])
    return np.array(order, dtype=np.int64)


def whole_weights(weights: Mapping[str, float]) -> dict[str, int]:
    """The smallest whole numbers in the proportions of `weights`, read as the decimals that they are written as.

    Raises:
        ConfigError: their sum is above 10,000; names rounded weights that would do.
    """
    exact = {name: Fraction(repr(weight)) for name, weight in weights.items()}
    denominator = lcm(*(weight.denominator for weight in exact.values()))
    whole = {name: int(weight * denominator) for name, weight in exact.items()}
    divisor = gcd(*whole.values())
    whole = {name: weight // divisor for name, weight in whole.items()}
    if sum(whole.values()) > LONGEST_CYCLE:
        scale = Fraction(LONGEST_CYCLE - len(whole), sum(whole.values()))
        rounded = ", ".join(f"{name} {max(1, int(weight * scale))}" for name, weight in whole.items())
        raise ConfigError(
            f"these weights need a cycle of {sum(whole.values()):,} rows, and {LONGEST_CYCLE:,} is the longest",
            where="data.corpora",
            remedy=f"round them, for example to {rounded}",
        )
    return whole
