"""All kinds of sources in one preparation: the same bytes however it is computed, and each accounted for."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_files import bytes_of
from jsonl_files import write_jsonl
from megatron_files import write_megatron
from web_records import conversion, response, warc_record

from data_prep.prepare import prepare
from data_prep.tokenizers import load_tokenizer

datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()

PAGE = "<html><body><article><h1>A page</h1><p>{}</p></article></body></html>"


@pytest.fixture
def every_source(tmp_path, texts, model_path):
    """One source of each kind, of different texts and with one bad record each."""
    tokenizer = load_tokenizer(model_path)
    parts = [part.tolist() for part in np.array_split(np.array(texts, dtype=object), 7)]
    write_jsonl(tmp_path / "a.jsonl", [*parts[0], {"text": None}])
    pq.write_table(pa.table({"text": [*parts[1], None]}), tmp_path / "a.parquet", row_group_size=10)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("<|||>".join(parts[2]).encode() + b"<|||>\xff"))
    broken = warc_record("conversion", b"text", length=9)
    (tmp_path / "a.wet.gz").write_bytes(b"".join(map(gzip.compress, [*map(conversion, parts[3]), broken])))
    pages = [response(PAGE.format(text)) for text in parts[4]]
    (tmp_path / "a.warc").write_bytes(b"".join([*pages, response("", status="404 Not Found")]))
    datasets.Dataset.from_dict({"text": [*parts[5], None]}, split="train").save_to_disk(tmp_path / "saved")
    ids = [[[*tokenizer.encode(text), tokenizer.eod_id]] for text in parts[6]]
    write_megatron(tmp_path / "a.bin", [*ids, [[60_000]]])
    return [
        {"kind": "jsonl", "path": f"{tmp_path}/a.jsonl"},
        {"kind": "parquet", "path": f"{tmp_path}/a.parquet"},
        {"kind": "text", "path": f"{tmp_path}/a.txt.gz", "separator": "<|||>"},
        {"kind": "wet", "path": f"{tmp_path}/a.wet.gz"},
        {"kind": "warc", "path": f"{tmp_path}/a.warc"},
        {"kind": "huggingface", "dataset": f"{tmp_path}/saved"},
        {"kind": "megatron", "path": f"{tmp_path}/a", "vocab_size": tokenizer.vocab_size},
    ]


def test_they_give_the_same_bytes_however_they_are_cut_and_every_record_is_accounted_for(
    make_config, every_source, tmp_path
):
    results = []
    for workers, slice_bytes in [(1, 2**26), (2, 5000)]:
        output = tmp_path / f"corpus-{workers}"
        changes = {"prefix": {"policy": "uniform"}, "on_bad_record": "count", "splits": {"valid": 0.1}}
        config = make_config(*every_source, output=str(output), workers=workers, slice_bytes=slice_bytes, **changes)
        manifest = prepare(config)
        results.append(bytes_of(output))
    assert results[0] == results[1]
    reasons = ["null", "null", "invalid_utf8", "broken_record", "not_200", "null", "id_out_of_vocabulary"]
    for source, reason in zip(manifest.sources, reasons, strict=True):
        assert source.dropped[reason] == 1
        assert source.documents + sum(source.dropped.values()) == source.records
        assert source.documents > 10
