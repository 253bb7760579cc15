"""Random numbers that are a pure function of their key, so that no order of work can change them.

The generator is counter-based: the finaliser of splitmix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom
number generators") folded over the seed and the counters. Equal keys give equal numbers on every machine.
"""

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def keyed_bits(seed: int, purpose: str, *counters: np.ndarray) -> np.ndarray:
    """uint64 [n]: 64 random bits for each key (seed, purpose, counters[0][i], counters[1][i], ...).

    Args:
        seed: any integer in [0, 2**64).
        purpose: a short name that keeps different uses of the same counters apart.
        counters: integer arrays [n] (or broadcastable), at least one.
    """
    name = np.frombuffer(purpose.encode().ljust(8, b"\0")[:8], dtype="<u8")
    with np.errstate(over="ignore"):
        state = _mix(_mix(np.array([seed], dtype=np.uint64)) ^ name)
        for counter in counters:
            state = _mix(state ^ np.asarray(counter).astype(np.uint64))
    return state


def to_unit(bits: np.ndarray) -> np.ndarray:
    """float64 in [0, 1): the upper 53 bits."""
    return (bits >> np.uint64(11)) * 2.0**-53


def to_range(bits: np.ndarray, size: np.ndarray) -> np.ndarray:
    """int64 in [0, size) for sizes in [1, 2**31); the bias is below size / 2**32."""
    return (((bits >> np.uint64(32)) * size.astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


def _mix(state: np.ndarray) -> np.ndarray:
    state = state + _GOLDEN
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
