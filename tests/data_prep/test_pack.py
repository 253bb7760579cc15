"""Packing: every token is predicted once, nothing is cut that fits, and little is padding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.pack import Packed, _best_fit_rows, pack

lengths_lists = st.lists(st.integers(2, 60), min_size=1, max_size=80)
row_lengths = st.integers(2, 25)
policies = st.sampled_from(["best_fit", "concat"])


def row_fill(packed: Packed) -> np.ndarray:
    return np.bincount(packed.row, weights=packed.length).astype(int)


@given(policies, lengths_lists, row_lengths)
@settings(max_examples=300)
def test_every_token_after_a_documents_first_is_predicted_exactly_once(policy, lengths, row_length):
    packed = pack(policy, np.array(lengths), row_length)
    predicted = [np.zeros(length, dtype=int) for length in lengths]
    for document, start, length in zip(packed.document, packed.start, packed.length, strict=True):
        predicted[document][start + 1 : start + length] += 1
    for counts in predicted:
        assert counts[0] == 0 and (counts[1:] == 1).all()


@given(policies, lengths_lists, row_lengths)
@settings(max_examples=300)
def test_rows_hold_their_pieces_and_every_piece_has_a_target(policy, lengths, row_length):
    packed = pack(policy, np.array(lengths), row_length)
    assert (row_fill(packed) <= row_length).all()
    assert (packed.length >= 2).all()
    assert (packed.start + packed.length <= np.array(lengths)[packed.document]).all()
    np.testing.assert_array_equal(np.unique(packed.row), np.arange(packed.row[-1] + 1))
    assert (np.diff(packed.row) >= 0).all()


@given(policies, lengths_lists, row_lengths)
@settings(max_examples=100)
def test_pieces_of_a_document_are_numbered_from_zero(policy, lengths, row_length):
    packed = pack(policy, np.array(lengths), row_length)
    for document in range(len(lengths)):
        mine = packed.document == document
        order = np.argsort(packed.start[mine])
        np.testing.assert_array_equal(packed.number[mine][order], np.arange(mine.sum()))


@given(lengths_lists, row_lengths)
@settings(max_examples=200)
def test_best_fit_never_cuts_a_document_that_fits(lengths, row_length):
    packed = pack("best_fit", np.array(lengths), row_length)
    pieces = np.bincount(packed.document)
    assert (pieces[np.array(lengths) <= row_length] == 1).all()


@given(lengths_lists, row_lengths)
@settings(max_examples=200)
def test_concat_leaves_at_most_one_column_of_a_row_empty_except_in_the_last(lengths, row_length):
    fill = row_fill(pack("concat", np.array(lengths), row_length))
    assert (fill[:-1] >= row_length - 1).all()


@given(st.lists(st.integers(2, 30), min_size=1, max_size=120))
@settings(max_examples=200)
def test_the_batched_best_fit_equals_the_textbook_one_in_rows_used(lengths):
    row_length = 30
    free: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row, room in enumerate(free) if room >= length]
        if fitting:
            free[min(fitting, key=lambda row: free[row])] -= length
        else:
            free.append(row_length - length)
    rows = _best_fit_rows(np.array(lengths), row_length)
    used = np.bincount(rows, weights=lengths)
    assert sorted(row_length - used) == sorted(free)


@pytest.mark.parametrize("mean_length", [25, 300, 1700, 6000])
def test_web_like_lengths_leave_at_most_half_a_percent_of_padding(mean_length):
    lengths = np.random.default_rng(0).lognormal(np.log(mean_length), 1.0, 8_000_000 // mean_length).astype(int) + 2
    packed = pack("best_fit", lengths, 1025)
    assert 1 - packed.length.sum() / ((packed.row[-1] + 1) * 1025) <= 0.005
