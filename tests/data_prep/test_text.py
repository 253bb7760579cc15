"""Text files: every document once however the file is cut, nothing but UTF-8."""

import gzip
import lzma
import time

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_reading import read_texts

from data_prep.sources import batches, text
from foreword.errors import ConfigError, DataError


def write(path, content, **values):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return {"kind": "text", "path": str(path), **values}


def test_a_file_is_a_document(tmp_path):
    for name, content in {"b.txt": "two\n\nlines\n", "a.txt": "one", "c.txt": " \n"}.items():
        (tmp_path / name).write_text(content)
    for slice_bytes in (1, 3, 1000):
        read = read_texts(kind="text", path=str(tmp_path / "*.txt"), slice_bytes=slice_bytes)
        assert read == (["one", "two\n\nlines\n"], {})  # white space alone is no document


@given(
    texts=st.lists(st.text("ab\n-é", max_size=8), max_size=12),
    separator=st.text("ab\n-é", min_size=1, max_size=4),
    slice_bytes=st.integers(1, 40),
    block_bytes=st.integers(1, 12),
)
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_cut_gives_what_splitting_the_whole_text_gives(
    tmp_path, monkeypatch, texts, separator, slice_bytes, block_bytes
):
    monkeypatch.setattr(text, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(batches, "BATCH_BYTES", 10)
    content = separator.join(texts)
    source = write(tmp_path / "a.txt", content, separator=separator)
    wanted = [piece for piece in content.split(separator) if piece.strip()]
    assert read_texts(slice_bytes=slice_bytes, **source) == (wanted, {})


@pytest.mark.parametrize(
    ("ending", "compress"),
    [
        (".gz", gzip.compress),
        (".xz", lzma.compress),
        (".zst", lambda data: pa.compress(data, codec="zstd", asbytes=True)),
    ],
)
def test_compressed_files_read_like_plain_ones_and_their_truncation_is_noticed(tmp_path, ending, compress):
    texts = [f"document {number * number * 7919}" for number in range(20_000)]
    content = compress("<|endoftext|>".join(texts).encode())
    source = write(tmp_path / f"a.txt{ending}", content, separator="<|endoftext|>")
    assert read_texts(slice_bytes=1000, **source) == (texts, {})
    source = write(tmp_path / f"a.txt{ending}", content[:-200], separator="<|endoftext|>")
    with pytest.raises(DataError, match=rf"a\.txt{ending}, after byte \d+: the compressed file is damaged"):
        read_texts(**source)
    read, bad = read_texts(refuse=False, **source)
    assert bad == {"damaged_file": 1}
    assert read == texts[: len(read)]


def test_invalid_utf8_is_named_by_its_byte_in_the_file_and_costs_its_document(tmp_path):
    content = b"one|tw\xffo|a NUL \0 is text|\xe2\x82|end"
    source = write(tmp_path / "a.txt", content, separator="|")
    for slice_bytes in (2, 5, 100):
        with pytest.raises(DataError, match=r"a\.txt, byte 6: not valid UTF-8: byte 0xff"):
            read_texts(slice_bytes=slice_bytes, **source)
        read = read_texts(slice_bytes=slice_bytes, refuse=False, **source)
        assert read == (["one", "a NUL \0 is text", "end"], {"invalid_utf8": 2})


def test_other_encodings_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"a\.txt, byte 0: not valid UTF-8: byte 0xff"):
        read_texts(**write(tmp_path / "a.txt", "text".encode("utf-16")))


def test_a_byte_order_mark_is_no_text(tmp_path):
    assert read_texts(**write(tmp_path / "a.txt", "\ufeffone|\ufefftwo", separator="|"))[0] == ["one", "\ufefftwo"]
    with pytest.raises(DataError, match=r"byte 5"):
        read_texts(**write(tmp_path / "a.txt", b"\xef\xbb\xbfab\xff"))


def test_an_empty_file_holds_no_document(tmp_path):
    assert read_texts(**write(tmp_path / "a.txt", "")) == ([], {})
    assert read_texts(**write(tmp_path / "a.txt", "", separator="|")) == ([], {})


def test_a_document_of_a_hundred_megabytes_is_one_record_and_takes_seconds(tmp_path):
    long = b"x" * 100_000_000
    source = write(tmp_path / "a.txt", b"before|" + long + b"|after", separator="|")
    begun = time.process_time()
    read, _ = read_texts(slice_bytes=2**26, **source)
    assert [len(document) for document in read] == [6, 100_000_000, 5]
    assert time.process_time() - begun < 20


def test_an_empty_separator_is_a_mistake(tmp_path):
    with pytest.raises(ConfigError, match="separator"):
        read_texts(kind="text", path="a.txt", separator="")


@given(content=st.binary(max_size=200), separator=st.text(min_size=1, max_size=2), slice_bytes=st.integers(1, 60))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_read_or_counted_alike_however_they_are_cut(tmp_path, content, separator, slice_bytes):
    source = write(tmp_path / "a.txt", content, separator=separator)
    assert read_texts(slice_bytes=slice_bytes, refuse=False, **source) == read_texts(refuse=False, **source)
