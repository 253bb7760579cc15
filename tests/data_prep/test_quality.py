"""Quality rules: each leaves out what its definition says, computed here in the plainest way, and is counted."""

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonl_files import write_jsonl

from data_prep.clean import clean
from data_prep.config import TextConfig
from data_prep.documents import Documents, string_array
from data_prep.prepare import prepare
from data_prep.quality.gopher import quality_faults, repetition_faults
from data_prep.quality.rules import apply_rules
from data_prep.quality.thresholds import GopherQuality, GopherRepetition, QualityConfig
from foreword.config import validate
from foreword.errors import ConfigError

# short words of few kinds, so that n-grams, lines and paragraphs do repeat
ugly_text = st.lists(
    st.sampled_from(
        "the of to a be é — # … ... - • • 12 日本 word, \u00a0 Have\twith\x0b \n \n\n\n".split(" ")  # noqa: SIM905
    ),
    max_size=60,
).map(" ".join)


def lines_of(text):
    return [line.strip() for line in text.split("\n") if line.strip()]


def paragraphs_of(text):
    found = [[]]
    for line in text.split("\n"):
        if line.strip():
            found[-1].append(line)
        else:
            found.append([])
    return ["\n".join(lines).strip() for lines in found if lines]


def words_of(text):
    return re.findall(r"\S+", text)


def ratio(part, whole):
    return part / whole if whole else 0.0


def quality_measures(text):
    """What the quality rules look at, straight from their definitions."""
    words, lines = words_of(text), lines_of(text)
    plain_words = re.split(r"\W+", text.lower())
    return {
        "words": len(words),
        "mean_word_chars": ratio(sum(map(len, words)), len(words)),
        "hashes": ratio(text.count("#"), len(words)),
        "ellipses": ratio(text.count("...") + text.count("…"), len(words)),
        "alphabetic": ratio(sum(any(c.isalpha() for c in word) for word in words), len(words)),
        "stop_words": len({"the", "be", "to", "of", "and", "that", "have", "with"} & set(plain_words)),
        "bullets": ratio(sum(line[0] in "•-" for line in lines), len(lines)),
        "ellipsis_lines": ratio(sum(line.endswith(("...", "…")) for line in lines), len(lines)),
    }


def ngram_chars(words, n):
    """(characters in the most frequent n-gram that repeats, characters in repeats of n-grams)."""
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    counts = Counter(grams)
    often = max(counts.values(), default=0)
    top = max((often * sum(map(len, gram)) for gram, count in counts.items() if count == often > 1), default=0)
    covered = {j for i, gram in enumerate(grams) if gram in grams[:i] for j in range(i, i + n)}
    return top, sum(len(words[j]) for j in covered)


def repeats(pieces):
    again = [piece for i, piece in enumerate(pieces) if piece in pieces[:i]]
    return ratio(len(again), len(pieces)), ratio(sum(map(len, again)), sum(map(len, pieces)))


def repetition_measures(text):
    words = words_of(text)
    chars = sum(map(len, words))
    lines, line_chars = repeats(lines_of(text))
    paragraphs, paragraph_chars = repeats(paragraphs_of(text))
    measures = {
        "duplicate_lines": lines,
        "duplicate_line_chars": line_chars,
        "duplicate_paragraphs": paragraphs,
        "duplicate_paragraph_chars": paragraph_chars,
    }
    for n in range(1, 11):
        top, duplicate = ngram_chars(words, n)
        measures[f"top_{n}gram"], measures[f"duplicate_{n}grams"] = ratio(top, chars), ratio(duplicate, chars)
    return measures


def reasons_of(texts, faults):
    """Per text, the reasons that apply to it."""
    found = [(reason, applies.tolist()) for reason, applies in faults]
    assert all(len(applies) == len(texts) for _, applies in found)
    return [{reason for reason, applies in found if applies[i]} for i in range(len(texts))]


