"""Files behind URLs: read as those of this machine are, and every failure names the URL."""

import gzip
import hashlib
import io
import json
import sys

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import Hub, running
from source_reading import read_texts
from web_records import conversion

from data_prep.sources.files import find_files, open_input, sha256_of_input
from foreword.errors import ConfigError, DataError, MachineError

TEXTS = [f"document {number}, and what it says" for number in range(300)]


def jsonl(texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def parquet(texts):
    file = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), file, row_group_size=50)
    return file.getvalue()


CONTENTS = {
    "a.jsonl": ({"kind": "jsonl"}, jsonl(TEXTS)),
    "a.jsonl.gz": ({"kind": "jsonl"}, gzip.compress(jsonl(TEXTS))),
    "a.jsonl.zst": ({"kind": "jsonl"}, pa.compress(jsonl(TEXTS), "zstd", asbytes=True)),
    "a.parquet": ({"kind": "parquet"}, parquet(TEXTS)),
    "a.txt": ({"kind": "text", "separator": "|"}, "|".join(TEXTS).encode()),
    "a.wet.gz": ({"kind": "wet"}, b"".join(gzip.compress(conversion(text)) for text in TEXTS)),
}


@pytest.fixture
def store():
    """fsspec's memory:// with nothing in it."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    yield memory
    memory.store.clear()


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("slice_bytes", [1000, 2**30])
def test_every_kind_of_file_is_read_from_a_url_in_any_slices(store, name, slice_bytes):
    source, content = CONTENTS[name]
    store.pipe(f"/texts/{name}", content)
    read = read_texts(path=f"memory://texts/{name}", slice_bytes=slice_bytes, **source)
    assert read == (TEXTS, {})


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_files_are_read_over_http_in_any_slices(name):
    source, content = CONTENTS[name]
    with running(Hub("some/texts", {name: content})) as hub:
        url = f"{hub.url}/datasets/some/texts/resolve/main/{name}"
        assert read_texts(path=url, slice_bytes=3000, **source) == (TEXTS, {})
        (file,) = find_files(url)
        assert (file.path, file.size_bytes) == (url, len(content))
        assert "ETag=" in file.fingerprint
        with pytest.raises(ConfigError, match="no such input file"):
            find_files(f"{url}.gz")
    with pytest.raises(MachineError, match=r"cannot be reached: .*Connect"):
        find_files("http://127.0.0.1:1/a.jsonl")  # nobody listens there


def test_globs_give_urls_in_name_order_each_once(store, tmp_path):
    for name in ("b.jsonl", "a.jsonl", "c.txt", "sub/d.jsonl"):
        store.pipe(f"/texts/{name}", b"{}")
    found = find_files(["memory://texts/*.jsonl", "memory://texts/a.jsonl", "memory://texts/**/d.jsonl"])
    assert [file.path.removeprefix("memory:").strip("/") for file in found] == [
        "texts/a.jsonl",
        "texts/b.jsonl",
        "texts/sub/d.jsonl",
    ]
    (tmp_path / "a.jsonl").write_text("{}")
    assert len(find_files(f"file://{tmp_path}/*.jsonl")) == 1


def test_a_file_that_changes_has_another_fingerprint(store):
    fingerprints = set()
    for content in (b"one", b"two"):
        store.pipe("/a.jsonl", content)
        fingerprints.add(find_files("memory://a.jsonl")[0].fingerprint)
    assert len(fingerprints) == 2


def test_the_hash_is_of_the_stored_bytes(store):
    content = CONTENTS["a.jsonl.gz"][1]
    store.pipe("/a.jsonl.gz", content)
    assert sha256_of_input("memory://a.jsonl.gz") == hashlib.sha256(content).hexdigest()


def test_damage_is_told_from_a_store_that_fails(store, monkeypatch):
    store.pipe("/a.jsonl.gz", CONTENTS["a.jsonl.gz"][1][:-20])
    read = read_texts(kind="jsonl", path="memory://a.jsonl.gz", refuse=False)
    assert read[1] == {"damaged_file": 1}
    store.pipe("/a.jsonl", jsonl(TEXTS))

    def fail(*_):
        raise TimeoutError("the store does not answer")

    with open_input("memory://a.jsonl") as file:
        monkeypatch.setattr(file._file, "read", fail)
        with pytest.raises(DataError, match=r"memory://a\.jsonl: cannot be read: TimeoutError: the store does"):
            file.read(10)


def test_what_cannot_be_read_from_says_why(store, monkeypatch):
    with pytest.raises(ConfigError, match=r"memory://texts/none\.jsonl: no such input file"):
        find_files("memory://texts/none.jsonl")
    with pytest.raises(ConfigError, match="Protocol not known: nope"):
        find_files("nope://texts/a.jsonl")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)  # a class loaded earlier
    with pytest.raises(MachineError, match=r"s3fs") as caught:
        find_files("s3://bucket/a.jsonl")
    assert "foreword[remote]" in caught.value.remedy
