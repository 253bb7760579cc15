"""Megatron's .bin and .idx: every document once, with one end-of-document id and no id out of the vocabulary."""

import contextlib
import hashlib
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from corpus_files import bytes_of, segments_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonl_files import write_jsonl
from megatron_files import CODES
from megatron_files import write_megatron as write
from source_reading import WHOLE, source_of

from data_prep.config import TextConfig
from data_prep.documents import TokenizedDocuments
from data_prep.prepare import prepare
from data_prep.slices import SliceWriter, map_documents, map_tokens
from data_prep.sources import BadRecords, megatron
from data_prep.tokenized import append_tokenized
from data_prep.tokenizers import load_tokenizer
from data_prep.tokenizers.training import train_tokenizer
from foreword.errors import ConfigError, DataError, ForewordError


def read(slice_bytes=WHOLE, refuse=True, vocab_size=50_257, **values):
    """All documents as lists of ids, and the counted bad records."""
    source, bad = source_of(vocab_size=vocab_size, **values), BadRecords(refuse)
    documents = []
    for file in megatron.list_files(source):
        for begin, end in megatron.cut(file.path, file.size_bytes, slice_bytes):
            for batch in megatron.read(source, file.path, begin, end, bad):
                documents += [ids.tolist() for ids in np.split(batch.ids, batch.token_ptr[1:-1])] if len(batch) else []
    return documents, dict(bad.counts)


@given(
    documents=st.lists(st.lists(st.lists(st.integers(0, 127), max_size=6), max_size=3), max_size=12),
    kind=st.sampled_from(sorted(CODES)),
    modes=st.booleans(),
    slice_bytes=st.integers(1, 300),
    batch_ids=st.integers(1, 30),
)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_cut_gives_every_document_once_in_order(
    tmp_path, monkeypatch, documents, kind, modes, slice_bytes, batch_ids
):
    monkeypatch.setattr(megatron, "BATCH_IDS", batch_ids)
    source = write(tmp_path / "a.bin", documents, kind, modes)
    wanted = [[i for sequence in document for i in sequence] for document in documents]
    assert read(**source) == (wanted, {})
    assert read(slice_bytes=slice_bytes, **source) == (wanted, {})


@pytest.mark.parametrize(("vocab_size", "kind"), [(65_536, "<u2"), (65_536, "<i4"), (65_537, "<i4"), (200, "u1")])
def test_the_last_id_of_the_vocabulary_is_in_it_and_the_next_is_not(tmp_path, vocab_size, kind):
    source = write(tmp_path / "a", [[[0, vocab_size - 1]], [[5]]], kind)
    assert read(vocab_size=vocab_size, **source) == ([[0, vocab_size - 1], [5]], {})
    with pytest.raises(DataError, match=rf"a\.bin, document 0: id {vocab_size - 1} at place 1 is not in the declared"):
        read(vocab_size=vocab_size - 1, **source)
    for slice_bytes in (3, WHOLE):
        counted = read(vocab_size=vocab_size - 1, refuse=False, slice_bytes=slice_bytes, **source)
        assert counted == ([[5]], {"id_out_of_vocabulary": 1})


def test_negative_ids_are_not_in_the_vocabulary(tmp_path):
    source = write(tmp_path / "a", [[[1]], [[2, -1, -2]], [[3]]], "<i4")
    assert read(refuse=False, **source) == ([[1], [3]], {"id_out_of_vocabulary": 1})


def test_a_pair_is_found_by_either_name_or_none_or_a_glob_and_hashed_whole(tmp_path):
    for name in ("b", "a"):
        write(tmp_path / name, [[[1, 2]]])
    for path in ("a", "a.bin", "a.idx"):
        (file,) = megatron.list_files(source_of(kind="megatron", path=str(tmp_path / path), vocab_size=9))
        assert file.path == str(tmp_path / "a.bin")
    files = megatron.list_files(source_of(kind="megatron", path=str(tmp_path / "*"), vocab_size=9))
    assert [Path(file.path).name for file in files] == ["a.bin", "b.bin"]
    content = (tmp_path / "a.bin").read_bytes() + (tmp_path / "a.idx").read_bytes()
    assert (file.size_bytes, megatron.sha256(file.path)) == (len(content), hashlib.sha256(content).hexdigest())


