"""A .npy file on the disk -> a read-only array whose pages are read when they are touched, or asked for ahead of that.

Rows of a shuffled corpus lie anywhere in files larger than the memory, and whoever touches a page that is not there
waits for the disk: for the page, and for as much behind it as the system reads ahead, which is of no use here. `expect`
has the pages of many rows read at the same time, and nothing else.
"""

import mmap
from contextlib import suppress
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np

from foreword.errors import DataError

_BEFORE_HEADER = {1: 10, 2: 12, 3: 12}  # bytes of magic, version and length, by major version


class MappedArray:
    """One mapped file.

    Args:
        path: of a .npy file.

    Attributes:
        array: its contents, not writable.

    Raises:
        DataError: it cannot be read, or is no .npy file of numbers in C order.
    """

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            before = _BEFORE_HEADER.get(self._map[6], 0)
            self._offset = before + int.from_bytes(self._map[8:before], "little")
            shape, dtype = _parse_header(self._map[: self._offset])
            self.array = np.ndarray(shape, dtype, buffer=self._map, offset=self._offset)
        except (OSError, ValueError, TypeError, IndexError) as error:
            what = f"cannot be read as a .npy file: {error}"
            raise DataError(what, where=path, remedy="run `foreword verify`") from None
        self._row_bytes = self.array.strides[0] if shape else 0

    def expect(self, start: int, stop: int) -> None:
        """Rows [start, stop) will be touched soon; returns at once. Rows that are not there are left out."""
        if 0 <= start < stop <= len(self.array):
            first = self._offset + start * self._row_bytes
            first -= first % mmap.PAGESIZE
            with suppress(OSError):  # it was a hint
                self._map.madvise(mmap.MADV_WILLNEED, first, self._offset + stop * self._row_bytes - first)


@lru_cache(maxsize=64)
def _parse_header(head: bytes) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype; the shards of a corpus have but a few different ones, and numpy takes its time."""
    file = BytesIO(head)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(file)
    if dtype.hasobject or (fortran_order and len(shape) > 1):
        raise ValueError(f"{dtype} in {'Fortran' if fortran_order else 'C'} order")
    return shape, dtype
