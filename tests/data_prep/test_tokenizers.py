"""Tokenizers: the engine is the reference, special strings are plain text, bytes per id are exact."""

import json

import numpy as np
import pyarrow as pa
import pytest
import tokenizers as hf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.config import TokenizerTrainingConfig
from data_prep.documents import string_array
from data_prep.tokenizers import load_tokenizer, save_tokenizer
from data_prep.tokenizers.engine import FastEngine, ReferenceEngine, check_engine, make_engine
from data_prep.tokenizers.training import sample_sentences, train_model
from foreword.errors import ConfigError, DataError

HARD_TEXTS = [
    "",
    " ",
    "  two  spaces\n\n\tand a tab \r\n",
    "<|endoftext|> </s> <pad> <unk> <0x0A>",
    "naïve café 日本語 😀👩‍👩‍👧 \u200b",
    "\x00 nul",
    "1234567890" * 5,
    "don't we'll I'M",
]


@pytest.fixture(scope="module")
def directories(texts, model_path, tmp_path_factory):
    """One tokenizer of each kind, made from real text."""
    root = tmp_path_factory.mktemp("tokenizers")
    unigram = root / "unigram.model"
    unigram.write_bytes(train_model(texts, TokenizerTrainingConfig(vocab_size=600, model_type="unigram")))
    trained = hf.ByteLevelBPETokenizer()
    trained.train_from_iterator(texts, vocab_size=600, special_tokens=["<|endoftext|>"], show_progress=False)
    for name in ("gpt2_new", "gpt2_old", "json"):
        (root / name).mkdir()
    trained.save_model(str(root / "gpt2_new"))
    vocab, merges = (root / "gpt2_new" / name for name in ("vocab.json", "merges.txt"))
    (root / "gpt2_old" / "encoder.json").write_bytes(vocab.read_bytes())
    (root / "gpt2_old" / "vocab.bpe").write_bytes(merges.read_bytes())
    trained.save(str(root / "json" / "tokenizer.json"))
    return {
        "sentencepiece": model_path,
        "unigram": unigram,
        "gpt2_new": root / "gpt2_new",
        "gpt2_old": root / "gpt2_old",
        "json": root / "json" / "tokenizer.json",
    }


KINDS = ["sentencepiece", "unigram", "gpt2_new", "gpt2_old", "json"]


@pytest.mark.parametrize("kind", KINDS)
def test_text_comes_back_exactly_and_bytes_per_id_add_up(directories, texts, kind):
    tokenizer = load_tokenizer(directories[kind])
    sizes = tokenizer.token_bytes()
    assert sizes.shape == (tokenizer.vocab_size,) and sizes.dtype == np.int32
    for text in HARD_TEXTS + texts[:100]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert sizes[ids].sum() == len(text.encode())


@pytest.mark.parametrize("kind", KINDS)
def test_a_special_tokens_string_is_plain_text(directories, kind):
    tokenizer = load_tokenizer(directories[kind])
    assert not tokenizer.special_ids & set(tokenizer.encode("a<|endoftext|>b</s>"))
    assert tokenizer.eod_id in tokenizer.special_ids
    assert tokenizer.token_bytes()[tokenizer.eod_id] == 0
    assert tokenizer.decode([*tokenizer.encode("a"), tokenizer.eod_id, *tokenizer.encode("b")]) == "ab"


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_gives_the_references_ids(directories, texts, kind):
    tokenizer = load_tokenizer(directories[kind])
    engine = make_engine(tokenizer)
    assert isinstance(engine, ReferenceEngine if kind == "unigram" else FastEngine)
    batch = HARD_TEXTS + texts
    for text, ids in zip(batch, engine.encode(pa.array(batch, pa.large_string())), strict=True):
        assert ids.dtype == np.uint32
        assert ids.tolist() == tokenizer.encode(text)


@pytest.mark.parametrize("kind", ["sentencepiece", "gpt2_new"])
@given(text=st.text(max_size=60))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_engine_gives_the_references_ids_for_any_text(directories, kind, text):
    tokenizer, engine = _loaded(directories[kind])
    check_engine(engine, tokenizer, [text], "here")


