"""Masked tokens: how many, which ones, what is read in their place, and what is asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_lists import Segments as SegmentList
from segment_lists import rows_of_segments, visible

from pipeline.config.objective import BoundariesConfig, MaskingConfig
from pipeline.data.batch import batch_of
from pipeline.data.masking import MaskedTokens, TokenMasking
from pipeline.data.objective import RowKeys, SegmentObjectives
from pipeline.data.segments import Segments, segments_of

VOCAB_SIZE, MASK_ID = 97, 97  # the first id of the padding
BERT = MaskingConfig()


def table(rows: list[SegmentList], row_length: int, weights: dict, row_keys: RowKeys) -> Segments:
    shards = segments_of([np.array(row) for row in rows], row_length, str)
    return SegmentObjectives(weights, BoundariesConfig(), 7).assign(shards, row_keys)


def keys(num_rows: int, epoch: int = 0) -> RowKeys:
    return RowKeys(np.full(num_rows, 17, dtype=np.uint64), np.full(num_rows, epoch), np.arange(num_rows))


def tokens_of(num_rows: int, row_length: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, VOCAB_SIZE, (num_rows, row_length), dtype=np.uint16)


def draw(
    rows: list[SegmentList], row_length: int, config: MaskingConfig = BERT, epoch: int = 0, weights: dict | None = None
) -> tuple[np.ndarray, Segments, MaskedTokens]:
    """Tokens [B, S + 1], their segments, and what was chosen of the masked ones."""
    tokens, row_keys = tokens_of(len(rows), row_length), keys(len(rows), epoch)
    segments = table(rows, row_length, weights or {"bidirectional": 1.0}, row_keys)
    return tokens, segments, TokenMasking(config, VOCAB_SIZE, 7).draw(tokens[:, :-1], segments, row_keys)


def one_long_segment(config: MaskingConfig, epoch: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Original ids, the ids that are read, and the columns of what is chosen in 200 rows of 500 inputs."""
    tokens, _, masked = draw([[(0, 0)]] * 200, 501, config, epoch)
    return tokens[masked.row, masked.column], masked.read_as, masked.column


@settings(max_examples=150)
@given(rows_of_segments(max_rows=4, max_row_length=40), st.floats(0.001, 1.0))
def test_of_each_segment_exactly_its_share_is_chosen_and_at_least_one(drawn, chosen):
    rows, row_length = drawn
    _, segments, masked = draw(rows, row_length, MaskingConfig(chosen=chosen))
    assert len(set(zip(masked.row, masked.column, strict=True))) == len(masked.row)
    assert (masked.column < row_length - 1).all()  # the last column is a label, and no input
    for k in range(len(segments.row)):
        end = min(segments.start[k] + segments.length[k], row_length - 1)
        inside = (masked.row == segments.row[k]) & (masked.column >= segments.start[k]) & (masked.column < end)
        candidates = max(end - segments.start[k], 0) if segments.masked[k] else 0
        assert inside.sum() == min(max(round(chosen * candidates), 1), candidates)


@settings(max_examples=100)
@given(rows_of_segments(max_rows=4), st.integers(0, 3))
def test_the_choice_is_the_same_whatever_stands_around_the_row(drawn, epoch):
    rows, row_length = drawn
    weights = {"causal": 1.0, "bidirectional": 2.0}
    _, _, together = draw(rows, row_length, epoch=epoch, weights=weights)
    assert sorted(zip(together.row, together.column, strict=True)) == list(
        zip(together.row, together.column, strict=True)
    )
    last = len(rows) - 1
    tokens, row_keys = tokens_of(len(rows), row_length)[last:], keys(len(rows), epoch)
    own = RowKeys(row_keys.corpus[last:], row_keys.epoch[last:], row_keys.row[last:])
    alone = TokenMasking(BERT, VOCAB_SIZE, 7).draw(tokens[:, :-1], table(rows[last:], row_length, weights, own), own)
    of_last = together.row == last
    assert alone.column.tolist() == together.column[of_last].tolist()
    assert alone.read_as.tolist() == together.read_as[of_last].tolist()


def test_each_epoch_chooses_anew():
    first, again, other = (draw([[(0, 0)]] * 200, 501, epoch=epoch)[2] for epoch in (0, 0, 1))
    assert first.column.tolist() == again.column.tolist()
    assert first.read_as.tolist() == again.read_as.tolist()
    places = [set(zip(masked.row, masked.column, strict=True)) for masked in (first, other)]
    assert len(places[0] & places[1]) / len(places[0]) == pytest.approx(BERT.chosen, abs=0.02)