def test_a_missing_half_and_a_url_are_mistakes(tmp_path):
    write(tmp_path / "a", [[[1]]])
    (tmp_path / "a.idx").unlink()
    with pytest.raises(ConfigError, match=r"a\.idx: no such input file"):
        read(kind="megatron", path=str(tmp_path / "a"))
    with pytest.raises(ConfigError, match="copy it to this machine"):
        read(kind="megatron", path="s3://bucket/a")
    with pytest.raises(ConfigError, match="has no fields"):
        source_of(kind="megatron", path="a", vocab_size=9, prefix={"policy": "field", "turns_field": "turns"})
    with pytest.raises(ConfigError, match="vocab_size"):
        source_of(kind="megatron", path="a")


def change(path, begin, content):
    path.write_bytes(path.read_bytes()[:begin] + content + path.read_bytes()[begin + len(content) :])


DAMAGE = {
    "no magic": (lambda b, i: change(i, 0, b"TNTIDX"), "not of Megatron's kind MMIDIDX"),
    "another version": (lambda b, i: change(i, 9, b"\2"), "not of Megatron's kind MMIDIDX, version 1"),
    "floats": (lambda b, i: change(i, 17, b"\6"), "none of integers"),
    "an index cut off": (lambda b, i: i.write_bytes(i.read_bytes()[:-3]), "should hold 3 sequences"),
    "an index without a header": (lambda b, i: i.write_bytes(b"MMID"), "ends inside the header"),
    "an empty index": (lambda b, i: i.write_bytes(b""), "ends inside the header"),
    "more sequences than there can be": (lambda b, i: change(i, 18, b"\xff" * 8), "should hold"),
    "a .bin cut off": (lambda b, i: b.write_bytes(b.read_bytes()[:-2]), "counts 6 ids, the .bin has 10 bytes"),
    "half an id": (lambda b, i: b.write_bytes(b.read_bytes()[:-1]), "counts 6 ids, the .bin has 11 bytes"),
    "a negative length": (lambda b, i: change(i, 34, struct.pack("<ii", -1, 4)), "counts 6 ids"),
    "sequences that overlap": (lambda b, i: change(i, 34 + 12 + 8, b"\0"), "do not lie one after the other"),
    "documents out of order": (lambda b, i: change(i, 34 + 36 + 8, b"\4"), "do not cover its sequences in order"),
}


@pytest.mark.parametrize("fault", DAMAGE)
def test_an_index_that_does_not_fit_is_refused_or_counted_once_however_it_is_cut(tmp_path, fault):
    damage, message = DAMAGE[fault]
    source = write(tmp_path / "a", [[[1, 2]], [[3], [4, 5, 6]]])
    damage(tmp_path / "a.bin", tmp_path / "a.idx")
    with pytest.raises(DataError, match=message):
        read(**source)
    for slice_bytes in (5, WHOLE):
        assert read(refuse=False, slice_bytes=slice_bytes, **source) == ([], {"damaged_file": 1})


@given(
    changes=st.lists(st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=9)), max_size=4),
    keep=st.floats(0.0, 1.0),
    slice_bytes=st.sampled_from([7, WHOLE]),
)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_is_an_error_of_ours_or_counted(tmp_path, changes, keep, slice_bytes):
    source = write(tmp_path / "a", [[[1, 2]], [[3], [4, 5, 6]], []])
    for position, content in changes:
        change(tmp_path / "a.idx", position, content)
    content = (tmp_path / "a.idx").read_bytes()
    (tmp_path / "a.idx").write_bytes(content[: max(int(keep * 2 * len(content)), 0)])
    read(refuse=False, slice_bytes=slice_bytes, **source)
    with contextlib.suppress(ForewordError):
        read(slice_bytes=slice_bytes, **source)


def append(tmp_path, tokenizer, documents, kind=np.int64, **limits):
    ptr = np.cumsum([0, *map(len, documents)])
    batch = TokenizedDocuments(np.array([i for document in documents for i in document], kind), ptr)
    (tmp_path / "scratch").mkdir(exist_ok=True)
    with SliceWriter(tmp_path, "0", tmp_path / "scratch") as writer:
        append_tokenized(batch, TextConfig(**limits), tokenizer, writer)
    tokens = map_tokens(tmp_path, "0", np.dtype(np.uint16))
    records = map_documents(tmp_path, "0", 0, writer.record.documents)
    return [tokens[r["start"] : r["start"] + r["length"]].tolist() for r in records], records, writer.record.dropped


