"""Cleaning: the vectorised way gives what the plain one says, and every document left out is counted."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.clean import _IN_NFC, _code_points, clean, normalize
from data_prep.config import TextConfig
from data_prep.documents import Documents, string_array

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
awkward_text = st.text(
    st.sampled_from("a e\u0301\u0308é\x00\x1f\x7f\x85\x9f\u00a0\t\n\rÂßﬁ한\u1161\U0001f600"), max_size=12
)


def plainly(text: str, config: TextConfig) -> str:
    if config.control_characters == "remove":
        text = "".join(c for c in text if unicodedata.category(c) != "Cc" or c in "\t\n\r")
    return unicodedata.normalize("NFC", text) if config.normalization == "nfc" else text


@given(
    st.lists(any_text | awkward_text, max_size=8),
    st.sampled_from(["nfc", "none"]),
    st.sampled_from(["remove", "keep"]),
)
@settings(max_examples=400)
def test_normalisation_equals_the_definition(texts, normalization, control_characters):
    config = TextConfig(normalization=normalization, control_characters=control_characters)
    assert normalize(string_array(texts), config).to_pylist() == [plainly(text, config) for text in texts]


def test_documents_are_left_out_by_their_characters_and_counted():
    documents = Documents.from_texts(["", "\x00", "ab", "äöü", "abcdef"])
    kept, dropped, _ = clean(documents, TextConfig(min_chars=3, max_chars=5))
    assert kept.texts.to_pylist() == ["äöü"]
    assert dropped == {"empty": 2, "too_few_chars": 1, "too_many_chars": 1}


def test_the_parts_of_a_document_stay_together():
    documents = Documents.from_parts([["a", "b"], ["", ""], ["c", "", "d"]])
    kept, dropped, _ = clean(documents, TextConfig())
    assert kept.texts.to_pylist() == ["a", "b", "c", "", "d"]
    assert kept.part_ptr.tolist() == [0, 2, 5]
    assert dropped == {"empty": 1}


@pytest.mark.parametrize("count", [0, 1])
def test_small_batches_pass(count):
    documents = Documents.from_texts(["text"] * count)
    assert clean(documents, TextConfig())[0].texts.to_pylist() == ["text"] * count


def test_characters_that_pass_unseen_are_in_nfc_whatever_stands_beside_them():
    passed = [chr(code) for code in np.flatnonzero(_IN_NFC).tolist() if not 0xD800 <= code < 0xE000]
    assert len(passed) > 100_000
    decompositions = [unicodedata.decomposition(chr(code)).split() for code in range(0x110000)]
    composed_with = {chr(int(parts[1], 16)) for parts in decompositions if len(parts) == 2 and parts[0][0] != "<"}
    composed_with |= {chr(code) for code in [*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)]}  # Hangul
    assert not composed_with.intersection(passed)
    for character in passed:
        assert unicodedata.combining(character) == 0 and unicodedata.normalize("NFC", character) == character


def test_characters_are_found_in_their_bytes():
    characters = [chr(code) for code in range(0x80, 0x110000) if not 0xD800 <= code < 0xE000]
    data = np.frombuffer("".join(characters).encode(), np.uint8)
    found = _code_points(data, np.flatnonzero((data & 0xC0) != 0x80))
    assert found.tolist() == list(map(ord, characters))
