"""Corpora take turns so that each has given its exact share at every position, and nothing is drawn or remembered."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreword.errors import ConfigError
from pipeline.data.blend import LONGEST_CYCLE, Blend, turns, whole_weights

PINNED = [0, 0, 0, 1, 0, 0, 1, 0, 0, 2]
weights_of_some = st.lists(st.integers(1, 60), min_size=1, max_size=7)


@settings(max_examples=200)
@given(weights_of_some, st.integers(0, 3))
def test_at_every_position_each_corpus_has_given_its_share_to_within_less_than_one_row(weights, cycle):
    total = sum(weights)
    positions = np.arange(cycle * total, (cycle + 2) * total)
    corpus, given_before = Blend(weights).sources_at(positions)
    for index, weight in enumerate(weights):
        given = cycle * weight + np.cumsum(corpus == index)  # rows up to and with each position
        # |given - weight / total * rows| < 1, in whole numbers
        assert (np.abs(given * total - weight * (positions + 1)) < total).all()
        assert given_before[corpus == index].tolist() == list(range(cycle * weight, (cycle + 2) * weight))


@settings(max_examples=200)
@given(weights_of_some)
def test_every_row_comes_within_its_window(weights):
    """Not before its share has become due, and before the next one's has."""
    total, order = sum(weights), turns(weights)
    assert np.bincount(order, minlength=len(weights)).tolist() == weights
    for index, weight in enumerate(weights):
        for k, place in enumerate(np.flatnonzero(order == index).tolist()):
            assert k * total // weight <= place < -(-(k + 1) * total // weight)


@settings(max_examples=50)
@given(weights_of_some, st.lists(st.integers(0, 10**15), min_size=1, max_size=20))
def test_a_position_needs_none_before_it(weights, positions):
    blend, cycle = Blend(weights), sum(weights)
    corpus, given_before = blend.sources_at(np.array(positions))
    for position, index, before in zip(positions, corpus, given_before, strict=True):
        (same,), (in_first_cycle,) = blend.sources_at(np.array([position % cycle]))
        assert index == same
        assert before == position // cycle * weights[index] + in_first_cycle


def test_one_corpus_gives_every_row():
    corpus, given_before = Blend([1]).sources_at(np.arange(5))
    assert (corpus.tolist(), given_before.tolist()) == ([0] * 5, [0, 1, 2, 3, 4])


def test_the_turns_are_the_same_in_every_version():
    """Written down once: a change here silently changes what every resumed run reads."""
    assert turns([7, 2, 1]).tolist() == PINNED


@pytest.mark.parametrize(
    ("weights", "whole"),
    [
        ({"a": 1.0}, {"a": 1}),
        ({"a": 0.1, "b": 0.2, "c": 0.7}, {"a": 1, "b": 2, "c": 7}),
        ({"a": 0.1 + 0.2, "b": 0.7}, None),  # 0.30000000000000004: written so, it is meant so
        ({"a": 30.0, "b": 10.0}, {"a": 3, "b": 1}),
        ({"a": 2.5, "b": 1e-1}, {"a": 25, "b": 1}),
        ({"a": 1e-7, "b": 3e-7}, {"a": 1, "b": 3}),
        ({"a": 9999.0, "b": 1.0}, {"a": 9999, "b": 1}),
    ],
)
def test_weights_are_the_decimals_that_they_are_written_as(weights, whole):
    if whole is None:
        with pytest.raises(ConfigError, match=r"need a cycle of [\d,]+ rows, and 10,000 is the longest"):
            whole_weights(weights)
    else:
        assert whole_weights(weights) == whole


@given(st.dictionaries(st.sampled_from("abcdef"), st.decimals("0.001", "99", places=3), min_size=1))
def test_whole_weights_are_the_smallest_in_the_same_proportions(weights):
    values = {name: float(weight) for name, weight in weights.items()}
    try:
        whole = whole_weights(values)
    except ConfigError:
        return
    shares = {name: Fraction(weight) / sum(map(Fraction, weights.values())) for name, weight in weights.items()}
    assert {name: Fraction(weight, sum(whole.values())) for name, weight in whole.items()} == shares
    assert np.gcd.reduce(list(whole.values())) == 1


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.floats(1e-6, 1e6, allow_subnormal=False), min_size=2).filter(
        lambda weights: len(set(weights.values())) > 1
    )
)
def test_weights_that_are_refused_come_with_others_that_are_not(weights):
    try:
        assert sum(whole_weights(weights).values()) <= LONGEST_CYCLE
    except ConfigError as error:
        assert error.remedy is not None
        advice = dict(pair.split() for pair in error.remedy.removeprefix("round them, for example to ").split(", "))
        assert whole_weights({name: float(weight) for name, weight in advice.items()}).keys() == weights.keys()
