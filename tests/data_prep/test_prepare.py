"""The whole way: what goes in comes out once, the same bytes however it was computed, and mistakes are named."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from corpus_files import bytes_of, segments_of
from jsonl_files import write_jsonl

from data_prep.prepare import prepare
from data_prep.shards import Corpus
from data_prep.tokenizers import load_tokenizer
from data_prep.verify import verify_corpus
from foreword.config import dump_config
from foreword.errors import ConfigError, DataError, StoppedOnRequest


@pytest.fixture
def jsonl_path(tmp_path, texts):
    return write_jsonl(tmp_path / "text.jsonl", texts)


def test_documents_that_fit_a_row_come_out_whole_and_once(make_config, jsonl_path, texts):
    config = make_config(jsonl_path, sequence_length=1024)
    prepare(config)
    tokenizer = load_tokenizer(Path(config.output) / "tokenizer")
    expected = Counter((*tokenizer.encode(text), tokenizer.eod_id) for text in texts)
    found = Counter(tuple(ids) for ids, _ in segments_of(config.output))
    fitting = {ids: count for ids, count in expected.items() if len(ids) <= 1025}
    assert len(fitting) > 200 and any(len(ids) > 1025 for ids in expected)
    assert fitting.items() <= found.items()


@pytest.mark.parametrize("packing", ["best_fit", "concat"])
def test_every_token_but_each_documents_first_is_a_target_once(make_config, jsonl_path, texts, packing):
    config = make_config(jsonl_path, packing={"policy": packing})
    manifest = prepare(config)
    tokenizer = load_tokenizer(config.tokenizer.path)
    split = manifest.splits["train"]
    assert split.targets == sum(len(tokenizer.encode(text)) for text in texts)
    assert split.rows * 65 == split.tokens + split.padding
    found = Counter(token for ids, _ in segments_of(config.output) for token in ids[1:])
    assert found == Counter(token for text in texts for token in [*tokenizer.encode(text), tokenizer.eod_id][1:])


def test_any_number_of_workers_and_any_slicing_give_the_same_bytes(make_config, jsonl_path, tmp_path):
    changes = {"prefix": {"policy": "uniform"}, "splits": {"valid": 0.1, "test": 0.05}}
    results = []
    for workers, slice_bytes in [(1, 2**26), (1, 3000), (3, 20_000)]:
        config = make_config(
            jsonl_path, output=str(tmp_path / f"{slice_bytes}"), workers=workers, slice_bytes=slice_bytes, **changes
        )
        prepare(config)
        results.append(bytes_of(Path(config.output)))
    assert len(results[0]) > 15
    assert results[0] == results[1] == results[2]


def test_a_killed_run_continues_to_the_same_bytes(make_config, texts, tmp_path):
    path = write_jsonl(tmp_path / "text.jsonl", [f"{number} {text}" for number in range(4) for text in texts])
    changes = {"prefix": {"policy": "uniform"}, "slice_bytes": 20_000, "shard_tokens": 100_000}
    whole = make_config(path, output=str(tmp_path / "whole"), **changes)
    prepare(whole)
    config = make_config(path, output=str(tmp_path / "killed"), workers=2, **changes)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    command = [sys.executable, "-m", "foreword", "prep", str(tmp_path / "config.yaml")]
    kills, slices = 0, Path(config.output) / ".work" / "slices"
    for wanted in (1, 10, 25):  # slices there at the time of the kill
        process = subprocess.Popen(
            command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )
        while process.poll() is None and len(list(slices.glob("*.json"))) < wanted:
            time.sleep(0.002)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 2
    assert not (Path(config.output) / "manifest.json").exists()
    prepare(config)
    assert bytes_of(Path(config.output)) == bytes_of(Path(whole.output))


def test_a_torn_slice_of_a_crashed_run_is_made_again(make_config, jsonl_path, tmp_path, monkeypatch):
    changes = {"slice_bytes": 20_000, "prefix": {"policy": "uniform"}}
    expected = make_config(jsonl_path, output=str(tmp_path / "expected"), **changes)
    prepare(expected)
    config = make_config(jsonl_path, **changes)

    def stop(*_):
        raise StoppedOnRequest("here")

    with monkeypatch.context() as patched:
        patched.setattr("data_prep.assemble.find_duplicates", stop)
        with pytest.raises(StoppedOnRequest):
            prepare(config)
    torn = Path(config.output) / ".work" / "slices" / "000001.tokens"
    torn.write_bytes(torn.read_bytes()[:-2] + b"xx")
    prepare(config)
    assert bytes_of(Path(config.output)) == bytes_of(Path(expected.output))


def test_exact_copies_are_dropped_and_the_first_stays(make_config, tmp_path):
    first = write_jsonl(tmp_path / "a.jsonl", ["one document", "another", "one document", "e\u0301"])
    second = write_jsonl(tmp_path / "b.jsonl", ["another", "a third", "\u00e9"])
    config = make_config(first, second)
    manifest = prepare(config)
    assert [source.documents for source in manifest.sources] == [3, 1]
    assert [source.dropped for source in manifest.sources] == [{"duplicate": 1}, {"duplicate": 2}]


def test_copies_that_are_kept_lie_in_one_split_and_shares_are_about_right(make_config, tmp_path, texts):
    path = write_jsonl(tmp_path / "a.jsonl", texts + texts)
    manifest = prepare(make_config(path, deduplicate=False, splits={"valid": 0.2, "test": 0.1}))
    documents = {name: split.documents for name, split in manifest.splits.items()}
    assert all(count % 2 == 0 for count in documents.values())
    total = sum(documents.values())
    assert total == 2 * len(texts)
    assert abs(documents["valid"] / total - 0.2) < 0.05
    assert abs(documents["test"] / total - 0.1) < 0.05


def test_a_weight_repeats_or_thins_training_documents_only(make_config, tmp_path, texts):
    half = len(texts) // 2
    twice = {"path": str(write_jsonl(tmp_path / "a.jsonl", texts[:half])), "weight": 2.5}
    thin = {"path": str(write_jsonl(tmp_path / "b.jsonl", texts[half:])), "weight": 0.25}
    manifest = prepare(make_config(twice, thin, splits={"valid": 0.2}))
    assert abs(manifest.sources[0].documents / half - (0.8 * 2.5 + 0.2)) < 0.2
    assert abs(manifest.sources[1].documents / half - 0.25) < 0.07


def test_field_boundaries_stand_where_the_record_says(make_config, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"q": "What is it?", "a": "A test."}, {"q": "Nothing", "a": ""}])
    prefix = {"policy": "field", "prefix_field": "q", "target_field": "a"}
    config = make_config({"path": str(path), "prefix": prefix})
    manifest = prepare(config)
    tokenizer = load_tokenizer(config.tokenizer.path)
    ((ids, boundary),) = segments_of(config.output)
    assert ids[:boundary] == tokenizer.encode("What is it?")
    assert ids[boundary:] == [*tokenizer.encode("A test."), tokenizer.eod_id]
    assert manifest.sources[0].dropped == {"no_target": 1}


def test_dialogues_give_one_document_per_reply(make_config, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"turns": ["hello", "hi", "bye"]}, {"turns": ["alone"]}])
    config = make_config({"path": str(path), "prefix": {"policy": "field", "turns_field": "turns"}})
    manifest = prepare(config)
    tokenizer = load_tokenizer(config.tokenizer.path)
    hello, hi, bye = ([*tokenizer.encode(turn), tokenizer.eod_id] for turn in ("hello", "hi", "bye"))
    found = sorted(segments_of(config.output), key=lambda segment: len(segment[0]))
    assert found == [(hello + hi, len(hello)), (hello + hi + bye, len(hello + hi))]
    assert manifest.sources[0].dropped == {"no_target": 1}


def test_nothing_is_lost_without_being_counted(make_config, tmp_path, texts):
    lines = [*texts, "", "x", "copy", "copy", "long " * 2000]
    path = write_jsonl(tmp_path / "a.jsonl", lines)
    with path.open("a") as file:
        file.write("not json\n")
    limits = {"min_chars": 2, "max_tokens": 3000}
    manifest = prepare(make_config(path, text=limits, on_bad_record="count"))
    (source,) = manifest.sources
    assert source.records == len(lines) + 1 == source.documents + sum(source.dropped.values())
    assert source.dropped.keys() >= {"empty", "too_few_chars", "too_many_tokens", "duplicate", "not_json"}


def test_a_finished_corpus_is_left_alone_and_another_configuration_is_refused(make_config, jsonl_path):
    config = make_config(jsonl_path)
    prepare(config)
    before = bytes_of(Path(config.output))
    prepare(config)
    with pytest.raises(ConfigError, match=r"sequence_length: 64 -> 32"):
        prepare(make_config(jsonl_path, sequence_length=32))
    assert bytes_of(Path(config.output)) == before


def test_a_begun_output_is_not_continued_with_other_settings_or_other_input(make_config, jsonl_path, monkeypatch):
    config = make_config(jsonl_path)

    def stop(*_):
        raise StoppedOnRequest("here")

    with monkeypatch.context() as patched:
        patched.setattr("data_prep.assemble.find_duplicates", stop)
        with pytest.raises(StoppedOnRequest):
            prepare(config)
    with pytest.raises(ConfigError, match=r"text.normalization: \"nfc\" -> \"none\""):
        prepare(make_config(jsonl_path, text={"normalization": "none"}))
    with jsonl_path.open("a") as file:
        file.write('{"text": "more"}\n')
    with pytest.raises(DataError, match="has changed since the preparation began"):
        prepare(config)


def test_two_runs_into_one_output_at_once_are_refused(make_config, jsonl_path):
    from data_prep.work import whole_work

    config = make_config(jsonl_path)
    with whole_work(Path(config.output)), pytest.raises(ConfigError, match="another process"):
        prepare(config)


def test_an_output_that_holds_something_else_is_refused(make_config, jsonl_path, tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="not empty and not a corpus"):
        prepare(make_config(jsonl_path))


@pytest.mark.parametrize("content", ["", '{"text": ""}\n'])
def test_an_empty_corpus_is_an_error(make_config, tmp_path, content):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match="no documents"):
        prepare(make_config(path))


def test_damage_to_any_file_is_found_and_named(make_config, jsonl_path):
    config = make_config(jsonl_path, splits={"valid": 0.1}, shard_tokens=60_000)
    prepare(config)
    root = Path(config.output)
    assert verify_corpus(root, 1) == []
    for name in Corpus.open(root).manifest.files():
        content = (root / name).read_bytes()
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 1
        (root / name).write_bytes(flipped)
        (problem,) = verify_corpus(root, 1)
        assert name in problem
        (root / name).write_bytes(content[:-1])
        (problem,) = verify_corpus(root, 1)
        assert name in problem
        (root / name).unlink()
        (problem,) = verify_corpus(root, 1)
        assert name in problem
        (root / name).write_bytes(content)
    assert verify_corpus(root, 1) == []


def test_prefixes_of_one_document_do_not_depend_on_its_company(make_config, tmp_path, texts):
    def boundaries(lines, output):
        config = make_config(
            write_jsonl(tmp_path / f"{output}.jsonl", lines),
            output=str(tmp_path / output),
            sequence_length=512,
            prefix={"policy": "uniform"},
        )
        prepare(config)
        return {tuple(ids): prefix for ids, prefix in segments_of(config.output) if len(ids) < 513}

    all_of_them, some = boundaries(texts, "all"), boundaries(texts[50:60][::-1], "some")
    fitting = [ids for ids in some if ids[0] in all_of_them or ids in all_of_them]
    assert len(fitting) > 5
    assert all(all_of_them[ids] == some[ids] for ids in fitting)


def test_concat_refuses_field_boundaries(make_config, jsonl_path):
    prefix = {"policy": "field", "prefix_field": "a", "target_field": "b"}
    with pytest.raises(ConfigError, match="field boundaries need best_fit"):
        make_config(jsonl_path, prefix=prefix, packing={"policy": "concat"})


def test_shards_hold_about_what_was_asked_for(make_config, jsonl_path):
    config = make_config(jsonl_path, shard_tokens=4000)
    shards = prepare(config).splits["train"].shards
    assert len(shards) > 3
    assert all(shard.tokens >= 4000 for shard in shards[:-1])
    assert np.mean([shard.tokens for shard in shards]) < 12_000
