"""JSON Lines: every record once however the file is cut, and a bad line is named or counted."""

import bz2
import gzip
import json
import lzma

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.config import FieldPrefix, JsonlSource, NoPrefix
from data_prep.sources import BadRecords, jsonl
from foreword.errors import ConfigError, DataError


def read_texts(path, ranges=None, refuse=True, **source):
    """All parts of all documents, and the bad records."""
    config = JsonlSource(kind="jsonl", path=str(path), **{"prefix": NoPrefix(), **source})
    bad = BadRecords(refuse)
    (file,) = jsonl.list_files(config)
    texts = []
    for begin, end in ranges or jsonl.cut(file.path, file.size_bytes, 2**26):
        for batch in jsonl.read(config, file.path, begin, end, bad):
            parts = batch.texts.to_pylist()
            texts += [parts[a:b] for a, b in zip(batch.part_ptr[:-1], batch.part_ptr[1:], strict=True)]
    return texts, dict(bad.counts)


@given(
    texts=st.lists(st.text(max_size=30).filter(lambda text: text.isprintable()), max_size=12),
    slice_bytes=st.integers(1, 200),
    block_bytes=st.integers(1, 64),
    ends_with_newline=st.booleans(),
    blank_lines=st.booleans(),
)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_cut_of_a_file_gives_every_record_once_in_order(
    tmp_path, monkeypatch, texts, slice_bytes, block_bytes, ends_with_newline, blank_lines
):
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    content = ("\n\n" if blank_lines else "\n").join(lines) + ("\n" if ends_with_newline else "")
    path = tmp_path / "a.jsonl"
    path.write_bytes(content.encode())
    monkeypatch.setattr(jsonl, "BLOCK_BYTES", block_bytes)
    ranges = jsonl.cut(str(path), len(content.encode()), slice_bytes)
    assert read_texts(path, ranges)[0] == [[text] for text in texts]


COMPRESSORS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_compressed_files_read_like_plain_ones(tmp_path, ending):
    content = b"".join(b'{"text": "record %d"}\n' % i for i in range(1000))
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(COMPRESSORS[ending](content))
    assert read_texts(path)[0] == [[f"record {i}"] for i in range(1000)]


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_a_truncated_compressed_file_is_refused_or_counted_and_what_came_before_is_kept(tmp_path, ending):
    content = b"".join(b'{"text": "record %d %d"}\n' % (i, i * i * 7919) for i in range(20_000))
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(COMPRESSORS[ending](content)[:-200])
    with pytest.raises(DataError, match=rf"a\.jsonl{ending}, after line \d+: the compressed file is damaged"):
        read_texts(path)
    texts, bad = read_texts(path, refuse=False)
    assert bad == {"damaged_file": 1}
    assert texts[:3] == [["record 0 0"], ["record 1 7919"], ["record 2 31676"]][: len(texts)]


BAD_LINES = {
    "not_json": (b'{"text": "a"', "not JSON"),
    "not_an_object": (b'["text"]', "not a JSON object but a list"),
    "missing_field": (b'{"body": "a", "id": 3}', "no field 'text'; it has: body, id"),
    "wrong_type": (b'{"text": 7}', "'text' is not a string but a number"),
    "invalid_utf8": (b'{"text": "\xff"}', "not valid UTF-8 at byte 10"),
}


@pytest.mark.parametrize("reason", BAD_LINES)
def test_a_bad_line_is_named_when_refused_and_counted_when_not(tmp_path, reason):
    line, message = BAD_LINES[reason]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n\n{"text": "two"}\n' + line + b'\n{"text": "three"}\n')
    with pytest.raises(DataError) as caught:
        read_texts(path)
    assert caught.value.where == f"{path}:4"
    assert message in caught.value.what
    texts, bad = read_texts(path, refuse=False)
    assert texts == [["one"], ["two"], ["three"]]
    assert bad == {reason: 1}


@pytest.mark.parametrize("slice_bytes", range(20, 90, 7))
def test_a_bad_line_has_its_number_in_the_file_wherever_its_slice_begins(tmp_path, slice_bytes):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a record"}\n' * 7 + b"oops\n" + b'{"text": "a record"}\n')
    with pytest.raises(DataError) as caught:
        read_texts(path, jsonl.cut(str(path), path.stat().st_size, slice_bytes))
    assert caught.value.where == f"{path}:8"


def test_half_a_surrogate_pair_is_not_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "\\ud800"}\n')
    assert read_texts(path, refuse=False) == ([], {"not_json": 1})


def test_a_line_of_many_blocks_is_one_record(tmp_path):
    path = tmp_path / "a.jsonl"
    long = "x" * (3 * jsonl.BLOCK_BYTES)
    path.write_text(json.dumps({"text": long}) + "\n" + json.dumps({"text": "after"}) + "\n")
    ranges = jsonl.cut(str(path), path.stat().st_size, jsonl.BLOCK_BYTES)
    assert read_texts(path, ranges)[0] == [[long], ["after"]]


def test_fields_become_parts(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"prompt": "p", "completion": "c", "turns": ["a", "b"], "chat": [{"content": "x"}, {"content": "y"}]}\n'
    )
    pair = FieldPrefix(policy="field", prefix_field="prompt", target_field="completion")
    turns = FieldPrefix(policy="field", turns_field="turns")
    chat = FieldPrefix(policy="field", turns_field="chat", turn_text_field="content")
    assert [read_texts(path, prefix=policy)[0] for policy in (pair, turns, chat)] == [
        [["p", "c"]],
        [["a", "b"]],
        [["x", "y"]],
    ]
    assert read_texts(path, refuse=False, prefix=FieldPrefix(policy="field", turns_field="chat"))[1] == {
        "wrong_type": 1
    }


def test_globs_are_in_name_order_and_a_missing_file_is_an_error(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        (tmp_path / name).write_text("{}\n")
    source = JsonlSource(kind="jsonl", path=[str(tmp_path / "*.jsonl"), str(tmp_path / "a.jsonl")])
    assert [file.path for file in jsonl.list_files(source)] == [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    with pytest.raises(ConfigError, match="no such input file"):
        jsonl.list_files(JsonlSource(kind="jsonl", path=str(tmp_path / "*.json")))
