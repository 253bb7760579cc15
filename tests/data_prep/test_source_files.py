"""Files on this machine, plain and compressed: any bytes in them are read, counted or refused, and nothing else."""

import bz2
import contextlib
import functools
import gzip
import lzma
import time

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_reading import read_texts, source_of

from data_prep.sources import BadRecords, jsonl
from data_prep.sources.files import find_files
from foreword.errors import ConfigError, DataError, ForewordError

COMPRESSORS = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}
LINES = [
    b'{"text": "a"}',
    b'{"text": "\\u0000"}',
    b'{"text": "\xff"}',
    b"{}",
    b"[]",
    b"7",
    b'{"text": null}',
    b"\0",
    b"{",
]


@functools.cache
def valid(ending):
    content = b"".join(b'{"text": "record %d %d"}\n' % (i, i * i * 7919) for i in range(300))
    return COMPRESSORS[ending](content)


@pytest.mark.parametrize("ending", COMPRESSORS)
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=6)), max_size=4),
    keep=st.floats(0.0, 1.0),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_an_error_of_ours_or_counted(tmp_path, ending, changes, keep):
    content = bytearray(valid(ending))
    for position, change in changes:
        content[position % len(content) : position % len(content) + len(change)] = change
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(content[: int(keep * len(content))])
    read_texts(kind="jsonl", path=str(path), refuse=False)
    with contextlib.suppress(ForewordError):
        read_texts(kind="jsonl", path=str(path))


@given(
    lines=st.lists(st.one_of(st.sampled_from(LINES), st.binary(max_size=12)), max_size=12),
    slice_bytes=st.integers(1, 60),
)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_lines_are_read_or_counted_alike_however_they_are_cut(tmp_path, lines, slice_bytes):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(lines))
    source = {"kind": "jsonl", "path": str(path), "refuse": False}
    assert read_texts(slice_bytes=slice_bytes, **source) == read_texts(**source)


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_an_empty_file_holds_nothing_or_is_damaged(tmp_path, ending):
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(COMPRESSORS[ending](b""))
    assert read_texts(kind="jsonl", path=str(path)) == ([], {})


def test_a_line_of_a_hundred_megabytes_is_one_record_and_takes_seconds(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "before"}\n{"text": "' + b"x" * 100_000_000 + b'"}\n{"text": "after"}\n')
    begun = time.process_time()
    read, _ = read_texts(kind="jsonl", path=str(path), slice_bytes=2**26)
    assert [len(text) for text in read] == [6, 100_000_000, 5]
    assert time.process_time() - begun < 20


def test_what_cannot_be_found_or_opened_is_named(tmp_path):
    for pattern in ("*.jsonl", "none.jsonl", "", "a**b"):
        with pytest.raises(ConfigError) as caught:
            find_files(f"{tmp_path}/{pattern}")
        assert caught.value.where == f"{tmp_path}/{pattern}"
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}')
    (file,) = find_files(str(path))
    path.unlink()
    path.mkdir()  # between the plan and the reading
    with pytest.raises(DataError, match=r"a\.jsonl: cannot be read: Is a directory"):
        list(jsonl.read(source_of(kind="jsonl", path=file.path), file.path, 0, 10, BadRecords(refuse=True)))
