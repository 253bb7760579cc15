"""Gopher's quality and repetition rules: which documents of a batch they leave out, and why.

What comes in: texts, one per document. What goes out: (reason, bool [texts]) for one rule after the other; who reads
them may stop early. Source: Rae et al. 2021, arXiv 2112.11446, appendix A.1. What the paper leaves open is settled as
`thresholds` says: shares of characters are shares of the characters of words, lines or paragraphs, without whitespace
around them.
"""

import re
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.arrays import to_numpy
from data_prep.quality.thresholds import GopherQuality, GopherRepetition
from data_prep.quality.words import RepeatedNgrams, Words, repeated_ngrams, words_of

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
BULLETS = ("•", "-")
ELLIPSES = ("...", "…")
_STOP_WORD = re.compile(rf"\b(?:{'|'.join(STOP_WORDS)})\b", re.IGNORECASE)
_PARAGRAPHS = re.compile(r"\n\s*\n")

Fault = tuple[str, np.ndarray]


def quality_faults(texts: pa.LargeStringArray, rules: GopherQuality) -> Iterator[Fault]:
    """The quality rules."""
    words = words_of(texts)
    count = np.diff(words.word_ptr)
    whole = np.maximum(count, 1)
    mean_chars = words.sum_by_text(words.chars) / whole
    if rules.min_words is not None:
        yield "too_few_words", count < rules.min_words
    if rules.max_words is not None:
        yield "too_many_words", count > rules.max_words
    if rules.min_mean_word_chars is not None:
        yield "short_words", mean_chars < rules.min_mean_word_chars
    if rules.max_mean_word_chars is not None:
        yield "long_words", mean_chars > rules.max_mean_word_chars
    if rules.max_hashes_per_word is not None:
        yield "hashes", _occurrences(texts, "#") / whole > rules.max_hashes_per_word
    if rules.max_ellipses_per_word is not None:
        ellipses = sum(_occurrences(texts, ellipsis) for ellipsis in ELLIPSES)
        yield "ellipses", ellipses / whole > rules.max_ellipses_per_word
    if rules.min_alphabetic_words is not None:
        yield "non_alphabetic_words", words.sum_by_text(words.with_letter()) / whole < rules.min_alphabetic_words
    if rules.min_stop_words is not None:
        few = [_has_few_stop_words(text, rules.min_stop_words) for text in texts.to_pylist()]
        yield "too_few_stop_words", np.array(few)
    if rules.max_bullet_lines is not None:
        shares = _line_shares(texts, lambda line: line.startswith(BULLETS))
        yield "bullet_lines", shares > rules.max_bullet_lines
    if rules.max_ellipsis_lines is not None:
        shares = _line_shares(texts, lambda line: line.endswith(ELLIPSES))
        yield "ellipsis_lines", shares > rules.max_ellipsis_lines


def repetition_faults(texts: pa.LargeStringArray, rules: GopherRepetition) -> Iterator[Fault]:
    """The rules about repeated lines, paragraphs and n-grams."""
    for name, pieces_of, largest_share, largest_chars in (
        ("lines", _lines, rules.max_duplicate_lines, rules.max_duplicate_line_chars),
        ("paragraphs", _paragraphs, rules.max_duplicate_paragraphs, rules.max_duplicate_paragraph_chars),
    ):
        if largest_share is None and largest_chars is None:
            continue
        shares = np.array([_duplicates(pieces_of(text)) for text in texts.to_pylist()]).reshape(-1, 2)
        if largest_share is not None:
            yield f"duplicate_{name}", shares[:, 0] > largest_share
        if largest_chars is not None:
            yield f"duplicate_{name.removesuffix('s')}_chars", shares[:, 1] > largest_chars
    wanted = rules.max_top_ngram_chars.keys() | rules.max_duplicate_ngram_chars.keys()
    if not wanted:
        return
    words = words_of(texts)
    chars = np.maximum(words.sum_by_text(words.chars), 1)
    for grams in repeated_ngrams(words, max(wanted)):
        if grams.n in rules.max_top_ngram_chars:
            yield f"top_{grams.n}gram", _top_ngram_chars(words, grams) / chars > rules.max_top_ngram_chars[grams.n]
        if grams.n in rules.max_duplicate_ngram_chars:
            share = _duplicate_ngram_chars(words, grams) / chars
            yield f"duplicate_{grams.n}grams", share > rules.max_duplicate_ngram_chars[grams.n]


def _occurrences(texts: pa.LargeStringArray, what: str) -> np.ndarray:
    return to_numpy(pc.count_substring(texts, what))


def _has_few_stop_words(text: str, enough: int) -> bool:
    found = set()
    for match in _STOP_WORD.finditer(text):  # ordinary English has enough of them in its first sentence
        found.add(match[0].lower())
        if len(found) >= enough:
            return False
    return True


def _line_shares(texts: pa.LargeStringArray, applies: Callable[[str], bool]) -> np.ndarray:
    """float [texts]: the share of a text's lines for which `applies` holds."""
    shares = []
    for text in texts.to_pylist():
        lines = _lines(text)
        shares.append(sum(map(applies, lines)) / max(len(lines), 1))
    return np.array(shares)


def _lines(text: str) -> list[str]:
    return [line for line in map(str.strip, text.split("\n")) if line]


def _paragraphs(text: str) -> list[str]:
    return [paragraph for paragraph in map(str.strip, _PARAGRAPHS.split(text)) if paragraph]


def _duplicates(pieces: list[str]) -> tuple[float, float]:
    """The share of pieces that stand earlier too, and the share of characters in them."""
    different = set(pieces)
    chars = sum(map(len, pieces))
    repeated_chars = chars - sum(map(len, different))
    return (len(pieces) - len(different)) / max(len(pieces), 1), repeated_chars / max(chars, 1)


def _top_ngram_chars(words: Words, grams: RepeatedNgrams) -> np.ndarray:
    """int64 [texts]: characters in the most frequent n-gram that repeats; of equally frequent ones the longest."""
    before = np.concatenate([[0], np.cumsum(words.chars)])
    chars = before[grams.first + grams.n] - before[grams.first]
    best = np.zeros(len(words.word_ptr) - 1, dtype=np.int64)
    np.maximum.at(best, words.text[grams.first], grams.count << 32 | chars)
    return (best >> 32) * (best & 0xFFFFFFFF)


def _duplicate_ngram_chars(words: Words, grams: RepeatedNgrams) -> np.ndarray:
    """int64 [texts]: characters in repeats of n-grams, those in several of them counted once."""
    repeats = grams.first[grams.is_repeat]
    edges = np.zeros(len(words.text) + 1, dtype=np.int64)
    edges[repeats] += 1
    edges[repeats + grams.n] -= 1
    return words.sum_by_text(words.chars * (np.cumsum(edges[:-1]) > 0))
