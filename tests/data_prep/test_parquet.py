"""Parquet: every row once however the file is cut, and what is no text is named or counted."""

import contextlib
import functools
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_reading import read_documents, read_kept, read_texts, source_of

from data_prep.sources import BadRecords, parquet
from foreword.errors import ConfigError, DataError, ForewordError

TURNS = pa.list_(pa.struct([("content", pa.string())]))


def write(path, row_group_size=None, **columns):
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return {"kind": "parquet", "path": str(path)}


@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=30),
    row_group_size=st.integers(1, 12),
    slice_bytes=st.integers(20, 900),
    batch_bytes=st.integers(1, 100),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_cut_of_a_file_gives_every_row_once_in_order(
    tmp_path, monkeypatch, texts, row_group_size, slice_bytes, batch_bytes
):
    monkeypatch.setattr(parquet, "BATCH_BYTES", batch_bytes)
    source = write(tmp_path / "a.parquet", row_group_size, other=[0] * len(texts), text=pa.array(texts, pa.string()))
    assert read_texts(slice_bytes=slice_bytes, **source) == (texts, {})
    assert read_texts(**source) == (texts, {})


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.binary(),
        pa.large_binary(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int8(), pa.large_string()),
    ],
    ids=str,
)
def test_every_type_of_text_column_gives_the_same_documents(tmp_path, kind):
    texts = ["one", "zwei", "три", "one", ""]
    source = write(tmp_path / "a.parquet", text=pa.array(texts).cast(kind))
    assert read_texts(**source) == (texts, {})


@pytest.mark.parametrize("kind", [pa.int64(), pa.list_(pa.string()), pa.struct([("a", pa.string())])], ids=str)
def test_a_column_of_another_type_is_refused_by_its_type_or_counted(tmp_path, kind):
    source = write(tmp_path / "a.parquet", text=pa.nulls(3, kind))
    with pytest.raises(DataError, match=r"a\.parquet: the column 'text' holds .*, not text"):
        read_texts(**source)
    assert read_texts(refuse=False, **source) == ([], {"wrong_type": 3})


def test_a_missing_column_is_refused_with_the_columns_there_are(tmp_path):
    source = write(tmp_path / "a.parquet", 2, body=["a", "b", "c"], id=[1, 2, 3])
    with pytest.raises(DataError, match=r"a\.parquet: the record has no field 'text'; it has: body, id"):
        read_texts(**source)
    assert read_texts(refuse=False, slice_bytes=50, **source) == ([], {"missing_field": 3})
    assert read_texts(text_field="body", **source) == (["a", "b", "c"], {})


def test_a_null_is_named_by_its_row_or_counted(tmp_path):
    source = write(tmp_path / "a.parquet", 2, text=["a", "b", "c", None, None, "d"])
    with pytest.raises(DataError) as caught:
        read_texts(**source)
    assert caught.value.where == f"{tmp_path}/a.parquet, row 3"
    assert read_texts(refuse=False, **source) == (["a", "b", "c", "d"], {"null": 2})


@pytest.mark.parametrize("kind", [pa.binary(), pa.string()], ids=str)
def test_invalid_utf8_is_named_by_its_row_and_byte_or_counted(tmp_path, kind):
    raw = pa.array([b"fine", b"a NUL \0 is text", b"abc\xff", b"after"], pa.binary())
    source = write(tmp_path / "a.parquet", text=pa.Array.from_buffers(kind, len(raw), raw.buffers()))
    with pytest.raises(DataError, match=r"row 2: the column 'text' is not valid UTF-8 at byte 3"):
        read_texts(**source)
    assert read_texts(refuse=False, **source) == (["fine", "a NUL \0 is text", "after"], {"invalid_utf8": 1})


def test_fields_become_parts(tmp_path):
    source = write(
        tmp_path / "a.parquet",
        prompt=["p", "q", None],
        completion=pa.array(["c", "d", "e"]).dictionary_encode(),
        turns=[["a", "b"], [], ["x", None]],
        chat=pa.array([[{"content": "x"}], None, []], TURNS),
    )
    pair = {"policy": "field", "prefix_field": "prompt", "target_field": "completion"}
    turns = {"policy": "field", "turns_field": "turns"}
    chat = {"policy": "field", "turns_field": "chat", "turn_text_field": "content"}
    read = [read_documents(refuse=False, prefix=prefix, **source) for prefix in (pair, turns, chat)]
    assert read == [
        ([["p", "c"], ["q", "d"]], {"null": 1}),
        ([["a", "b"], []], {"null": 1}),
        ([["x"], []], {"null": 1}),
    ]
    with pytest.raises(DataError, match=r"a\.parquet, row 2: the field 'prompt' is null"):
        read_documents(prefix=pair, **source)


