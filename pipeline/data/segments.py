"""The segments of several rows as one table: what the shards say of them, checked, and what training makes of it.

Everything that decides what a token sees and what is scored is in these few integers per segment; `objective` changes
them, `masking` reads them, and `batch` turns them into tensors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.shards import PADDING
from foreword.errors import DataError


@dataclass(frozen=True)
class Segments:
    """The K segments of B rows, all rows after one another; they tile every row.

    Attributes:
        row_length: tokens of a row, inputs and one more.
        row: int64 [K], in [0, B).
        number: int64 [K], counted within the row.
        start, length: int64 [K], columns.
        prefix_len: int64 [K], in [0, length], or PADDING.
        masked: bool [K], whether masked tokens are predicted, and not the tokens behind the prefix.
    """

    row_length: int
    row: np.ndarray
    number: np.ndarray
    start: np.ndarray
    length: np.ndarray
    prefix_len: np.ndarray
    masked: np.ndarray

    @property
    def is_padding(self) -> np.ndarray:
        """Bool [K]."""
        return self.prefix_len == PADDING

    @property
    def num_inputs(self) -> np.ndarray:
        """int64 [K], tokens that are inputs: a row's last column is a label only."""
        return np.minimum(self.length, self.row_length - 1 - self.start)


def segments_of(rows: Sequence[np.ndarray], row_length: int, where: Callable[[int], str]) -> Segments:
    """The table of what the shards say.

    Args:
        rows: for each row int [k, 2], (start column, prefix length) of its segments in order. A segment ends where the
            next one starts, the last one at `row_length`; a prefix length of -1 marks padding.
        row_length: tokens of a row.
        where: tells of the row at an index in [0, B) where it is from, for errors.

    Raises:
        DataError: a row's segments do not start at 0, do not ascend, or reach beyond the row.
    """
    per_row = np.array([len(row) for row in rows])
    start, prefix_len = np.concatenate(list(rows)).astype(np.int64).T
    row = np.repeat(np.arange(len(rows)), per_row)
    end = np.append(start[1:], row_length)
    is_last_of_row = np.append(row[1:] != row[:-1], True)
    end[is_last_of_row] = row_length
    length = end - start
    first_of_row = np.append(0, np.cumsum(per_row)[:-1])
    _check(start, prefix_len, length, row, first_of_row, per_row, where)
    return Segments(
        row_length=row_length,
        row=row,
        number=np.arange(len(row)) - first_of_row[row],
        start=start,
        length=length,
        prefix_len=prefix_len,
        masked=np.zeros(len(row), dtype=bool),
    )


def _check(
    start: np.ndarray,
    prefix_len: np.ndarray,
    length: np.ndarray,
    row: np.ndarray,
    first_of_row: np.ndarray,
    per_row: np.ndarray,
    where: Callable[[int], str],
) -> None:
    """Refuse segments that do not tile their rows: from them nothing could be trusted."""
    empty = np.flatnonzero(per_row == 0)
    late = empty if empty.size else np.flatnonzero(start[first_of_row] != 0)
    if late.size:
        raise DataError("no segment starts at column 0", where=where(int(late[0])))
    wrong = np.flatnonzero((length <= 0) | (prefix_len > length) | (prefix_len < PADDING))
    if wrong.size:
        k = wrong[0]
        raise DataError(
            f"the segment at column {start[k]} has length {length[k]} and prefix length {prefix_len[k]}",
            where=where(int(row[k])),
        )