def test_every_document_ends_with_one_end_of_document_id(tmp_path, model_path):
    tokenizer = load_tokenizer(model_path)
    eod = tokenizer.eod_id
    documents = [[5, 6, eod], [5, 7], [eod], [], [8, eod, 9], [8, eod, eod]]
    found, records, dropped = append(tmp_path, tokenizer, documents)
    assert found == [[5, 6, eod], [5, 7, eod], [8, eod, 9, eod], [8, eod, eod]]
    assert dropped == {"empty": 2}
    sizes = tokenizer.token_bytes()
    assert records["text_bytes"].tolist() == [sum(int(sizes[i]) for i in ids) for ids in found]


def test_the_content_hash_is_of_the_ids_alone(tmp_path, model_path):
    tokenizer = load_tokenizer(model_path)
    eod = tokenizer.eod_id
    _, wide, _ = append(tmp_path, tokenizer, [[5, 6, eod], [7]], np.int64)
    _, narrow, _ = append(tmp_path, tokenizer, [[5, 6], [7, eod], [5, 7]], np.uint16)
    assert wide[["hash_hi", "hash_lo"]].tolist() == narrow[:2][["hash_hi", "hash_lo"]].tolist()
    assert len(set(narrow[["hash_hi", "hash_lo"]].tolist())) == 3


def test_limits_count_the_ids_without_the_end(tmp_path, model_path):
    tokenizer = load_tokenizer(model_path)
    documents = [[5], [5, tokenizer.eod_id], [5, 6], [5, 6, 7, 8]]
    found, _, dropped = append(tmp_path, tokenizer, documents, min_tokens=2, max_tokens=3)
    assert found == [[5, 6, tokenizer.eod_id]]
    assert dropped == {"too_few_tokens": 2, "too_many_tokens": 1}


@pytest.fixture
def megatron_source(tmp_path, texts, model_path):
    tokenizer = load_tokenizer(model_path)
    documents = [[[*tokenizer.encode(text), tokenizer.eod_id]] for text in texts]
    return {**write(tmp_path / "text_document", documents), "vocab_size": tokenizer.vocab_size}


def test_a_prepared_corpus_is_that_of_the_texts_themselves(make_config, megatron_source, texts, tmp_path):
    from_texts = make_config(write_jsonl(tmp_path / "text.jsonl", texts), output=str(tmp_path / "texts"))
    from_ids = make_config(megatron_source, output=str(tmp_path / "ids"))
    expected, found = prepare(from_texts), prepare(from_ids)
    assert Counter(tuple(ids) for ids, _ in segments_of(from_ids.output)) == Counter(
        tuple(ids) for ids, _ in segments_of(from_texts.output)
    )
    assert found.sources[0].text_bytes == expected.sources[0].text_bytes


def test_workers_and_slices_do_not_change_the_bytes(make_config, megatron_source, tmp_path):
    changes = {"prefix": {"policy": "uniform"}, "splits": {"valid": 0.1}}
    results = []
    for workers, slice_bytes in [(1, 2**26), (2, 7000)]:
        output = tmp_path / str(slice_bytes)
        prepare(make_config(megatron_source, output=str(output), workers=workers, slice_bytes=slice_bytes, **changes))
        results.append(bytes_of(output))
    assert results[0] == results[1]


def test_ids_of_another_tokenizer_are_refused_before_any_work(make_config, megatron_source):
    with pytest.raises(ConfigError, match=r"megatron-0: its ids are of a vocabulary of 50,304, the tokenizer has 600"):
        prepare(make_config({**megatron_source, "vocab_size": 50_304}))


def test_a_tokenizer_cannot_be_trained_on_ids(make_config, megatron_source, tmp_path):
    config = make_config(megatron_source, tokenizer={"path": str(tmp_path / "new.model")})
    with pytest.raises(ConfigError, match="it has ids and no text"):
        train_tokenizer(config)