def test_every_place_is_chosen_as_often():
    *_, column = one_long_segment(BERT)
    counts, _ = np.histogram(column, bins=10, range=(0, 500))
    assert len(column) == 200 * 75
    np.testing.assert_allclose(counts / len(column), 0.1, atol=0.01)


def test_of_ten_chosen_tokens_eight_are_masked_one_is_random_and_one_stays():
    original, read_as, _ = one_long_segment(BERT)
    is_mask = read_as == MASK_ID
    stays = read_as == original
    assert is_mask.mean() == pytest.approx(0.8, abs=0.015)
    assert stays.mean() == pytest.approx(0.1 + 0.1 / VOCAB_SIZE, abs=0.01)
    random = read_as[~is_mask & ~stays]
    assert random.max() < VOCAB_SIZE
    assert len(set(random)) > 0.9 * VOCAB_SIZE


@pytest.mark.parametrize(
    ("shares", "expected"),
    [({"masked": 1.0, "random": 0.0}, "mask"), ({"masked": 0.0, "random": 0.0}, "original")],
)
def test_the_shares_reach_to_all_and_to_none(shares, expected):
    original, read_as, _ = one_long_segment(MaskingConfig(**shares))
    assert (read_as == (MASK_ID if expected == "mask" else original)).all()


def test_random_tokens_are_any_of_the_vocabulary_and_no_padding():
    original, read_as, _ = one_long_segment(MaskingConfig(masked=0.0, random=1.0, chosen=1.0))
    counts = np.bincount(read_as, minlength=VOCAB_SIZE)
    assert len(counts) == VOCAB_SIZE
    np.testing.assert_allclose(counts / len(read_as), 1 / VOCAB_SIZE, atol=0.002)
    assert (read_as == original).mean() == pytest.approx(1 / VOCAB_SIZE, abs=0.003)


def test_the_mask_token_may_be_one_of_the_vocabulary():
    _, read_as, _ = one_long_segment(MaskingConfig(masked=1.0, random=0.0, token_id=5))
    assert (read_as == 5).all()


@settings(max_examples=150)
@given(rows_of_segments(max_rows=4), st.integers(0, 10))
def test_visibility_loss_mask_and_labels_of_all_three_regimes_follow_from_one_table(drawn, epoch):
    """Read off token by token: causal, prefix and masked segments beside each other in one row."""
    rows, row_length = drawn
    tokens, segments, masked = draw(
        rows, row_length, epoch=epoch, weights={"causal": 1.0, "prefix": 1.0, "bidirectional": 1.0}
    )
    batch = batch_of(tokens, segments, np.arange(len(rows)), masked=masked)
    read_as = {
        (row, column): token for row, column, token in zip(masked.row, masked.column, masked.read_as, strict=True)
    }
    for b in range(len(rows)):
        own = np.flatnonzero(segments.row == b)
        trained = [(segments.start[k], segments.prefix_len[k]) for k in own]
        start, key_end = batch.segment_start_BS[b, :, None].numpy(), batch.key_end_BS[b, :, None].numpy()
        columns = np.arange(row_length - 1)
        assert np.array_equal((start <= columns) & (columns < key_end), visible(trained, row_length - 1))
        for i in range(row_length - 1):
            k = own[np.searchsorted(segments.start[own], i, side="right") - 1]
            end = segments.start[k] + segments.length[k]
            if segments.masked[k]:
                assert segments.prefix_len[k] == segments.length[k]  # the whole segment is seen from everywhere in it
                scored, label = (b, i) in read_as, tokens[b, i]
            else:
                behind_prefix = i + 1 >= segments.start[k] + segments.prefix_len[k]
                scored = i + 1 < end and behind_prefix and not segments.is_padding[k]
                label = tokens[b, i + 1]
                assert (b, i) not in read_as
            assert batch.loss_mask_BS[b, i] == scored
            assert batch.labels_BS[b, i] == label
            assert batch.tokens_BS[b, i] == read_as.get((b, i), tokens[b, i])


def test_without_masked_segments_nothing_is_chosen():
    *_, masked = draw([[(0, 0), (5, 2)]] * 3, 12, weights={"causal": 1.0, "prefix": 1.0})
    assert len(masked.row) == len(masked.column) == len(masked.read_as) == 0
