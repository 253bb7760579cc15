"""What transformers loads from an export gives the ids and the texts of the tokenizer that was exported."""

import json
from pathlib import Path

import pytest
from tiny_gpt2 import EOD, save_tokenizer_files
from tiny_preparation import documents
from tokenizers import Tokenizer as TheirTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from data_prep.config import TokenizerTrainingConfig
from data_prep.tokenizers import Tokenizer, load_tokenizer
from data_prep.tokenizers.training import train_model
from pipeline.weights import hf_tokenizer
from pipeline.weights.hf_tokenizer import write_tokenizer

TEXTS = [*documents()[:20], "Größe,  12 €\n\n\tDas ist 日本 🙂", " leading", "trailing  ", "a < b & <c>", ""]
KINDS = ["gpt2", "openai", "json", "bpe", "unigram"]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(make_tokenizer(request.param, tmp_path_factory.mktemp(request.param)))


def make_tokenizer(kind: str, directory: Path) -> Path:
    if kind in ("gpt2", "openai"):
        save_tokenizer_files(directory)
        if kind == "openai":
            (directory / "vocab.json").rename(directory / "encoder.json")
            (directory / "merges.txt").rename(directory / "vocab.bpe")
        return directory
    if kind == "json":
        made = TheirTokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=["<pad>", "</s>"], initial_alphabet=alphabet, show_progress=False
        )
        made.train_from_iterator(documents(), trainer)
        made.save(str(directory / "tokenizer.json"))
        return directory
    path = directory / f"{kind}.model"
    path.write_bytes(train_model(documents(), TokenizerTrainingConfig(vocab_size=320, model_type=kind)))
    return path


def test_ids_texts_and_special_tokens_are_the_same_there(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert write_tokenizer(tokenizer, tmp_path, max_positions=64) is None
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert theirs(text)["input_ids"] == ids, text
        assert theirs.decode(ids) == tokenizer.decode(ids)
    assert (theirs.eos_token_id, theirs.pad_token_id) == (tokenizer.eod_id, tokenizer.pad_id)
    assert theirs.decode([tokenizer.eod_id, *tokenizer.encode("a")], skip_special_tokens=True) == "a"
    name = tokenizer.token_of(tokenizer.eod_id)
    assert theirs(name)["input_ids"] == [tokenizer.eod_id] != tokenizer.encode(name)  # the one difference
    assert theirs.model_max_length == 64
    assert theirs(["a", "longer"], padding=True)["attention_mask"][0][0] == 0


def test_it_is_the_same_tokenizer_when_it_is_loaded_here_again(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_tokenizer(tokenizer, tmp_path, max_positions=64)
    again = load_tokenizer(tmp_path)
    assert again.sha256 == tokenizer.sha256
    assert (again.name, again.eod_id, again.pad_id) == (tokenizer.name, tokenizer.eod_id, tokenizer.pad_id)


def test_a_sentencepiece_model_without_an_equal_there_goes_out_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(make_tokenizer("bpe", tmp_path))
    monkeypatch.setattr(hf_tokenizer, "SPACE", "_")  # a conversion that is wrong
    out = tmp_path / "out"
    out.mkdir()
    problem = write_tokenizer(tokenizer, out, max_positions=64)
    assert problem == "transformers has no equal of this sentencepiece model"
    assert sorted(path.name for path in out.iterdir()) == ["foreword_tokenizer.json", "sentencepiece.model"]


def test_the_two_names_of_gpt2s_files_are_one_tokenizer(tmp_path: Path) -> None:
    ours, theirs = (load_tokenizer(make_tokenizer(kind, tmp_path / kind)) for kind in ("openai", "gpt2"))
    assert ours.sha256 == theirs.sha256
    vocab = tmp_path / "gpt2" / "vocab.json"
    ids = json.loads(vocab.read_text())
    ids["a"], ids["b"] = ids["b"], ids["a"]
    vocab.write_text(json.dumps(ids))
    assert load_tokenizer(tmp_path / "gpt2").sha256 != ours.sha256
    assert ours.token_of(ours.eod_id) == EOD
