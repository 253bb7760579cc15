"""From a row of a corpus back to the documents in it, and to what their records said."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from corpus_files import bytes_of
from jsonl_files import write_jsonl

from data_prep.documents_table import documents_of_row
from data_prep.prepare import finish, prepare, prepare_task
from data_prep.shards import PADDING, Corpus
from data_prep.tokenizers import load_tokenizer
from data_prep.verify import verify_corpus
from foreword.errors import DataError
from foreword.files import sha256_of
from pipeline.commands.artifacts import inspect


@pytest.fixture
def sources(tmp_path, texts) -> list[dict]:
    """One source with ids and fields that not every record has, and one that keeps nothing."""
    odd = [{"text": text, "url": n, "lang": "en", "n": {"a": [n]}} for n, text in enumerate(texts)]
    even = [{"text": text, "url": f"u{n}"} for n, text in enumerate(texts)]
    records = [(odd if n % 2 else even)[n] for n in range(len(texts))]
    kept = write_jsonl(tmp_path / "a.jsonl", records)
    plain = write_jsonl(tmp_path / "b.jsonl", [*texts[:50], *(f"{text} again" for text in texts[:50])])
    return [
        {"path": str(kept), "name": "kept", "id_field": "url", "keep_fields": ["n", "lang"], "weight": 1.5},
        {"path": str(plain), "name": "plain"},
    ]


CHANGES = {
    "splits": {"valid": 0.1},
    "slice_bytes": 40_000,
    "shard_tokens": 40_000,
    "prefix": {"policy": "uniform"},
}


@pytest.mark.parametrize("packing", ["best_fit", "concat"])
def test_every_segment_leads_back_to_the_text_of_its_record(make_config, sources, texts, packing):
    config = make_config(*sources, **CHANGES, packing={"policy": packing})
    prepare(config)
    corpus = Corpus.open(config.output)
    tokenizer = load_tokenizer(config.tokenizer.path)
    seen = set()
    for split in corpus.manifest.splits:
        rows = corpus.split(split)
        for index in range(0, len(rows), 1 if split == "valid" else 7):
            row = rows.row(index)
            ends = [*row.segments[1:, 0], len(row.tokens)]
            shard, local = rows.locate(index)
            documents = documents_of_row(corpus.path / split / f"{shard.name}.documents.parquet", local)
            assert [document["segment"] for document in documents] == list(range(len(documents)))
            assert len(documents) == sum(row.segments[:, 1] != PADDING)
            for document, (begin, _), end in zip(documents, row.segments, ends, strict=False):
                if document["source"] == "plain":
                    assert document["id"] is None and document["fields"] is None
                    continue
                number = int(document["id"].removeprefix("u"))
                seen.add(number)
                assert document["fields"] == ({"n": {"a": [number]}, "lang": "en"} if number % 2 else {})
                ids = [*tokenizer.encode(texts[number]), tokenizer.eod_id]
                start = row.tokens[begin:end].tolist()
                assert any(ids[at : at + len(start)] == start for at in range(len(ids)))
                if document["piece"] == 0:
                    assert ids[: len(start)] == start
    assert len(seen) > 50


def test_tables_are_the_same_bytes_in_every_run(make_config, sources, tmp_path):
    configs = [make_config(*sources, **CHANGES, output=str(tmp_path / name)) for name in ("whole", "tasks", "workers")]
    prepare(configs[0])
    for task in (2, 0, 1):
        prepare_task(configs[1], task, 3)
    finish(configs[1])
    prepare(configs[2].model_copy(update={"workers": 2, "slice_bytes": 2**26}))
    found = [bytes_of(Path(config.output)) for config in configs]
    assert sum(name.endswith(".documents.parquet") for name in found[0]) > 2
    assert found[0] == found[1] == found[2]


def test_a_table_is_written_only_when_asked_for_and_holds_source_and_hash(make_config, sources, tmp_path):
    plain = [{key: source[key] for key in ("path", "name")} for source in sources]
    without = make_config(*plain, output=str(tmp_path / "without"))
    prepare(without)
    assert not list(Path(without.output).rglob("*.parquet"))
    assert not list(Path(without.output).rglob("*.kept"))
    asked = make_config(*plain, output=str(tmp_path / "asked"), write_documents=True)
    prepare(asked)
    table = pq.read_table(Path(asked.output) / "train" / "00000.documents.parquet")
    assert set(table["source"].to_pylist()) <= {"kept", "plain"}
    assert table["id"].null_count == table["fields"].null_count == len(table)
    assert table["hash"].null_count == 0


def test_a_changed_table_is_found_by_hash_and_by_content(make_config, sources):
    config = make_config(*sources, **CHANGES)
    manifest = prepare(config)
    assert verify_corpus(Path(config.output), 1) == []
    path = Path(config.output) / "train" / "00000.documents.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    (problem,) = verify_corpus(Path(config.output), 1)
    assert "00000.documents.parquet" in problem and "SHA-256" in problem
    pq.write_table(pq.read_table(Path(config.output) / "valid" / "00000.documents.parquet"), path)
    values = manifest.model_dump(mode="json")
    info = {"size": path.stat().st_size, "sha256": sha256_of(path)}
    values["splits"]["train"]["shards"][0]["files"]["train/00000.documents.parquet"] = info
    (Path(config.output) / "manifest.json").write_text(json.dumps(values))
    (problem,) = verify_corpus(Path(config.output), 1)
    assert "its records are not the shard's segments" in problem


@pytest.mark.parametrize(
    ("record", "reason"),
    [({}, "missing_field"), ({"url": None}, "null"), ({"url": 1.5}, "wrong_type")],
)
def test_a_record_without_a_usable_id_is_refused_or_counted(make_config, tmp_path, record, reason):
    path = write_jsonl(
        tmp_path / "a.jsonl", [{"text": "good", "url": True}, {"text": "good", "url": "x"}, {"text": "a b", **record}]
    )
    source = {"path": str(path), "id_field": "url"}
    with pytest.raises(DataError, match="'url'"):
        prepare(make_config(source, output=str(tmp_path / "refused")))
    manifest = prepare(make_config(source, on_bad_record="count"))
    assert manifest.sources[0].dropped[reason] >= 1
    assert manifest.sources[0].documents == 1


def test_each_reply_of_a_dialogue_has_the_id_of_its_record(make_config, tmp_path):
    records = [{"turns": [], "id": "none"}, {"turns": ["hello", "hi", "bye"], "id": 7}, {"turns": ["a", "b"], "id": 8}]
    path = write_jsonl(tmp_path / "a.jsonl", records)
    prefix = {"policy": "field", "turns_field": "turns"}
    config = make_config({"path": str(path), "prefix": prefix, "id_field": "id"})
    prepare(config)
    found = pq.read_table(Path(config.output) / "train" / "00000.documents.parquet")["id"].to_pylist()
    assert sorted(found) == ["7", "7", "8"]


def test_inspect_shows_where_a_row_comes_from(make_config, sources):
    config = make_config(*sources, **CHANGES)
    prepare(config)
    drawn = CliRunner().invoke(inspect, [config.output, "--row", "0"]).stdout
    assert "from kept, id " in drawn and ", hash " in drawn
    values = json.loads(CliRunner().invoke(inspect, [config.output, "--row", "0", "--json"]).stdout)
    documents = [segment["document"] for segment in values["segments"] if "padding" not in segment]
    assert {document["source"] for document in documents} <= {"kept", "plain"}
    assert all(len(document["hash"]) == 32 for document in documents)
