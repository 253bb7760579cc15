"""The words of a batch of texts as flat arrays, so that rules about words and n-grams are a few passes over memory.

A word is what lies between whitespace. Words are compared by 64-bit hashes of their text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
import xxhash

_LETTER = re.compile(r"[^\W\d_]")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it loses nothing


@dataclass(frozen=True)
class Words:
    """The words of a batch of texts, text by text.

    Attributes:
        flat: the words themselves.
        text: int64 [words], which text a word belongs to.
        chars: int64 [words], its characters.
        word_ptr: int64 [texts + 1]: the words of text t are word_ptr[t]:word_ptr[t + 1].
    """

    flat: list[str]
    text: np.ndarray
    chars: np.ndarray
    word_ptr: np.ndarray

    def sum_by_text(self, values: np.ndarray) -> np.ndarray:
        """Sums of a value per word (integers or bools [words]) over each text: int64 [texts]."""
        return np.bincount(self.text, weights=values, minlength=len(self.word_ptr) - 1).astype(np.int64)

    def with_letter(self) -> np.ndarray:
        """bool [words]: which ones have at least one letter."""
        found = np.fromiter(map(str.isalpha, self.flat), bool, len(self.flat))
        for index in np.flatnonzero(~found).tolist():
            found[index] = _LETTER.search(self.flat[index]) is not None
        return found


def words_of(texts: pa.LargeStringArray) -> Words:
    """Find the words of every text."""
    lists = [text.split() for text in texts.to_pylist()]
    word_ptr = np.zeros(len(lists) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, lists), np.int64, len(lists)), out=word_ptr[1:])
    flat = list(chain.from_iterable(lists))
    chars = np.fromiter(map(len, flat), np.int64, len(flat))
    return Words(flat, np.repeat(np.arange(len(lists)), np.diff(word_ptr)), chars, word_ptr)


@dataclass(frozen=True)
class RepeatedNgrams:
    """Every occurrence of the n-grams that occur more than once in their text.

    Attributes:
        n: words in each.
        first: int64 [occurrences], the first word of each.
        count: int64 [occurrences], how often the n-gram occurs in its text.
        is_repeat: bool [occurrences], whether it occurs earlier in its text.
    """

    n: int
    first: np.ndarray
    count: np.ndarray
    is_repeat: np.ndarray


def repeated_ngrams(words: Words, largest: int) -> Iterator[RepeatedNgrams]:
    """The repeated n-grams for n = 1, 2, ..., largest.

    An n-gram can only be repeated where both of its (n - 1)-grams are, so that in ordinary text few remain to be
    looked at as n grows.
    """
    hashes = map(xxhash.xxh3_64_intdigest, map(str.encode, words.flat))
    word_hash = np.fromiter(hashes, np.uint64, len(words.flat))
    key = word_hash + words.text.astype(np.uint64) * _MULTIPLIER  # equal words of different texts are different
    end = words.word_ptr[1:][words.text]
    first = np.arange(len(words.flat))
    for n in range(1, largest + 1):
        found = _repeated(n, first, key)
        yield found
        is_left = np.zeros(len(words.flat) + 1, dtype=bool)
        is_left[found.first] = True
        stays = is_left[first] & is_left[first + 1] & (first + n < end[first])
        first = first[stays]
        key = key[stays] * _MULTIPLIER + word_hash[first + n]


def _repeated(n: int, first: np.ndarray, key: np.ndarray) -> RepeatedNgrams:
    """Of n-grams with their keys, those whose key occurs more than once."""
    order = np.argsort(key)
    in_order = key[order]
    starts = np.flatnonzero(np.concatenate([[True], in_order[1:] != in_order[:-1]]) if len(key) else [])
    sizes = np.diff(np.append(starts, len(key)))
    size_of = np.repeat(sizes, sizes)
    order, sizes = order[size_of > 1], sizes[sizes > 1]
    if not len(order):
        return RepeatedNgrams(n, order, order, order.astype(bool))
    earliest = np.minimum.reduceat(order, np.cumsum(sizes) - sizes)
    return RepeatedNgrams(n, first[order], np.repeat(sizes, sizes), order != np.repeat(earliest, sizes))
