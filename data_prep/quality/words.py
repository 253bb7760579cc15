"""The words of a batch of documents as flat arrays, so that rules about words cost a few passes over memory.

A word is what lies between ASCII whitespace (space, tab, newline, carriage return, vertical tab, form feed).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from data_prep.arrays import to_arrow, to_numpy
from data_prep.documents import buffers
from data_prep.gather import gather


@dataclass(frozen=True)
class Words:
    """The words of a batch of texts, text by text.

    Attributes:
        text: int64 [words], which text a word belongs to.
        chars: int64 [words], its characters.
        alphabetic: bool [words], whether it has a letter.
        number: int64 [words], equal for equal words.
        word_ptr: int64 [texts + 1]: the words of text t are word_ptr[t]:word_ptr[t + 1].
    """

    text: np.ndarray
    chars: np.ndarray
    alphabetic: np.ndarray
    number: np.ndarray
    word_ptr: np.ndarray

    def sum_by_text(self, values: np.ndarray) -> np.ndarray:
        """Sums of a value per word (integers or bools [words]) over each text: int64 [texts]."""
        return np.bincount(self.text, weights=values, minlength=len(self.word_ptr) - 1).astype(np.int64)


def words_of(texts: pa.LargeStringArray) -> Words:
    """Find the words of every text."""
    data, offsets = buffers(texts)
    in_word = (data != 32) & (data - np.uint8(9) >= 5)  # 9 to 13 are the other whitespace; unsigned, so it wraps
    before = np.empty_like(in_word)
    before[1:] = in_word[:-1]
    before[offsets[:-1][offsets[:-1] < len(data)]] = False
    starts = np.flatnonzero(in_word & ~before)
    word_ptr = np.searchsorted(starts, offsets)
    text = np.repeat(np.arange(len(texts)), np.diff(word_ptr))
    if not len(starts):
        empty = np.empty(0, np.int64)
        return Words(text, empty, empty.astype(bool), empty, word_ptr)
    # each stretch ends where the next word starts; what lies between counts nothing
    size = np.add.reduceat(in_word, starts, dtype=np.int64)
    chars = size
    letters = np.logical_or.reduceat((data | 32) - np.uint8(97) < 26, starts)
    if (data >= 0x80).any():
        chars = np.add.reduceat(in_word & (data & 0xC0 != 0x80), starts, dtype=np.int64)
        unclear = np.flatnonzero(~letters & (chars != size))
        letters[unclear] = [any(map(str.isalpha, word)) for word in _strings(data, starts[unclear], size[unclear])]
    word_offsets = np.concatenate([[0], np.cumsum(size)])
    flat = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(starts), [None, pa.py_buffer(word_offsets), pa.py_buffer(gather(data, starts, size))]
    )
    return Words(text, chars, letters, to_numpy(flat.dictionary_encode().indices).astype(np.int64), word_ptr)


@dataclass(frozen=True)
class Ngrams:
    """All n-grams of words of a batch, none of them across two texts.

    Attributes:
        n: words in each.
        first: int64 [n-grams], their first words.
        number: int64 [n-grams], equal for equal n-grams of the same text and only for those; counted by appearance.
    """

    n: int
    first: np.ndarray
    number: np.ndarray

    @property
    def is_repeat(self) -> np.ndarray:
        """bool [n-grams]: whether the same one stands earlier in its text."""
        highest_before = np.maximum.accumulate(np.concatenate([[-1], self.number[:-1]]))
        return self.number <= highest_before


def ngrams(words: Words, largest: int) -> Iterator[Ngrams]:
    """The n-grams for n = 1, 2, ..., largest; a number comes from that of the first n - 1 words and the last one's."""
    first = np.arange(len(words.text))
    number = _numbered(words.text, words.number)
    yield Ngrams(1, first, number)
    end = words.word_ptr[1:][words.text]
    for n in range(2, largest + 1):
        inside = first + n <= end[first]
        first = first[inside]
        number = _numbered(number[inside], words.number[first + n - 1])
        yield Ngrams(n, first, number)


def _numbered(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Pairs of numbers below 2^31 -> one number each, equal for equal pairs, counted by their first appearance."""
    return to_numpy(to_arrow(high << 32 | low).dictionary_encode().indices).astype(np.int64)


def _strings(data: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> list[str]:
    content = data.tobytes()
    return [content[start : start + size].decode() for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)]
