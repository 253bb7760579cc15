"""What datatrove writes goes straight in: its JSON Lines and its Parquet files, with ids and metadata kept.

The layouts are those of datatrove 0.10's JsonlWriter and ParquetWriter, with and without `expand_metadata`.
"""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_files import segments_of
from source_reading import read_kept, read_texts

from data_prep.prepare import prepare

RECORDS = [
    {"text": f"document {number}\nand its second line", "id": f"<urn:{number}>", "metadata": {"url": "u", "n": number}}
    for number in range(60)
]
TEXTS = [record["text"] for record in RECORDS]


def jsonl(records):
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def expanded(records):
    return [{"text": record["text"], "id": record["id"], **record["metadata"]} for record in records]


def write_jsonl(directory, records=RECORDS):
    for rank in range(2):  # a file per task
        (directory / f"{rank:05d}.jsonl.gz").write_bytes(gzip.compress(jsonl(records[rank * 30 : rank * 30 + 30])))
    return {"kind": "jsonl", "path": f"{directory}/*.jsonl.gz"}


def write_zst(directory, records=RECORDS):
    (directory / "00000.jsonl.zst").write_bytes(pa.compress(jsonl(records), "zstd", asbytes=True))
    return {"kind": "jsonl", "path": f"{directory}/*.jsonl.zst"}


def write_parquet(directory, records=RECORDS):
    for rank in range(2):
        table = pa.Table.from_pylist(records[rank * 30 : rank * 30 + 30])
        pq.write_table(table, directory / f"000_{rank:05d}.parquet", compression="snappy")
    return {"kind": "parquet", "path": f"{directory}/*.parquet"}


@pytest.mark.parametrize("write", [write_jsonl, write_zst, write_parquet])
@pytest.mark.parametrize("layout", [list, expanded])
def test_its_files_are_read_as_they_are(tmp_path, write, layout):
    assert read_texts(**write(tmp_path, layout(RECORDS))) == (TEXTS, {})


@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
def test_ids_and_metadata_are_kept(tmp_path, write):
    kept, _ = read_kept(id_field="id", keep_fields=["metadata"], **write(tmp_path))
    assert [identity for identity, _ in kept] == [record["id"] for record in RECORDS]
    assert [json.loads(fields)["metadata"] for _, fields in kept] == [record["metadata"] for record in RECORDS]


def test_both_formats_give_the_same_rows(make_config, tmp_path):
    rows = []
    for write in (write_jsonl, write_parquet):
        output = tmp_path / write.__name__
        prepare(make_config(write(tmp_path), output=str(output)))
        rows.append(list(segments_of(output)))
    assert rows[0] == rows[1] != []