_cache: dict = {}


def _loaded(path):
    if path not in _cache:
        tokenizer = load_tokenizer(path)
        _cache[path] = tokenizer, make_engine(tokenizer)
    return _cache[path]


def test_the_engine_is_made_anew_after_a_while_and_gives_the_same_ids(directories, texts, monkeypatch):
    engine = make_engine(load_tokenizer(directories["gpt2_new"]))
    batch = string_array(texts[:40])
    expected = engine.encode(batch)
    monkeypatch.setattr("data_prep.tokenizers.engine.RENEW_BYTES", 3 * sum(len(text.encode()) for text in texts[:40]))
    encoders = set()
    for _ in range(9):
        for found, wanted in zip(engine.encode(batch), expected, strict=True):
            assert found.tolist() == wanted.tolist()
        encoders.add(engine._encoder)
    assert len(encoders) == 3


def test_an_engine_that_differs_is_stopped_with_the_text_that_showed_it(directories):
    tokenizer = load_tokenizer(directories["gpt2_new"])
    other = make_engine(load_tokenizer(directories["sentencepiece"]))
    with pytest.raises(DataError, match=r"differ at token 0 .* 'some text'"):
        check_engine(other, tokenizer, ["some text"], "here")


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_loads_as_the_same_one(directories, tmp_path, kind):
    tokenizer = load_tokenizer(directories[kind], pad="<|endoftext|>")
    info = save_tokenizer(tokenizer, tmp_path / "tokenizer")
    again = load_tokenizer(tmp_path / "tokenizer")
    for name in ("kind", "name", "sha256", "vocab_size", "eod_id", "pad_id"):
        assert getattr(tokenizer, name) == getattr(again, name) == getattr(info, name)
    assert again.pad_id == again.eod_id
    np.testing.assert_array_equal(np.load(tmp_path / "tokenizer" / "token_bytes.npy"), tokenizer.token_bytes())


def test_mistakes_are_named(tmp_path, directories):
    with pytest.raises(ConfigError, match="no such tokenizer"):
        load_tokenizer(tmp_path / "absent.model")
    with pytest.raises(ConfigError, match="no tokenizer in this directory"):
        load_tokenizer(tmp_path)
    (tmp_path / "broken.model").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="cannot be loaded as a sentencepiece tokenizer"):
        load_tokenizer(tmp_path / "broken.model")
    (tmp_path / "broken.json").write_text('{"model": {"vocab": {}}}')
    with pytest.raises(ConfigError, match="cannot be loaded as a tokenizer_json tokenizer"):
        load_tokenizer(tmp_path / "broken.json")
    with pytest.raises(ConfigError, match="no token '<nope>'"):
        load_tokenizer(directories["json"], eod="<nope>")
    config = json.loads(directories["json"].read_text())
    config["added_tokens"], config["model"]["vocab"] = [], {"a": 0, "b": 1}
    config["model"]["merges"] = []
    (tmp_path / "plain.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="no end-of-document token"):
        load_tokenizer(tmp_path / "plain.json")


@given(st.lists(st.text(min_size=1, max_size=40), max_size=30), st.integers(10, 200), st.randoms())
@settings(max_examples=200)
def test_the_training_sample_is_bounded_and_independent_of_order(documents, sample_bytes, random):
    sample = sample_sentences(documents, sample_bytes, seed=1)
    shuffled = list(documents)
    random.shuffle(shuffled)
    assert sample_sentences(shuffled, sample_bytes, seed=1) == sample
    assert len(sample) <= 1 or sum(len(sentence.encode()) for sentence in sample) <= sample_bytes


def test_training_is_repeatable(texts):
    settings_ = TokenizerTrainingConfig(vocab_size=400)
    assert train_model(texts, settings_) == train_model(texts, settings_)


def test_too_large_a_vocabulary_is_a_configuration_error():
    with pytest.raises(ConfigError, match="Vocabulary size"):
        train_model(["a few words"] * 3, TokenizerTrainingConfig(vocab_size=5000))
