"""The commands as a person types them: exit codes, messages, and what `inspect` shows."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from jsonl_files import write_jsonl

from data_prep.commands import prep, tokenizer
from data_prep.prepare import prepare
from foreword.config import dump_config
from foreword.errors import ConfigError
from pipeline.commands.artifacts import inspect, verify


@pytest.fixture
def corpus(make_config, tmp_path, texts) -> Path:
    path = write_jsonl(tmp_path / "text.jsonl", [{"q": "Say it.", "a": text} for text in texts[:40]])
    prefix = {"policy": "field", "prefix_field": "q", "target_field": "a"}
    config = make_config({"path": str(path), "prefix": prefix}, sequence_length=256)
    prepare(config)
    return Path(config.output)


def run(command, *arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_train_a_tokenizer_and_prepare_from_one_configuration(make_config, tmp_path, texts):
    text = write_jsonl(tmp_path / "text.jsonl", texts)
    config = make_config(text, tokenizer={"path": str(tmp_path / "new.model")}, tokenizer_training={"vocab_size": 500})
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert run(tokenizer, "train", tmp_path / "config.yaml").exit_code == 0
    result = run(prep, tmp_path / "config.yaml", "workers=1", "splits.valid=0.1")
    assert result.exit_code == 0, result.output
    assert "train: " in result.stdout and "valid: " in result.stdout
    manifest = json.loads((Path(config.output) / "manifest.json").read_text())
    assert manifest["tokenizer"]["vocab_size"] == 500
    refused = run(tokenizer, "train", tmp_path / "config.yaml")
    assert isinstance(refused.exception, ConfigError) and "exists already" in str(refused.exception)


def test_verify_says_whole_or_exits_with_1(corpus):
    assert run(verify, corpus, "--workers", 1).exit_code == 0
    shard = corpus / "train" / "00000.segments.npy"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    result = run(verify, corpus, "--workers", 1)
    assert result.exit_code == 1
    assert "00000.segments.npy" in result.stdout
    (corpus / "manifest.json").unlink()
    unfinished = run(verify, corpus)
    assert unfinished.exit_code == 1
    assert "neither a finished corpus" in unfinished.stdout


def test_inspect_shows_tables_and_json(corpus):
    shown = run(inspect, corpus)
    assert shown.exit_code == 0
    for word in ("rows of 256 + 1 uint16", "sentencepiece", "train", "jsonl-0", "field"):
        assert word in shown.stdout
    values = json.loads(run(inspect, corpus, "--json").stdout)
    assert values["splits"]["train"]["documents"] == 40 - values["sources"][0]["dropped"]["too_long"]


def test_inspect_draws_a_row_with_its_prefixes(corpus):
    values = json.loads(run(inspect, corpus, "--row", 0, "--json").stdout)
    segments = [segment for segment in values["segments"] if "padding" not in segment]
    assert segments and all("Say it.".endswith(segment["prefix"]) for segment in segments)
    drawn = run(inspect, corpus, "--row", 0).stdout
    assert "Say it.⟧" in drawn and "␄" in drawn


def test_a_row_or_path_that_is_not_there_is_named(corpus, tmp_path):
    assert "has rows 0 to" in str(run(inspect, corpus, "--row", 10**6).exception)
    assert "no split 'valid'" in str(run(inspect, corpus, "--row", 0, "--split", "valid").exception)
    assert "no such directory" in str(run(inspect, tmp_path / "nothing").exception)


def test_the_report_stands_alone(corpus):
    page = (corpus / "report.html").read_text()
    assert "http" not in page and "<script" not in page
    for word in ("Left out", "Prefix lengths", "padding", "Document lengths", "too_long", "MB/s", "width=device-width"):
        assert word in page
