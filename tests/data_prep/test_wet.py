"""WET: every conversion record once, and a broken record is named or counted and costs itself alone."""

import gzip
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_reading import read_kept, read_texts
from web_records import conversion, warc_record

from data_prep.sources import batches, web_archive
from foreword.errors import DataError

INFO = warc_record("warcinfo", b"software: a crawler\r\n")


def write(path, *records):
    path.write_bytes(b"".join(records))
    return {"kind": "wet", "path": str(path)}


@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), max_size=8), block=st.integers(1, 80)
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_conversion_records_are_documents_as_they_are(tmp_path, monkeypatch, texts, block):
    monkeypatch.setattr(web_archive, "BLOCK_BYTES", block)
    monkeypatch.setattr(batches, "BATCH_BYTES", 50)
    source = write(tmp_path / "a.wet", INFO, *map(conversion, texts), warc_record("metadata", b"x: y"))
    for slice_bytes in (100, 10**6):
        assert read_texts(slice_bytes=slice_bytes, **source) == (texts, {})


@pytest.mark.parametrize("members", ["one", "one per record"])
def test_gzip_members_do_not_matter(tmp_path, members):
    texts = [f"document {number}" for number in range(50)]
    records = [INFO, *map(conversion, texts)]
    stored = [gzip.compress(b"".join(records))] if members == "one" else map(gzip.compress, records)
    assert read_texts(**write(tmp_path / "a.wet.gz", *stored)) == (texts, {})


BROKEN = {
    "no headers": (b"garbage\r\n\r\n", "no WARC headers"),
    "no length": (b"WARC/1.0\r\nWARC-Type: conversion\r\n\r\ntext\r\n\r\n", "without a valid Content-Length: ''"),
    "length is no number": (conversion("text", length="-4"), "without a valid Content-Length: '-4'"),
    "length is too small": (conversion("some text", length=4), "does not end where its Content-Length says"),
    "length is too large": (conversion("some text", length=40), "does not end where its Content-Length says"),
    "length is far too large": (conversion("some text", length=4000), "the file ends inside the record"),
    "endless headers": (b"WARC/1.0\r\n" + b"a: b\r\n" * 20_000, "no WARC headers"),
    "a broken record of another kind": (warc_record("metadata", b"x: y", length=1), "does not end where"),
}


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_broken_record_is_named_when_refused_and_costs_itself_alone_when_counted(tmp_path, fault, ending):
    broken, message = BROKEN[fault]
    content = INFO + conversion("one") + broken + conversion("two") + conversion("three")
    source = write(tmp_path / f"a.wet{ending}", gzip.compress(content) if ending else content)
    with pytest.raises(DataError, match=message) as caught:
        read_texts(**source)
    assert caught.value.where.startswith(f"{tmp_path}/a.wet{ending}, record at byte {len(INFO + conversion('one'))}")
    assert read_texts(refuse=False, **source) == (["one", "two", "three"], {"broken_record": 1})


def test_a_record_that_the_end_of_the_file_cuts_off_is_broken(tmp_path):
    content = conversion("one") + conversion("some more text")
    for cut_off in (9, 40):
        source = write(tmp_path / "a.wet", content[:-cut_off])
        assert read_texts(refuse=False, **source) == (["one"], {"broken_record": 1})
    assert read_texts(**write(tmp_path / "a.wet", content[:-4])) == (["one", "some more text"], {})


def test_a_truncated_gz_is_refused_or_counted_and_what_came_before_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(web_archive, "BLOCK_BYTES", 1 << 12)  # what is kept ends at a block
    texts = [f"document {number * number * 7919}" for number in range(2000)]
    source = write(tmp_path / "a.wet.gz", gzip.compress(b"".join(map(conversion, texts)))[:-100])
    with pytest.raises(DataError, match=r"a\.wet\.gz, after byte \d+ decompressed: the compressed file is damaged"):
        read_texts(**source)
    read, bad = read_texts(refuse=False, **source)
    assert bad == {"damaged_file": 1}
    assert read == texts[: len(read)] != []


def test_invalid_utf8_is_named_or_counted_and_a_nul_byte_is_text(tmp_path):
    records = [conversion("one\0"), warc_record("conversion", b"ab\xff"), conversion("two")]
    source = write(tmp_path / "a.wet", *records)
    with pytest.raises(DataError, match=r"a\.wet, record at byte \d+: the text is not valid UTF-8 at byte 2"):
        read_texts(**source)
    assert read_texts(refuse=False, **source) == (["one\0", "two"], {"invalid_utf8": 1})


def test_an_empty_file_holds_no_document_and_another_file_is_refused(tmp_path):
    assert read_texts(**write(tmp_path / "a.wet", b"")) == ([], {})
    with pytest.raises(DataError, match="no WARC headers where a record should begin"):
        read_texts(**write(tmp_path / "a.wet", b"hello\n" * 100))


def test_headers_are_kept_by_their_names_in_any_case(tmp_path):
    source = write(tmp_path / "a.wet", conversion("one", WARC_Record_ID="<urn:1>"), conversion("two"))
    wanted = {"id_field": "warc-record-id", "keep_fields": ["WARC-Target-URI", "WARC-Date"]}
    with pytest.raises(DataError, match=r"record at byte \d+: the record has no field 'warc-record-id'"):
        read_kept(**source, **wanted)
    uri = '{"WARC-Target-URI":"https://example.org/"}'
    assert read_kept(refuse=False, **source, **wanted) == ([("<urn:1>", uri)], {"missing_field": 1})


def test_a_record_larger_than_the_limit_is_left_out_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(web_archive, "RECORD_BYTES", 1000)
    monkeypatch.setattr(web_archive, "BLOCK_BYTES", 300)
    records = [conversion("one"), conversion("x" * 5000), warc_record("metadata", b"y" * 5000), conversion("two")]
    assert read_texts(**write(tmp_path / "a.wet", *records)) == (["one", "two"], {"record_too_large": 1})


def test_a_record_of_a_hundred_megabytes_takes_seconds(tmp_path):
    source = write(tmp_path / "a.wet", conversion("x" * 100_000_000), conversion("after"))
    begun = time.process_time()
    assert [len(text) for text in read_texts(**source)[0]] == [100_000_000, 5]
    assert time.process_time() - begun < 20


def test_time_grows_with_the_file_even_when_every_record_lies_about_its_length(tmp_path):
    source = write(tmp_path / "a.wet", *[conversion("text", length=10**8)] * 20_000)
    begun = time.process_time()
    assert read_texts(refuse=False, **source) == ([], {"broken_record": 20_000})
    assert time.process_time() - begun < 20


@given(
    pieces=st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.sampled_from([b"WARC/1.0\r\n", b"\r\n\r\n", b"\nWARC/", b"Content-Length: 9\r\n", conversion("text")]),
        ),
        max_size=12,
    ),
    block=st.integers(1, 100),
)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_read_or_counted_alike_in_any_blocks(tmp_path, monkeypatch, pieces, block):
    source = write(tmp_path / "a.wet", *pieces)
    monkeypatch.setattr(web_archive, "BLOCK_BYTES", 1 << 20)
    whole = read_texts(refuse=False, **source)
    monkeypatch.setattr(web_archive, "BLOCK_BYTES", block)
    assert read_texts(refuse=False, **source) == whole