def test_fields_are_kept(tmp_path):
    source = write(tmp_path / "a.parquet", text=["a", "b"], key=["k", "l"], more=[[1], None], other=[0, 0])
    kept = read_kept(id_field="key", keep_fields=["more", "absent"], **source)
    assert kept == ([("k", '{"more":[1]}'), ("l", '{"more":null}')], {})


def test_fields_that_are_not_utf8_are_bad_records(tmp_path):
    source = write(tmp_path / "a.parquet", a=["x", "y"], b=[b"\xff", b"z"])
    pair = {"policy": "field", "prefix_field": "a", "target_field": "b"}
    assert read_documents(refuse=False, prefix=pair, **source) == ([["y", "z"]], {"invalid_utf8": 1})


@pytest.mark.parametrize("content", [b"", b"not parquet at all", b"PAR1" + bytes(20) + b"PAR1"])
def test_what_is_no_parquet_file_is_refused_or_counted_once_however_it_is_cut(tmp_path, content):
    path = tmp_path / "a.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet: not a Parquet file, or damaged"):
        read_texts(kind="parquet", path=str(path))
    for slice_bytes in (5, 1000):
        read = read_texts(kind="parquet", path=str(path), slice_bytes=slice_bytes, refuse=False)
        assert read == ([], {"damaged_file": 1})


def test_damage_in_one_row_group_costs_that_row_group_however_the_file_is_cut(tmp_path):
    path = tmp_path / "a.parquet"
    texts = [f"{number} " * 50 for number in range(300)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=100, compression="zstd")
    group = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    middle = group.data_page_offset + group.total_compressed_size // 2
    content[middle : middle + 40] = bytes(40)
    path.write_bytes(content)
    for slice_bytes in (50, 10_000):
        read = read_texts(kind="parquet", path=str(path), slice_bytes=slice_bytes, refuse=False)
        assert read == (texts[:100] + texts[200:], {"damaged_row_group": 1})
    with pytest.raises(DataError, match=r"a\.parquet, from row 100 on"):
        read_texts(kind="parquet", path=str(path))


def test_a_long_row_group_is_read_in_small_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "BATCH_BYTES", 10_000)
    texts = [str(number) * 25 for number in range(2000)]
    source = write(tmp_path / "a.parquet", text=texts)
    settled = source_of(**source)
    sizes = [len(batch) for batch in parquet.read(settled, settled.path, 0, 10**9, BadRecords(refuse=True))]
    assert sum(sizes) == 2000
    assert max(sizes) <= 200


def test_a_row_group_is_never_read_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    texts = pa.array([str(number) * 2000 for number in range(2000)])
    pq.write_table(pa.table({"text": texts}), path, compression="none", use_dictionary=False, write_batch_size=50)
    reads = []

    class Recorder(io.FileIO):
        def read(self, size=-1):
            reads.append(size)
            return super().read(size)

    monkeypatch.setattr(parquet, "open_stored", Recorder)
    assert len(read_texts(kind="parquet", path=str(path))[0]) == 2000
    assert max(reads) < path.stat().st_size / 4  # a page of about a megabyte, or the buffer


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no such input file"):
        read_texts(kind="parquet", path=str(tmp_path / "*.parquet"))


@functools.cache
def valid_file():
    file = io.BytesIO()
    texts = ["some text", "Ünïcode", "", "x" * 300] * 5
    pq.write_table(pa.table({"text": texts, "n": range(20)}), file, row_group_size=7)
    return file.getvalue()


@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=6)), max_size=4),
    keep=st.floats(0.2, 1.0),
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_an_error_of_ours_or_counted(tmp_path, changes, keep):
    content = bytearray(valid_file())
    for position, change in changes:
        content[position % len(content) : position % len(content) + len(change)] = change
    path = tmp_path / "a.parquet"
    path.write_bytes(content[: int(keep * len(content))])
    read_texts(kind="parquet", path=str(path), refuse=False)
    with contextlib.suppress(ForewordError):
        read_texts(kind="parquet", path=str(path), slice_bytes=200)
