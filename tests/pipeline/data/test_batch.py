"""Batches equal a slow, obvious reading of the rule: token by token, pair by pair."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from segment_lists import Segments, rows_of_segments

from data_prep.shards import PADDING
from foreword.errors import DataError
from pipeline.data.batch import Batch, make_batch


def batch_of(rows: list[Segments], row_length: int, **options: str) -> Batch:
    tokens = np.arange(len(rows) * row_length, dtype=np.uint16).reshape(len(rows), row_length)
    segments = [np.array(row, dtype=np.int32) for row in rows]
    return make_batch(tokens, segments, np.arange(len(rows)), **options)  # type: ignore[arg-type]


def facts_of_token(row: Segments, column: int) -> tuple[int, int, int]:
    """(number, start, prefix length) of the segment that holds `column`."""
    number = max(k for k, (start, _) in enumerate(row) if start <= column)
    return number, *row[number]


@settings(max_examples=100)
@given(rows_of_segments())
def test_the_table_of_segments_says_what_the_tokens_say(drawn: tuple[list[Segments], int]) -> None:
    rows, row_length = drawn
    shard = batch_of(rows, row_length)
    for batch in (shard, shard.read_causally()):
        start_G, length_G, prefix_len_G = batch.segments_G3.T
        position_T = batch.position_ids_BS.flatten().numpy()
        assert np.array_equal(np.arange(len(position_T)) - np.repeat(start_G, length_G), position_T)
        # the last column of a row is no input, though a prefix may end with it
        inputs_from_start_T = np.tile(np.arange(row_length - 1, 0, -1), len(rows)) + position_T
        prefix_len_T = np.minimum(batch.prefix_len_BS.flatten().numpy(), inputs_from_start_T)
        assert np.array_equal(np.repeat(prefix_len_G, length_G), prefix_len_T)


@settings(max_examples=200)
@given(rows_of_segments())
def test_every_field_equals_the_obvious_reading(drawn: tuple[list[Segments], int]) -> None:
    rows, row_length = drawn
    batch = batch_of(rows, row_length)
    for b, row in enumerate(rows):
        for i in range(row_length - 1):
            number, start, prefix_len = facts_of_token(row, i)
            next_number, _, _ = facts_of_token(row, i + 1)
            scored = number == next_number and prefix_len != PADDING and i + 1 - start >= prefix_len
            assert batch.tokens_BS[b, i] == b * row_length + i
            assert batch.labels_BS[b, i] == b * row_length + i + 1
            assert batch.segment_ids_BS[b, i] == number
            assert batch.position_ids_BS[b, i] == i - start
            assert batch.prefix_end_BS[b, i] == start + max(prefix_len, 0)
            assert batch.prefix_len_BS[b, i] == max(prefix_len, 0)
            assert batch.loss_mask_BS[b, i] == scored
    assert batch.num_targets == int(batch.loss_mask_BS.sum())
    assert batch.scored_N.tolist() == batch.loss_mask_BS.flatten().nonzero().flatten().tolist()


@settings(max_examples=100)
@given(rows_of_segments())
def test_no_scored_position_can_see_its_own_label(drawn: tuple[list[Segments], int]) -> None:
    batch = batch_of(*drawn)
    rows_N, columns_N = batch.loss_mask_BS.nonzero(as_tuple=True)
    assert (batch.prefix_end_BS[rows_N, columns_N] <= columns_N + 1).all()


@settings(max_examples=100)
@given(rows_of_segments())
def test_reading_causally_changes_what_is_seen_and_not_what_is_scored(drawn: tuple[list[Segments], int]) -> None:
    shard, causal = batch_of(*drawn), batch_of(*drawn, visibility="causal")
    assert (causal.prefix_len_BS == 0).all()
    for name in ("tokens_BS", "labels_BS", "loss_mask_BS", "scored_N", "position_ids_BS", "segment_ids_BS"):
        assert torch.equal(getattr(causal, name), getattr(shard, name)), name


def test_the_last_prefix_token_predicts_the_first_target() -> None:
    batch = batch_of([[(0, 3)]], row_length=6)
    assert batch.loss_mask_BS.tolist() == [[False, False, True, True, True]]


@pytest.mark.parametrize("prefix_len", [0, 1])
def test_a_prefix_of_one_token_is_causal_and_scores_every_target(prefix_len: int) -> None:
    batch = batch_of([[(0, prefix_len), (4, PADDING)]], row_length=8)
    assert batch.loss_mask_BS.tolist() == [[True, True, True, False, False, False, False]]


def test_a_segment_read_whole_has_no_target() -> None:
    assert batch_of([[(0, 6)]], row_length=6).num_targets == 0


def test_labels_of_the_largest_uint16_id_do_not_wrap() -> None:
    batch = make_batch(np.full((1, 3), 65535, dtype=np.uint16), [np.array([[0, 0]])], np.array([0]))
    assert batch.labels_BS.tolist() == [[65535, 65535]]
    assert batch.labels_BS.dtype == torch.int64


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([(1, 0)], "no segment starts at column 0"),
        ([(0, 0), (5, 0), (3, 0)], "segment at column 5"),
        ([(0, 0), (9, 0)], "segment at column 9"),
        ([(0, 9)], "prefix length 9"),
        ([(0, -2)], "prefix length -2"),
    ],
)
def test_segments_that_do_not_tile_the_row_are_refused_with_the_row_named(row: Segments, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        batch_of([[(0, 2)], row], row_length=8)
    assert caught.value.where == "row 1"
