"""Random segment lists, with the corners that matter drawn often, and the dense mask written as plainly as the rule."""

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from data_prep.shards import PADDING

Segments = list[tuple[int, int]]  # (start column, prefix length)


@st.composite
def rows_of_segments(draw: st.DrawFn, max_rows: int = 3, max_row_length: int = 24) -> tuple[list[Segments], int]:
    """A few rows of one length (tokens), each a list of segments; returns (rows, row length)."""
    row_length = draw(st.integers(2, max_row_length))
    return [draw(row_of_segments(row_length)) for _ in range(draw(st.integers(1, max_rows)))], row_length


@st.composite
def row_of_segments(draw: st.DrawFn, row_length: int) -> Segments:
    """One row: full, of many segments, with or without padding at its end, down to one token per segment."""
    starts = [0, *sorted(draw(st.sets(st.integers(1, row_length - 1), max_size=row_length - 1)))]
    ends = [*starts[1:], row_length]
    row = [(start, draw(prefix_len(end - start))) for start, end in zip(starts, ends, strict=True)]
    if draw(st.booleans()):
        row[-1] = (row[-1][0], PADDING)
    return row


def prefix_len(length: int) -> st.SearchStrategy[int]:
    """0, 1, length - 1 and length often; anything between sometimes."""
    corners = st.sampled_from(sorted({0, min(1, length), length - 1, length}))
    return st.one_of(corners, st.integers(0, length))


def visible(row: Segments, sequence_length: int) -> Tensor:
    """bool [queries, keys]: the rule, pair by pair, over the first `sequence_length` columns of a row."""
    mask = np.zeros((sequence_length, sequence_length), dtype=bool)
    ends = [*(start for start, _ in row[1:]), sequence_length + 1]
    for (start, prefix), end in zip(row, ends, strict=True):
        for q in range(start, min(end, sequence_length)):
            for k in range(start, min(end, sequence_length)):
                mask[q, k] = k <= q or k < start + prefix
    return torch.from_numpy(mask)
