"""numpy <-> Arrow through their buffers.

pyarrow's own conversions (`pa.array`, `numpy.asarray`) import pandas when it is installed, a third of a second in every
process; these do not, and they copy nothing but bits of booleans.
"""

import numpy as np
import pyarrow as pa


def to_arrow(values: np.ndarray) -> pa.Array:
    """A contiguous numeric array [n] as an Arrow array on the same memory."""
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def to_numpy(values: pa.Array) -> np.ndarray:
    """A numeric Arrow array without nulls as a read-only numpy array on the same memory."""
    dtype = np.dtype(values.type.to_pandas_dtype())
    data = values.buffers()[1]
    whole = np.frombuffer(data, dtype) if data is not None and data.size else np.empty(0, dtype)
    return whole[values.offset : values.offset + len(values)]


def mask_to_arrow(mask: np.ndarray) -> pa.BooleanArray:
    """A bool array [n] as an Arrow boolean array."""
    bits = np.packbits(mask, bitorder="little")
    return pa.Array.from_buffers(pa.bool_(), len(mask), [None, pa.py_buffer(bits)])


def mask_to_numpy(mask: pa.BooleanArray) -> np.ndarray:
    """An Arrow boolean array without nulls as a bool array [n]."""
    data = mask.buffers()[1]
    if data is None or not len(mask):
        return np.zeros(0, dtype=bool)
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    return bits[mask.offset : mask.offset + len(mask)].astype(bool)
