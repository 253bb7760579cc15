"""What the machine and the user can do wrong, and what a preparation makes of it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from corpus_files import bytes_of, segments_of
from jsonl_files import write_jsonl

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from sparse_corpus import fill_rows, make_sparse_corpus

from data_prep.prepare import prepare, prepare_task
from data_prep.shards import Corpus
from data_prep.tokenizers import load_tokenizer
from data_prep.verify import verify_corpus
from data_prep.work import whole_work
from foreword.config import dump_config
from foreword.errors import DataError, MachineError

CHANGES = {"prefix": {"policy": "uniform"}, "slice_bytes": 30_000, "shard_tokens": 30_000, "write_documents": True}


@contextmanager
def small_disk(directory: Path, size: str) -> Iterator[None]:
    """A file system of `size` bytes at `directory`, or skip the test where that is not allowed."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system takes root")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)  # files may still be mapped


def remount(directory: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", directory], check=True)


@pytest.fixture
def jsonl_path(tmp_path, texts):
    return write_jsonl(tmp_path / "text.jsonl", [*texts, *(f"{text} again" for text in texts)])


def test_a_full_disk_is_named_wherever_it_happens_and_with_more_space_the_run_continues(
    make_config, jsonl_path, tmp_path
):
    whole = make_config(jsonl_path, output=str(tmp_path / "whole"), **CHANGES)
    prepare(whole)
    needed = sum(path.stat().st_size for path in Path(whole.output).rglob("*") if path.is_file())
    config = make_config(jsonl_path, output=str(tmp_path / "disk" / "corpus"), **CHANGES)
    reached = []
    with small_disk(tmp_path / "disk", "64k"):
        for share in (0.05, 0.6, 1.5, 2.2, 5.0):  # each time it comes a little further
            remount(tmp_path / "disk", f"size={int(share * needed)}")
            try:
                prepare(config.model_copy(update={"workers": 2 if share == 1.5 else 1}))
            except MachineError as error:
                assert error.what == "no space left on device"
                assert "run the same command again" in str(error.remedy)
                files = list(Path(config.output).rglob("*.*"))
                reached.append({file.parent.name for file in files} & {"slices", "dedup", "train"})
        assert len(reached) >= 3 and set() in reached and any("train" in parts for parts in reached), reached
        assert bytes_of(Path(config.output)) == bytes_of(Path(whole.output))


def test_an_output_that_cannot_be_written_is_refused_with_what_to_do(make_config, jsonl_path, tmp_path):
    config = make_config(jsonl_path, output=str(tmp_path / "disk" / "corpus"), **CHANGES)
    with small_disk(tmp_path / "disk", "1m"):
        remount(tmp_path / "disk", "ro")
        for attempt in (lambda: prepare(config), lambda: prepare_task(config, 0, 2)):
            with pytest.raises(MachineError, match="read-only file system") as caught:
                attempt()
            assert "choose an output that can be written" in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_without_permission_is_refused(make_config, jsonl_path, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(MachineError, match="permission denied"):
        prepare(make_config(jsonl_path, output=str(tmp_path / "closed" / "corpus")))


def test_an_output_that_is_a_file_is_refused(make_config, jsonl_path, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match="choose an output that is a directory"):
        prepare(make_config(jsonl_path, output=str(tmp_path / "file")))


def test_a_second_process_on_the_same_output_is_refused(make_config, jsonl_path, tmp_path):
    config = make_config(jsonl_path)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    command = [sys.executable, "-m", "foreword", "prep", tmp_path / "config.yaml"]
    with whole_work(Path(config.output)):
        second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert "another process is preparing this output" in second.stderr and "Traceback" not in second.stderr


@pytest.mark.parametrize("vocab_size", [65_536, 65_537])
def test_the_largest_vocabulary_of_two_bytes_and_the_next_one(make_config, tmp_path, vocab_size):
    """The end-of-document token has the largest id, 65,535 or 65,536."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fillers = [f"\u0120{number}" for number in range(vocab_size - len(alphabet) - 1)]
    vocab = {token: number for number, token in enumerate([*alphabet, *fillers])}
    model = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    model.pre_tokenizer, model.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    model.add_special_tokens(["<|endoftext|>"])
    model.save(str(tmp_path / "tokenizer.json"))
    lines = ["some text", "and more of it, 123"]
    config = make_config(write_jsonl(tmp_path / "a.jsonl", lines), tokenizer={"path": str(tmp_path / "tokenizer.json")})
    manifest = prepare(config)
    assert manifest.tokenizer.vocab_size == vocab_size and manifest.tokenizer.eod_id == vocab_size - 1
    assert manifest.dtype == ("uint16" if vocab_size == 65_536 else "uint32")
    found = [ids for ids, _ in segments_of(config.output)]
    tokenizer = load_tokenizer(Path(config.output) / "tokenizer")
    assert sorted(tokenizer.decode(ids[:-1]) for ids in found) == sorted(lines)
    assert {ids[-1] for ids in found} == {vocab_size - 1}
    assert verify_corpus(Path(config.output), 1) == []


def test_a_corpus_of_a_billion_rows_opens_without_looking_at_them(tmp_path):
    """Sparse files: their sizes are real, their blocks are not."""
    rows, shards = 10**9, 4
    corpus = make_sparse_corpus(tmp_path / "huge", rows=rows, shards=shards, sequence_length=1, vocab_size=97)
    ends = [rows // shards - 1, rows - 1]
    fill_rows(corpus, ends, token=7)
    began = time.process_time()
    split = Corpus.open(corpus.path).split("train")
    row = split.row(rows - 1)
    assert time.process_time() - began < 0.5
    assert len(split) == rows
    assert row.tokens.tolist() == [7, 7] and row.segments.tolist() == [[0, 0]]
    assert [found.tokens.tolist() for found in split.rows([ends[0], 5])] == [[7, 7], [0, 0]]


def test_a_manifest_of_another_format_is_refused(make_config, jsonl_path):
    config = make_config(jsonl_path)
    prepare(config)
    path = Path(config.output) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))
    with pytest.raises(DataError, match="format version 99"):
        prepare(config)
