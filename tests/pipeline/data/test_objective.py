"""Each segment gets its objective by the weights and its boundary by the policy, drawn by its own key alone."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_lists import Segments as SegmentList
from segment_lists import rows_of_segments

from data_prep.shards import PADDING
from pipeline.config.objective import OBJECTIVES, BoundariesConfig
from pipeline.data.batch import batch_of
from pipeline.data.objective import RowKeys, SegmentObjectives, corpus_key
from pipeline.data.segments import Segments, segments_of

SHARDS, UNIFORM = BoundariesConfig(), BoundariesConfig(policy="uniform")
PINNED_OBJECTIVES = ["causal", "prefix", "causal", "bidirectional", "prefix", "causal", "prefix", "prefix"]
PINNED_BOUNDARIES = [2, 3, 9, 7, 2, 7, 5, 8]
EVENLY = {"causal": 1.0, "prefix": 1.0, "bidirectional": 1.0}


def table(rows: Sequence[SegmentList], row_length: int) -> Segments:
    return segments_of([np.array(row) for row in rows], row_length, str)


def keys(rows: np.ndarray, epoch: int = 0, corpus: int = 17) -> RowKeys:
    return RowKeys(np.full(len(rows), corpus, dtype=np.uint64), np.full(len(rows), epoch), rows)


def many(num_rows: int = 4000, length: int = 6, prefix_len: int = 3) -> tuple[Segments, RowKeys]:
    """Rows of five segments, whose prefixes are neither empty nor whole."""
    row = [(start, prefix_len) for start in range(0, 5 * length, length)]
    return table([row] * num_rows, 5 * length), keys(np.arange(num_rows))


def objectives_of(assigned: Segments) -> np.ndarray:
    """Index into OBJECTIVES of each segment, by what it has become."""
    whole = assigned.prefix_len == assigned.length
    assert np.array_equal(whole, assigned.masked)
    return np.where(whole, 2, np.where(assigned.prefix_len > 0, 1, 0))


def slices(segments: Segments, row: int) -> Segments:
    """The segments of one row, as a table of that row alone."""
    own = segments.row == row
    fields = {name: getattr(segments, name)[own] for name in ("number", "start", "length", "prefix_len", "masked")}
    return replace(segments, row=np.zeros(own.sum(), dtype=np.int64), **fields)


def assert_same(a: Segments, b: Segments) -> None:
    for name in ("row", "number", "start", "length", "prefix_len", "masked"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name


@pytest.mark.parametrize(
    "weights",
    [
        {"causal": 1.0},
        {"bidirectional": 0.3},
        {"prefix": 2.0, "bidirectional": 2.0},
        {"causal": 1.0, "prefix": 1.0, "bidirectional": 1.0},
        {"causal": 0.05, "prefix": 0.9, "bidirectional": 0.05},
        {"causal": 1e-12, "prefix": 1.0},
    ],
)
def test_the_shares_of_the_objectives_are_their_weights(weights):
    segments, row_keys = many()
    found = np.bincount(objectives_of(SegmentObjectives(weights, SHARDS, 7).assign(segments, row_keys)), minlength=3)
    for name, count in zip(OBJECTIVES, found, strict=True):
        share = weights.get(name, 0.0) / sum(weights.values())
        deviation = np.sqrt(found.sum() * share * (1 - share))
        assert abs(count - share * found.sum()) <= 4 * deviation, name
        assert share > 0 or count == 0, name


@settings(max_examples=50)
@given(rows_of_segments(max_rows=5), st.sampled_from([SHARDS, UNIFORM]), st.randoms(use_true_random=False))
def test_a_segment_is_the_same_whatever_stands_around_its_row(drawn, boundaries, random):
    """So it is the same in any micro-batch, on any rank, before and after any resume."""
    rows, row_length = drawn
    objectives = SegmentObjectives(EVENLY, boundaries, 7)
    numbers = np.array(random.sample(range(10**9), len(rows)))
    together = objectives.assign(table(rows, row_length), keys(numbers))
    for index, row in enumerate(rows):
        alone = objectives.assign(table([row], row_length), keys(numbers[index : index + 1]))
        assert_same(alone, slices(together, index))


@pytest.mark.parametrize("other", ["epoch", "row", "corpus", "seed", "segment"])
def test_everything_in_the_key_counts(other):
    """Two independent draws from three equal shares agree in a third of all cases."""
    segments, row_keys = many()
    first = objectives_of(SegmentObjectives(EVENLY, UNIFORM, 7).assign(segments, row_keys))
    changed = {
        "epoch": replace(row_keys, epoch=row_keys.epoch + 1),
        "row": replace(row_keys, row=row_keys.row + 1),
        "corpus": replace(row_keys, corpus=row_keys.corpus + np.uint64(1)),
    }
    seed = 8 if other == "seed" else 7
    second = objectives_of(SegmentObjectives(EVENLY, UNIFORM, seed).assign(segments, changed.get(other, row_keys)))
    if other == "segment":
        first, second = first.reshape(-1, 5)[:, 0], first.reshape(-1, 5)[:, 1]
    assert abs((first == second).mean() - 1 / 3) < 0.03


def test_boundaries_are_drawn_anew_in_each_epoch():
    segments, row_keys = many(length=21)
    objectives = SegmentObjectives({"prefix": 1.0}, UNIFORM, 7)
    first, again = objectives.assign(segments, row_keys), objectives.assign(segments, row_keys)
    other = objectives.assign(segments, replace(row_keys, epoch=row_keys.epoch + 1))
    assert_same(first, again)
    assert abs((first.prefix_len == other.prefix_len).mean() - 1 / 20) < 0.01


@settings(max_examples=100)
@given(rows_of_segments(max_rows=4), st.integers(0, 5))
def test_what_the_shards_say_is_kept(drawn, epoch):
    """Under the policy `shards`; and under every policy, padding."""
    rows, row_length = drawn
    segments, row_keys = table(rows, row_length), keys(np.arange(len(rows)), epoch)
    assert_same(SegmentObjectives({"prefix": 1.0}, SHARDS, 7).assign(segments, row_keys), segments)
    for name in OBJECTIVES:
        assigned = SegmentObjectives({name: 1.0}, UNIFORM, 7).assign(segments, row_keys)
        assert np.array_equal(assigned.prefix_len == PADDING, segments.is_padding)
        assert not assigned.masked[segments.is_padding].any()


@settings(max_examples=200)
@given(
    rows_of_segments(max_rows=4, max_row_length=30),
    st.one_of(st.none(), st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)),
)
def test_drawn_boundaries_lie_in_their_range_and_leave_a_target(drawn, fraction):
    rows, row_length = drawn
    policy = UNIFORM if fraction is None else BoundariesConfig(policy="fraction", fraction=fraction)
    segments = table(rows, row_length)
    assigned = SegmentObjectives({"prefix": 1.0}, policy, 7).assign(segments, keys(np.arange(len(rows))))
    for length, prefix_len in zip(assigned.length, assigned.prefix_len, strict=True):
        if prefix_len == PADDING:
            continue
        assert prefix_len <= length - 1
        if fraction is None:
            assert prefix_len >= min(1, length - 1)
        else:
            lowest, highest = fraction
            assert min(int(lowest * length), length - 1) <= prefix_len <= highest * length


@settings(max_examples=100)
@given(rows_of_segments(max_rows=4), st.sampled_from(["causal", "prefix"]))
def test_every_segment_of_two_tokens_or_more_has_a_target_and_no_single_token_has(drawn, name):
    rows, row_length = drawn
    segments = table(rows, row_length)
    assigned = SegmentObjectives({name: 1.0}, UNIFORM, 7).assign(segments, keys(np.arange(len(rows))))
    tokens = np.zeros((len(rows), row_length), dtype=np.uint16)
    batch = batch_of(tokens, assigned, np.arange(len(rows)))
    scored_per_segment = np.zeros(len(assigned.start), dtype=np.int64)
    for row, column in batch.loss_mask_BS.nonzero().tolist():
        (segment,) = np.flatnonzero(
            (assigned.row == row) & (assigned.start <= column) & (column < assigned.start + assigned.length)
        )
        scored_per_segment[segment] += 1
    assert np.array_equal(scored_per_segment > 0, (assigned.length >= 2) & ~assigned.is_padding)


def test_uniform_boundaries_are_uniform():
    segments, row_keys = many(length=5)
    assigned = SegmentObjectives({"prefix": 1.0}, UNIFORM, 7).assign(segments, row_keys)
    counts = np.bincount(assigned.prefix_len, minlength=5)
    assert counts[0] == 0
    assert len(counts) == 5
    np.testing.assert_allclose(counts[1:] / counts.sum(), 1 / 4, atol=0.015)


def test_fractions_fill_their_range():
    segments, row_keys = many(length=100)
    policy = BoundariesConfig(policy="fraction", fraction=(0.2, 0.4))
    prefix_len = SegmentObjectives({"prefix": 1.0}, policy, 7).assign(segments, row_keys).prefix_len
    assert (prefix_len.min(), prefix_len.max()) == (20, 39)
    assert prefix_len.mean() == pytest.approx(29.5, abs=0.2)
    halves = BoundariesConfig(policy="fraction", fraction=(0.5, 0.5))
    assert (SegmentObjectives({"prefix": 1.0}, halves, 7).assign(segments, row_keys).prefix_len == 50).all()


def test_the_draws_are_the_same_on_every_machine_and_in_every_version():
    """Written down once: a change here silently changes what every resumed run trains on."""
    row_keys = keys(np.array([0, 12345]), epoch=2, corpus=corpus_key("0123456789abcdef" + "0" * 48))
    segments = table([[(0, 3), (10, 3), (20, 3), (30, 3)]] * 2, 40)
    assigned = SegmentObjectives(EVENLY, UNIFORM, 7).assign(segments, row_keys)
    assert [OBJECTIVES[index] for index in objectives_of(assigned)] == PINNED_OBJECTIVES
    prefix = SegmentObjectives({"prefix": 1.0}, UNIFORM, 7).assign(segments, row_keys)
    assert prefix.prefix_len.tolist() == PINNED_BOUNDARIES
