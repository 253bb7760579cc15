"""Runs are compared by what they have read and by what they were asked, validations in their places."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from recorded_run import write_run
from tiny_corpus import make_corpus

from foreword.errors import ConfigError, DataError, MachineError
from pipeline.commands.compare import compare
from pipeline.report.compare import _against, open_runs, write_comparison
from pipeline.telemetry.metrics import RunMetrics, read_metrics


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    corpus = make_corpus(root / "corpus").path
    return [
        write_run(root / "prefix" / "1", corpus),
        write_run(root / "causal" / "1", corpus, steps=24, seed=1, objective="causal"),
    ]


def test_the_table_and_the_page_name_every_run(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    shown = CliRunner().invoke(compare, [*map(str, runs), "--out", str(out)], catch_exceptions=False).stdout
    page = out.read_text()
    for text in (shown, page):
        assert "prefix/1" in text and "causal/1" in text
        assert f"{read_metrics(runs[0]).steps[-1]['loss']:.4f}" in text
    assert page.count("<svg") == 6
    assert "by target tokens" in page


def test_facts_are_those_of_the_records(runs: list[Path], tmp_path: Path) -> None:
    arguments = [*map(str, runs), "--out", str(tmp_path / "page.html"), "--json"]
    first, second = json.loads(CliRunner().invoke(compare, arguments, catch_exceptions=False).stdout)
    assert (first["objective"], second["objective"]) == ("prefix", "causal")
    assert (first["steps"], first["tokens"], first["targets"], first["restarts"]) == (40, 256 * 40, 130 * 40, 2)
    metrics = read_metrics(runs[1])
    assert second["best_train_loss"] == min(metrics.series("loss")[1])
    assert second["causal_loss"] == metrics.event_series("validation", "causal_loss")[1][-1]
    assert second["best_prefix_bits_per_byte"] == min(metrics.event_series("validation", "prefix_bits_per_byte")[1])


def test_a_validation_between_two_records_stands_between_them() -> None:
    steps = [{"step": step, "loss": 1.0, "tokens_consumed": 100 * step} for step in (10, 20)]
    events = [{"event": "validation", "step": step, "prefix_loss": 2.0} for step in (5, 10, 14, 20, 23)]
    x, y = _against(RunMetrics(steps, events), "prefix_loss", "tokens_consumed")
    assert x == [500, 1000, 1400, 2000, 2000]
    assert y == [2.0] * 5


def test_a_run_that_is_named_twice_or_has_no_records_is_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="named twice"):
        open_runs([runs[0], runs[0].parent / "." / "1"])
    with pytest.raises(DataError, match="give a run's directory"):
        open_runs([runs[0], tmp_path])


def test_one_run_alone_can_be_looked_at_too(runs: list[Path], tmp_path: Path) -> None:
    write_comparison(open_runs(runs[:1]), tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().count("<svg") == 6


def test_a_page_that_cannot_be_written_is_an_error_that_names_it(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"nowhere/page\.html: the page cannot be written"):
        write_comparison(open_runs(runs), tmp_path / "nowhere" / "page.html")
