"""A dry run: what it predicts comes true, and it leaves nothing behind."""

import gzip
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from jsonl_files import write_jsonl

from data_prep import predict as room
from data_prep.commands import prep
from data_prep.predict import predict
from data_prep.prepare import prepare
from foreword.config import dump_config
from foreword.errors import DataError


@pytest.fixture
def config(make_config, tmp_path, texts):
    """A plain source of many slices and a compressed one, with something to leave out."""
    plain = write_jsonl(tmp_path / "a.jsonl", [f"{number} {text}" for number in range(3) for text in texts])
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes() + b'{"no": "text"}\n' * 200))
    changes = {"slice_bytes": 20_000, "shard_tokens": 50_000, "splits": {"valid": 0.1}, "deduplicate": False}
    return make_config(plain, tmp_path / "b.jsonl.gz", on_bad_record="count", **changes)


def test_a_prediction_from_a_part_of_the_input_comes_true(config, monkeypatch):
    monkeypatch.setattr(room, "SAMPLE_BYTES", 300_000)
    monkeypatch.setattr(room, "PLACE_BYTES", 1000)
    monkeypatch.setattr("data_prep.sources.jsonl.BLOCK_BYTES", 8000)
    prediction = predict(config)
    assert not Path(config.output).exists()
    assert prediction.sampled_bytes < 0.6 * sum(source.size_bytes for source in prediction.sources)
    manifest = prepare(config)
    for predicted, found in zip(prediction.sources, manifest.sources, strict=True):
        assert predicted.documents == pytest.approx(found.documents, rel=0.2)
        assert predicted.tokens == pytest.approx(found.tokens, rel=0.2)
    for split, shards in prediction.shards.items():
        assert shards == pytest.approx(len(manifest.splits[split].shards), abs=2, rel=0.2)
    on_disk = sum(info.size for split in manifest.splits.values() for s in split.shards for info in s.files.values())
    assert prediction.corpus_bytes == pytest.approx(on_disk, rel=0.2)
    assert 0 < prediction.seconds < 60


def test_a_sample_that_is_everything_counts_everything(config):
    prediction = predict(config)
    manifest = prepare(config)
    assert [source.documents for source in prediction.sources] == [source.documents for source in manifest.sources]
    assert [source.tokens for source in prediction.sources] == [source.tokens for source in manifest.sources]
    assert prediction.sources[1].dropped == {"missing_field": pytest.approx(200 / manifest.sources[1].records)}


def test_the_command_prints_a_table_and_leaves_nothing(config, tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "config.yaml").write_text(dump_config(config))
    before = sorted(tmp_path.rglob("*"))
    result = CliRunner().invoke(prep, [str(tmp_path / "config.yaml"), "--dry-run"])
    assert result.exit_code == 0, result.output
    for word in ("jsonl-0", "jsonl-1", "tokens:", "shards:", "time:", "disk:", "free"):
        assert word in result.output
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_of_nothing_says_so(make_config, tmp_path):
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(DataError, match="no documents"):
        predict(make_config(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("size", [0, 1, 2, 5, 64, 100])
def test_every_beginning_of_the_sample_is_spread_over_the_whole(size):
    order = list(room._spread(range(size)))
    assert sorted(order) == list(range(size))
    for taken in (4, 8, 32):
        if taken <= size:
            places = sorted(order[:taken])
            assert max(b - a for a, b in zip([-1, *places], [*places, size], strict=True)) <= 2 * size / taken + 1
