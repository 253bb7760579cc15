"""Intervals are those of resampled documents: as wide as theory says, for every group, and the same every time."""

import numpy as np
import pytest

from pipeline.evaluation import SegmentScores, bootstrap
from pipeline.evaluation.bootstrap import intervals
from pipeline.evaluation.documents import Origins
from pipeline.evaluation.evaluation import describe
from pipeline.evaluation.table import show


def lines(causal: np.ndarray, prefix: np.ndarray, prefix_len: np.ndarray | int = 5, targets: int = 10) -> SegmentScores:
    """Segments of `targets` tokens with these losses per token."""
    count = len(causal)
    numbers = np.arange(count)
    return SegmentScores(
        row=numbers,
        segment=np.zeros(count, dtype=np.int64),
        prefix_len=np.broadcast_to(np.asarray(prefix_len), count),
        targets=np.full(count, targets),
        text_bytes=np.full(count, 4 * targets),
        nll_2K=targets * np.stack([causal, prefix]),
        hits_2K=np.stack([numbers % 3, numbers % 4]),
    )


@pytest.fixture
def drawn() -> SegmentScores:
    random = np.random.default_rng(1)
    causal = random.normal(4.0, 1.0, size=400)
    return lines(causal, causal - random.normal(0.1, 0.02, size=400))


def everything(scores: SegmentScores) -> dict:
    return {"all": np.ones(len(scores.row), dtype=bool)}


def test_the_interval_of_a_mean_is_twice_its_standard_error_to_each_side(drawn: SegmentScores) -> None:
    found = intervals(drawn, np.arange(400), everything(drawn), resamples=2000, seed=0)["all"]
    losses = drawn.nll_2K[0] / 10
    low, high = found["causal"]["loss"]
    error = losses.std() / np.sqrt(400)
    assert (low + high) / 2 == pytest.approx(losses.mean(), abs=0.2 * error)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)
    # paired: the difference is known far better than either
    low, high = found["difference"]["loss"]
    assert 0.09 < low < high < 0.11
    assert found["causal"]["perplexity"] == pytest.approx(np.exp(found["causal"]["loss"]))
    bits = np.array(found["causal"]["loss"]) * 10 / np.log(2) / 40
    assert found["causal"]["bits_per_byte"] == pytest.approx(bits)


def test_pieces_of_one_document_are_drawn_together(drawn: SegmentScores) -> None:
    """Each loss four times over says no more than once; if pieces were drawn alone, it would seem to."""
    four = SegmentScores(*(np.concatenate([getattr(drawn, name)] * 4, axis=-1) for name in drawn.__dataclass_fields__))
    once, together, alone = (
        np.diff(intervals(scores, unit, everything(scores), resamples=1000, seed=0)["all"]["causal"]["loss"])[0]
        for scores, unit in (
            (drawn, np.arange(400)),
            (four, np.tile(np.arange(400), 4)),
            (four, np.arange(1600)),
        )
    )
    assert together == pytest.approx(once)
    assert alone < 0.6 * together


def test_the_same_seed_gives_the_same_intervals_however_many_are_drawn_at_once(
    drawn: SegmentScores, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = intervals(drawn, np.arange(400), everything(drawn), resamples=50, seed=3)
    monkeypatch.setattr(bootstrap, "DRAWS_AT_ONCE", 900)
    assert intervals(drawn, np.arange(400), everything(drawn), resamples=50, seed=3) == first
    assert intervals(drawn, np.arange(400), everything(drawn), resamples=50, seed=4) != first


def test_every_group_has_intervals_and_one_document_alone_has_none() -> None:
    random = np.random.default_rng(2)
    scores = lines(
        random.normal(3, 0.1, 9), random.normal(2, 0.1, 9), prefix_len=np.array([0, 1, 9, 9, 9, 9, 20, 20, 20])
    )
    origins = Origins(["web", "book"], np.array([0] * 6 + [1] * 3), np.array([0, 1, 2, 3, 4, 5, 6, 6, 6]))
    told = describe(scores, origins, resamples=200, seed=0)
    assert [(group["shortest"], group["longest"]) for group in told["by_prefix_len"]] == [(0, 1), (2, 15), (16, 63)]
    assert [group["source"] for group in told["by_source"]] == ["book", "web"]
    assert told["by_source"][0]["prefix"]["intervals"]["loss"] is None  # one document, in three pieces
    for group in (told, told["by_source"][1], told["by_prefix_len"][1]):
        for reading in ("causal", "prefix", "difference"):
            for measure, (low, high) in group[reading]["intervals"].items():
                assert low <= group[reading][measure] <= high
    assert told["resampling"] == {
        **{"units": "documents", "number": 7, "resamples": 200, "seed": 0},
        "confidence": 0.95,
    }
    assert sum(group["prefix"]["targets"] for group in told["by_source"]) == told["prefix"]["targets"] == 90
    text = show(told, None)
    assert "source book" in text and "prefix of 16-63" in text
    assert "not known" not in text


def test_without_resamples_there_are_no_intervals(drawn: SegmentScores) -> None:
    told = describe(drawn, None, resamples=0, seed=0)
    assert told["causal"]["intervals"] is None
    assert "interval:" not in show(told, None)
