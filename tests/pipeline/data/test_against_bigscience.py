"""Masks, positions and loss masks are those that BigScience's Megatron-DeepSpeed trains prefix-LMs with, but for its
off-by-one.

Written here from what its `get_ltor_masks_and_position_ids` and `get_prefix_indices` promise: documents end with an
end-of-document token; `reset_attention_mask` and `reset_position_ids` keep them apart; a prefix index is the first
column behind a prefix; `eod_mask_loss` and `loss_on_targets_only` take positions out of the loss.

Where ours differs on purpose:

- there, no position of a prefix is scored with `loss_on_targets_only`, so the first token behind it is never predicted
  by the last one of it, and a document whose prefix holds all but its end has no target at all. Here the last token of
  a prefix predicts the first target;
- there, without `loss_on_targets_only` (the default), tokens of the prefix are scored though they can be seen. Here
  that cannot be asked for;
- there, without `eod_mask_loss` (the default), the end of one document predicts the beginning of the next, which it
  has nothing to do with. Here a label is always of the same segment.
"""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.batch import Batch, make_batch

EOD = 0


@dataclass(frozen=True)
class TheirBatch:
    """What one row becomes there: visible [S, S], positions [S], scored [S]."""

    visible: np.ndarray
    positions: np.ndarray
    scored: np.ndarray


def their_documents(inputs: np.ndarray) -> list[tuple[int, int]]:
    """[first column, column behind the end-of-document token) of each document; the last one may be cut off."""
    ends = [*(np.flatnonzero(inputs == EOD) + 1).tolist()]
    if not ends or ends[-1] != len(inputs):
        ends.append(len(inputs))
    return list(zip([0, *ends[:-1]], ends, strict=True))


def their_batch(
    inputs: np.ndarray, prefix_indices: list[int] | None, *, per_document: bool, eod_mask_loss: bool, targets_only: bool
) -> TheirBatch:
    """Args:
    inputs: [S], a row without its last token.
    prefix_indices: the first column behind the prefix of each document; of the row, when documents are not kept apart;
        None for a causal model.
    per_document: reset_attention_mask and reset_position_ids.
    """
    parts = their_documents(inputs) if per_document else [(0, len(inputs))]
    visible = np.zeros((len(inputs), len(inputs)), dtype=bool)
    positions, scored = np.empty(len(inputs), dtype=np.int64), np.ones(len(inputs), dtype=bool)
    for number, (start, end) in enumerate(parts):
        visible[start:end, start:end] = np.tril(np.ones((end - start, end - start), dtype=bool))
        positions[start:end] = np.arange(end - start)
        if prefix_indices is not None:
            visible[start : prefix_indices[number], start : prefix_indices[number]] = True
            if targets_only:
                scored[start : prefix_indices[number]] = False
    if eod_mask_loss:
        scored[inputs == EOD] = False
    return TheirBatch(visible, positions, scored)


def their_largest_prefix_index(start: int, end: int, is_whole: bool) -> int:
    """The largest that is drawn there for a document [start, end): the column of its end-of-document token."""
    return end - 1 if is_whole else end


@st.composite
def packed_rows(draw: st.DrawFn) -> np.ndarray:
    """[S + 1] tokens: documents that end with EOD, of one token upwards, the last one cut off or not."""
    length = draw(st.integers(2, 24))
    ends = draw(st.sets(st.integers(0, length - 1)))
    row = np.arange(1, length + 1)
    row[list(ends)] = EOD
    return row


def our_batch(row: np.ndarray, prefix_lengths: list[int]) -> Batch:
    """Every document a segment; one that begins in the last column has no inputs, and no prefix."""
    ends = np.flatnonzero(row[:-1] == EOD) + 1
    starts = [0, *ends.tolist()]
    lengths = prefix_lengths + [0] * (len(starts) - len(prefix_lengths))
    return make_batch(row[None], [np.stack([starts, lengths], axis=1)], np.array([0]))


def assert_same_mask_and_positions(ours: Batch, theirs: TheirBatch) -> None:
    columns = np.arange(len(theirs.positions))
    start, key_end = ours.segment_start_BS[0, :, None].numpy(), ours.key_end_BS[0, :, None].numpy()
    assert np.array_equal((start <= columns) & (columns < key_end), theirs.visible)
    assert np.array_equal(ours.position_ids_BS[0].numpy(), theirs.positions)


@settings(max_examples=200)
@given(packed_rows())
def test_causal_documents_that_are_kept_apart(row):
    """Mask, positions and loss mask are the same."""
    theirs = their_batch(row[:-1], None, per_document=True, eod_mask_loss=True, targets_only=True)
    ours = our_batch(row, [])
    assert_same_mask_and_positions(ours, theirs)
    assert np.array_equal(ours.loss_mask_BS[0].numpy(), theirs.scored)


@settings(max_examples=300)
@given(packed_rows(), st.data())
def test_a_prefix_in_every_document(row, data):
    """Mask and positions are the same; of the loss, one position per prefix: its last, which predicts what follows."""
    documents = their_documents(row[:-1])
    indices = [
        data.draw(st.integers(start, their_largest_prefix_index(start, end, row[end - 1] == EOD)))
        for start, end in documents
    ]
    theirs = their_batch(row[:-1], indices, per_document=True, eod_mask_loss=True, targets_only=True)
    ours = our_batch(row, [index - start for index, (start, _) in zip(indices, documents, strict=True)])
    assert_same_mask_and_positions(ours, theirs)

    left_out_there = [index - 1 for index, (start, _) in zip(indices, documents, strict=True) if index > start]
    assert not theirs.scored[left_out_there].any()
    expected = theirs.scored.copy()
    expected[left_out_there] = True
    assert np.array_equal(ours.loss_mask_BS[0].numpy(), expected)


@settings(max_examples=200)
@given(packed_rows(), st.data())
def test_one_prefix_in_a_row_whose_documents_are_not_kept_apart(row, data):
    """For us such a row is one segment."""
    index = data.draw(st.integers(0, len(row) - 2))
    theirs = their_batch(row[:-1], [index], per_document=False, eod_mask_loss=False, targets_only=True)
    ours = make_batch(row[None], [np.array([[0, index]])], np.array([0]))
    assert_same_mask_and_positions(ours, theirs)
    expected = theirs.scored.copy()
    expected[max(index - 1, 0)] = True
    assert np.array_equal(ours.loss_mask_BS[0].numpy(), expected)


def test_a_document_whose_prefix_ends_at_its_last_token_is_trained_on_here_and_not_there():
    """The largest index that is drawn there: the end-of-document token alone is left to be predicted."""
    row = np.array([5, 6, 7, EOD, 8, 9, 10])
    theirs = their_batch(row[:-1], [3, 4], per_document=True, eod_mask_loss=True, targets_only=True)
    assert not theirs.scored[:4].any()
    ours = our_batch(row, [3, 0])
    assert ours.loss_mask_BS[0].tolist() == [False, False, True, False, True, True]


@pytest.mark.parametrize("eod_mask_loss", [True, False])
def test_their_defaults_score_what_is_seen_and_what_has_nothing_to_do_with_it(eod_mask_loss):
    row = np.array([5, 6, 7, EOD, 8, 9])
    theirs = their_batch(row[:-1], [3, 4], per_document=True, eod_mask_loss=eod_mask_loss, targets_only=False)
    assert theirs.scored[0] and theirs.visible[0, 1]  # the label of position 0 is token 1
    assert theirs.scored[3] != eod_mask_loss
    ours = our_batch(row, [3, 0])
    assert ours.loss_mask_BS[0].tolist() == [False, False, True, False, True]
