"""The configuration of the quality rules: `text.quality`, a section per family, its paper's values as defaults.

A family is off until it is named: `gopher_quality: {}` (or `true`) switches it on; each threshold can be changed or,
with `null`, switched off. Imports nothing heavy, because every command reads configurations.
"""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt

from foreword.config import Section

Share = Annotated[float, Field(ge=0.0, le=1.0)]

# a rule's shares by n: n-gram size -> the largest share of a document's characters that is accepted
NgramShares = dict[Annotated[int, Field(ge=1, le=20)], Share]


class GopherQuality(Section):
    """Rae et al. 2021 (arXiv 2112.11446), appendix A.1, quality filtering. A word is what lies between whitespace.

    Attributes:
        min_words, max_words: of a document.
        min_mean_word_chars, max_mean_word_chars: mean length of its words, in characters.
        max_hashes_per_word, max_ellipses_per_word: "#", and "..." or "…", for each word.
        max_bullet_lines: share of lines that begin with a bullet ("•" or "-").
        max_ellipsis_lines: share of lines that end with an ellipsis.
        min_alphabetic_words: share of words with at least one letter.
        min_stop_words: how many different ones of the, be, to, of, and, that, have, with occur.
    """

    min_words: PositiveInt | None = 50
    max_words: PositiveInt | None = 100_000
    min_mean_word_chars: PositiveFloat | None = 3.0
    max_mean_word_chars: PositiveFloat | None = 10.0
    max_hashes_per_word: Share | None = 0.1
    max_ellipses_per_word: Share | None = 0.1
    max_bullet_lines: Share | None = 0.9
    max_ellipsis_lines: Share | None = 0.3
    min_alphabetic_words: Share | None = 0.8
    min_stop_words: Annotated[int, Field(ge=1, le=8)] | None = 2


class GopherRepetition(Section):
    """Rae et al. 2021 (arXiv 2112.11446), appendix A.1, repetition removal, table A1.

    Attributes:
        max_duplicate_lines, max_duplicate_paragraphs: share of a document's lines (paragraphs) that are repeats.
        max_duplicate_line_chars, max_duplicate_paragraph_chars: share of its characters in them.
        max_top_ngram_chars: n -> share of its characters in the most frequent n-gram that occurs at least twice.
        max_duplicate_ngram_chars: n -> share of its characters in repeats of n-grams, each character counted once.
    """

    max_duplicate_lines: Share | None = 0.3
    max_duplicate_paragraphs: Share | None = 0.3
    max_duplicate_line_chars: Share | None = 0.2
    max_duplicate_paragraph_chars: Share | None = 0.2
    max_top_ngram_chars: NgramShares = Field({2: 0.20, 3: 0.18, 4: 0.16})
    max_duplicate_ngram_chars: NgramShares = Field({5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10})


class C4(Section):
    """Raffel et al. 2020 (JMLR 21, 20-074), section 2.2, without its word list, language and span deduplication.

    Attributes:
        terminal_punctuation: remove lines that do not end in a period, exclamation, question or end quotation mark;
            an ellipsis does not count.
        min_words_per_line: remove shorter lines.
        javascript: remove lines with the word Javascript.
        policy_notices: remove lines with one of the usual phrases ("privacy policy", "uses cookies", ...).
        citation_marks: remove Wikipedia's marks such as [1] and [citation needed].
        lorem_ipsum: leave out documents with that phrase.
        curly_bracket: leave out documents with "{".
        min_sentences: leave out documents that have fewer after all this.
    """

    terminal_punctuation: bool = True
    min_words_per_line: PositiveInt | None = 5
    javascript: bool = True
    policy_notices: bool = True
    citation_marks: bool = True
    lorem_ipsum: bool = True
    curly_bracket: bool = True
    min_sentences: PositiveInt | None = 3


def _switch(value: Any) -> Any:
    return {} if value is True else None if value is False else value


_Switch = BeforeValidator(_switch)


class QualityConfig(Section):
    """Which families of rules are used; they are applied in this order.

    They judge web pages: documents with boundaries of their own (the field policy) are not judged.
    """

    c4: Annotated[C4 | None, _Switch] = None
    gopher_quality: Annotated[GopherQuality | None, _Switch] = None
    gopher_repetition: Annotated[GopherRepetition | None, _Switch] = None

    @property
    def is_on(self) -> bool:
        """Whether any rule is used."""
        return any((self.c4, self.gopher_quality, self.gopher_repetition))
