"""Pieces of text come as soon as they stand fast, and together they are the text of all tokens, up to a stop string."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_gpt2 import save_tokenizer_files
from tiny_preparation import documents, train_tokenizer

from data_prep.tokenizers import Tokenizer, load_tokenizer
from pipeline.generation.text import TextStream

PROMPT = "document 7:"
KINDS = ("bytes", "pieces")
STOPS = ("a", "ab", " \n", "é")


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    """One of single bytes, and a sentencepiece model whose pieces have spaces and bytes for what it does not know."""
    directory = tmp_path_factory.mktemp("tokenizers")
    save_tokenizer_files(directory)
    return {
        "bytes": load_tokenizer(directory),
        "pieces": load_tokenizer(train_tokenizer(directory / "small.model")),
    }


def pieces_of(stream: TextStream, ids: list[int]) -> list[str]:
    pieces = []
    for token in ids:
        pieces.append(stream.add(token))
        if stream.stopped:
            break
    return [*pieces, stream.end()]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.integers(0, 256), max_size=20), stop=st.lists(st.sampled_from(STOPS), max_size=2))
def test_the_pieces_are_the_text_before_the_first_stop_string(
    tokenizers: dict[str, Tokenizer], kind: str, ids: list[int], stop: list[str]
) -> None:
    """Whatever ids come: also bytes that are no character, and special tokens."""
    tokenizer = tokenizers[kind]
    before = tokenizer.encode(PROMPT)
    stream = TextStream(tokenizer, before, stop)
    pieces = pieces_of(stream, ids)
    whole = tokenizer.decode([*before, *ids])[len(PROMPT) :]
    ends = [whole.index(text) for text in stop if text in whole]
    assert stream.text == "".join(pieces) == whole[: min(ends, default=None)]
    assert stream.stopped == bool(ends)


@pytest.mark.parametrize("kind", KINDS)
def test_text_comes_token_by_token_and_characters_whole(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = tokenizers[kind]
    text = documents()[7] + "Größe 日本"
    pieces = pieces_of(TextStream(tokenizer, tokenizer.encode(PROMPT)), tokenizer.encode(text))
    assert "".join(pieces) == text
    assert "ö" in pieces and "本" in pieces
    assert sum(map(bool, pieces)) > len(text.split())


def test_what_may_become_a_stop_string_is_held_back_until_it_does_not(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["bytes"]
    stream = TextStream(tokenizer, tokenizer.encode("x"), ["###", "##!"])
    shown = [stream.add(token) for token in tokenizer.encode("a##b##!c")]
    assert shown == ["a", "", "", "##b", "", "", "", ""]
    assert stream.stopped and stream.text == "a##b" and stream.end() == ""


def test_a_stop_string_of_long_characters_is_found_across_the_tokens_of_their_bytes(
    tokenizers: dict[str, Tokenizer],
) -> None:
    tokenizer = tokenizers["bytes"]
    stream = TextStream(tokenizer, tokenizer.encode("x"), ["本🙂"])
    shown = [stream.add(token) for token in tokenizer.encode("日本é本🙂!")]
    assert [piece for piece in shown if piece] == ["日", "本é"]
    assert stream.stopped and stream.text == "日本é"


def test_a_character_that_stays_incomplete_is_shown_at_the_end(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["bytes"]
    stream = TextStream(tokenizer, [])
    assert stream.add(tokenizer.encode("é")[0]) == ""
    assert stream.end() == "\ufffd"