THRESHOLDS = [0.0, 0.1, 0.25, 0.5, 0.9]


@given(st.lists(ugly_text, min_size=1, max_size=5), st.sampled_from(THRESHOLDS), st.integers(1, 20), st.integers(1, 8))
@settings(max_examples=300)
def test_quality_rules_equal_their_definition(texts, share, words, stop_words):
    rules = GopherQuality(
        min_words=words,
        max_words=2 * words,
        min_mean_word_chars=1.5,
        max_mean_word_chars=2.5,
        max_hashes_per_word=share,
        max_ellipses_per_word=share,
        max_bullet_lines=share,
        max_ellipsis_lines=share,
        min_alphabetic_words=share,
        min_stop_words=stop_words,
    )
    expected = []
    for measure in map(quality_measures, texts):
        faults = {
            "too_few_words": measure["words"] < words,
            "too_many_words": measure["words"] > 2 * words,
            "short_words": measure["mean_word_chars"] < 1.5,
            "long_words": measure["mean_word_chars"] > 2.5,
            "hashes": measure["hashes"] > share,
            "ellipses": measure["ellipses"] > share,
            "non_alphabetic_words": measure["alphabetic"] < share,
            "too_few_stop_words": measure["stop_words"] < stop_words,
            "bullet_lines": measure["bullets"] > share,
            "ellipsis_lines": measure["ellipsis_lines"] > share,
        }
        expected.append({reason for reason, applies in faults.items() if applies})
    assert reasons_of(texts, quality_faults(string_array(texts), rules)) == expected


@given(st.lists(ugly_text, min_size=1, max_size=5), st.sampled_from(THRESHOLDS))
@settings(max_examples=300)
def test_repetition_rules_equal_their_definition(texts, share):
    rules = GopherRepetition(
        max_duplicate_lines=share,
        max_duplicate_paragraphs=share,
        max_duplicate_line_chars=share,
        max_duplicate_paragraph_chars=share,
        max_top_ngram_chars=dict.fromkeys(range(1, 11), share),
        max_duplicate_ngram_chars=dict.fromkeys(range(1, 11), share),
    )
    expected = [{reason for reason, measure in repetition_measures(text).items() if measure > share} for text in texts]
    assert reasons_of(texts, repetition_faults(string_array(texts), rules)) == expected


def test_with_the_papers_thresholds_prose_stays_and_its_repetition_goes(texts):
    prose = [text for text in texts if len(text.split()) > 150][:20]
    assert len(prose) == 20
    rules = QualityConfig(gopher_repetition=GopherRepetition())
    documents = Documents.from_texts([*prose, *("\n".join([text] * 3) for text in prose)])
    kept, dropped, removed = apply_rules(documents, rules)
    assert set(kept.texts.to_pylist()) <= set(prose) and len(kept) >= 15
    assert sum(dropped.values()) == 40 - len(kept) and not removed


