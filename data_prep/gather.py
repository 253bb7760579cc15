"""Copy many runs of one flat array into a new one, at memory speed."""

import numpy as np
import pyarrow as pa

from data_prep.arrays import to_arrow, to_numpy


def gather(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The runs values[starts[i]:starts[i] + lengths[i]], one after the other; runs may overlap and come in any order.

    Arrow's list views do exactly this in C++; neither an index per element nor a Python step per run is needed.

    Args:
        values: any numeric dtype [n], contiguous; a memory-mapped array is read in place.
        starts, lengths: integers [runs].
    """
    if len(starts) == 0:
        return values[:0].copy()
    views = pa.LargeListViewArray.from_arrays(
        to_arrow(starts.astype(np.int64, copy=False)), to_arrow(lengths.astype(np.int64, copy=False)), to_arrow(values)
    )
    return to_numpy(views.flatten())


def copy_runs(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray, into: np.ndarray) -> None:
    """`gather` into an array [lengths.sum()] that is there already, for runs that mostly follow one another.

    Runs that do are copied as one; each of the others takes a Python step.
    """
    if len(starts) == 0:
        return
    breaks = np.flatnonzero(starts[1:] != starts[:-1] + lengths[:-1]) + 1
    first = np.concatenate([[0], breaks])
    sizes = np.add.reduceat(lengths, first)
    to = np.cumsum(sizes) - sizes
    for at, begin, size in zip(to.tolist(), starts[first].tolist(), sizes.tolist(), strict=True):
        into[at : at + size] = values[begin : begin + size]
