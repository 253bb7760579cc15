"""The table of segments is what the shards say, row by row; see `test_batch` for what is refused."""

import numpy as np
from hypothesis import given, settings
from segment_lists import Segments as SegmentList
from segment_lists import rows_of_segments

from data_prep.shards import PADDING
from pipeline.data.segments import segments_of


@settings(max_examples=150)
@given(rows_of_segments(max_rows=5))
def test_each_segment_has_its_place_in_its_row(drawn: tuple[list[SegmentList], int]) -> None:
    rows, row_length = drawn
    table = segments_of([np.array(row, dtype=np.int32) for row in rows], row_length, str)
    expected = [
        (b, number, start, end - start, prefix_len, prefix_len == PADDING, min(end, row_length - 1) - start)
        for b, row in enumerate(rows)
        for number, ((start, prefix_len), end) in enumerate(
            zip(row, [*(start for start, _ in row[1:]), row_length], strict=True)
        )
    ]
    columns = (
        table.row,
        table.number,
        table.start,
        table.length,
        table.prefix_len,
        table.is_padding,
        table.num_inputs,
    )
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == expected
    assert not table.masked.any()
    assert np.bincount(table.row, weights=table.length).tolist() == [row_length] * len(rows)