@pytest.mark.parametrize(
    ("text", "expected", "count"),
    [
        ("This line has an end.\nA menu with no end", "This line has an end.", "no_terminal_punctuation"),
        ("This line has an end.\nOne that trails off ...", "This line has an end.", "no_terminal_punctuation"),
        ("This line has an end.\nToo short.", "This line has an end.", "too_few_words"),
        ("This line has an end.\nSwitch on JavaScript for it.", "This line has an end.", "javascript"),
        ("This line has an end.\nDo read our Privacy Policy.", "This line has an end.", "policy_notice"),
        ("This line[1] has an end.[citation needed]", "This line has an end.", "citation_marks"),
        ('"This line has an end."\nIs this one a line?', '"This line has an end."\nIs this one a line?', None),
    ],
)  # fmt: skip
def test_c4_removes_lines_and_counts_them(text, expected, count):
    config = TextConfig(quality=QualityConfig.model_validate({"c4": {"min_sentences": 1}}))
    documents, dropped, removed = clean(Documents.from_texts([text]), config)
    assert documents.texts.to_pylist() == [expected] and not dropped
    assert set(removed) == ({f"c4.{count}"} if count else set())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Lorem Ipsum is what stands here. And here it is. And there.", "c4.lorem_ipsum"),
        ("This page has an if (x) { in it. It is code. It is.", "c4.curly_bracket"),
        ("This page has only two sentences in it. This is the second one.", "c4.too_few_sentences"),
        ("no line of this one\nis a sentence", "c4.too_few_sentences"),
        ("This one has three sentences. Here is the second! Is this the third?", None),
        ('He said: "This is one." "And this another!" (And the third.)\nA line', "c4.too_few_sentences"),
        ('He said: "This is one." "And this another!" (And the third.) And so on.', None),
    ],
)
def test_c4_leaves_out_documents_and_counts_them(text, reason):
    config = TextConfig(quality=QualityConfig.model_validate({"c4": True}))
    _, dropped, _ = clean(Documents.from_texts([text]), config)
    assert dropped == ({reason: 1} if reason else {})


def test_every_c4_rule_can_be_switched_off():
    off = dict.fromkeys(
        ("terminal_punctuation", "javascript", "policy_notices", "citation_marks", "lorem_ipsum", "curly_bracket"),
        False,
    )
    config = QualityConfig.model_validate({"c4": {**off, "min_words_per_line": None, "min_sentences": None}})
    text = "lorem ipsum { javascript [1]\n\nprivacy policy"
    documents, dropped, removed = apply_rules(Documents.from_texts([text]), config)
    assert documents.texts.to_pylist() == [text] and not dropped and not removed


def test_every_gopher_rule_can_be_switched_off():
    quality = dict.fromkeys(GopherQuality.model_fields)
    repetition = {name: {} if "ngram" in name else None for name in GopherRepetition.model_fields}
    config = QualityConfig.model_validate({"gopher_quality": quality, "gopher_repetition": repetition})
    documents, dropped, _ = apply_rules(Documents.from_texts(["x x x x x x x x"]), config)
    assert len(documents) == 1 and not dropped


def test_a_document_that_loses_all_its_lines_is_counted_as_empty():
    config = TextConfig(quality=QualityConfig.model_validate({"c4": {"min_sentences": None}}))
    documents, dropped, removed = clean(Documents.from_texts(["menu\nmore"]), config)
    assert len(documents) == 0 and dropped == {"empty": 1} and removed == {"c4.no_terminal_punctuation": 2}


def test_a_preparation_counts_each_document_once_and_records_what_was_removed(make_config, tmp_path, texts):
    path = write_jsonl(tmp_path / "a.jsonl", [*texts, "", "A line that ends here.\nmenu"])
    quality = {"c4": {"curly_bracket": False}, "gopher_quality": {"min_words": 20}, "gopher_repetition": True}
    manifest = prepare(make_config(path, text={"quality": quality}))
    (source,) = manifest.sources
    assert source.records == len(texts) + 2 == source.documents + sum(source.dropped.values())
    assert {name.split(".")[0] for name in source.dropped} >= {"c4", "gopher_quality", "empty"}
    assert source.removed["c4.no_terminal_punctuation"] > 1
    assert "Taken out inside documents" in (tmp_path / "corpus" / "report.html").read_text()


def test_boundaries_of_records_are_not_judged(make_config, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"q": "What is it", "a": "a test"}])
    prefix = {"policy": "field", "prefix_field": "q", "target_field": "a"}
    text = {"quality": {"c4": True, "gopher_quality": True, "gopher_repetition": True}}
    manifest = prepare(make_config({"path": str(path), "prefix": prefix}, text=text))
    assert manifest.sources[0].documents == 1 and not manifest.sources[0].dropped


def test_a_rule_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="min_words"):
        validate({"gopher_quality": {"min_word": 3}}, QualityConfig)
