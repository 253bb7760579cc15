"""Prefixes: inside their segments, decided by content alone, and where the record says."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.config import FieldPrefix, FractionPrefix, NoPrefix, UniformPrefix
from data_prep.keyed import keyed_bits, to_range, to_unit
from data_prep.prefix import ends_with_eod, fit_field_documents, prefix_lengths, token_documents

PAIR = FieldPrefix(policy="field", prefix_field="a", target_field="b", too_long="cut_prefix")
PINNED = ["0x66647e81eeeff634", "0x35a920edff99b051", "0xda8150f4f8c56340"]
TURNS = FieldPrefix(policy="field", turns_field="turns", too_long="drop")


def lengths_of(policy, length, seed=1, number=0, boundary=-1):
    count = len(length)
    hashes = np.arange(count, dtype=np.uint64), np.full(count, 7, dtype=np.uint64)
    zeros = np.zeros(count, dtype=np.int64)
    return prefix_lengths(policy, seed, hashes, zeros, zeros + number, np.array(length), zeros + boundary)


@given(st.lists(st.integers(2, 2000), min_size=1, max_size=50), st.integers(0, 2**63 - 1))
@settings(max_examples=200)
def test_every_policy_leaves_a_target(lengths, seed):
    for policy in (NoPrefix(), UniformPrefix(policy="uniform"), FractionPrefix(policy="fraction", fraction=0.999)):
        prefixes = lengths_of(policy, lengths, seed)
        assert (prefixes >= 0).all() and (prefixes < lengths).all()
    assert (lengths_of(UniformPrefix(policy="uniform"), lengths, seed) >= 1).all()


def test_uniform_is_uniform_over_1_to_length_minus_1():
    prefixes = lengths_of(UniformPrefix(policy="uniform"), [11] * 100_000)
    counts = np.bincount(prefixes, minlength=11)
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:], 10_000, rtol=0.05)


def test_a_draw_depends_on_seed_and_piece_and_on_nothing_else():
    policy, lengths = UniformPrefix(policy="uniform"), [1000] * 100
    drawn = lengths_of(policy, lengths)
    np.testing.assert_array_equal(drawn[40:60], lengths_of(policy, lengths)[40:60])
    assert (drawn != lengths_of(policy, lengths, seed=2)).mean() > 0.9
    assert (drawn != lengths_of(policy, lengths, number=1)).mean() > 0.9


def test_fraction_rounds_down():
    assert lengths_of(FractionPrefix(policy="fraction", fraction=0.5), [2, 3, 10]).tolist() == [1, 1, 5]


def test_a_pair_is_one_document_with_its_boundary_between_the_parts():
    part_ptr, token_ptr = np.array([0, 2, 4]), np.array([0, 5, 8, 8, 12])
    assert ends_with_eod(PAIR, part_ptr).tolist() == [False, True, False, True]
    documents = token_documents(PAIR, part_ptr, token_ptr)
    assert documents.start.tolist() == [0, 8]
    assert documents.length.tolist() == [8, 4]
    assert documents.boundary.tolist() == [5, 0]


def test_each_reply_of_a_dialogue_is_a_target_after_its_history():
    part_ptr, token_ptr = np.array([0, 3, 4, 6]), np.array([0, 4, 6, 9, 20, 22, 25])
    assert ends_with_eod(TURNS, part_ptr).all()
    documents = token_documents(TURNS, part_ptr, token_ptr)
    assert documents.start.tolist() == [0, 0, 20]
    assert documents.length.tolist() == [6, 9, 5]
    assert documents.boundary.tolist() == [4, 6, 2]
    assert list(zip(documents.first_part, documents.last_part, strict=True)) == [(0, 1), (0, 2), (4, 5)]


def test_too_long_field_documents_lose_the_beginning_of_their_prefix_or_are_dropped():
    part_ptr, token_ptr = np.array([0, 2, 4, 6]), np.array([0, 5, 8, 10, 20, 30, 31])
    documents = token_documents(PAIR, part_ptr, token_ptr)
    adjusted, fits, cut = fit_field_documents(PAIR, documents, row_length=8)
    assert fits.tolist() == [True, False, True]  # the second's target alone is longer than a row
    assert cut == 1
    assert (adjusted.start[2], adjusted.length[2], adjusted.boundary[2]) == (23, 8, 7)
    dropping = PAIR.model_copy(update={"too_long": "drop"})
    assert fit_field_documents(dropping, documents, 8)[1].tolist() == [True, False, False]


def test_the_generator_is_pinned():
    """Corpora prepared by different versions must agree; these values may never change."""
    bits = keyed_bits(1234, "prefix", np.array([0, 1, 2**64 - 1], dtype=np.uint64), np.array([5, 5, 5]))
    assert [hex(value) for value in bits.tolist()] == PINNED
    assert to_range(bits, np.array([10, 10, 10])).tolist() == [int(value) * 10 >> 32 for value in bits >> np.uint64(32)]
    unit = to_unit(bits)
    assert ((unit >= 0) & (unit < 1)).all()
