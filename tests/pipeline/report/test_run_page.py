"""The report is one page that needs nothing else, and shows everything that a run went through."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from recorded_run import PROMPT, write_run
from tiny_corpus import make_corpus

from foreword.errors import DataError
from pipeline.report.history import history, seconds_by_part, wall_time_s
from pipeline.report.run_page import run_charts, write_report
from pipeline.telemetry.metrics import read_metrics
from slurm.events import read_events
from slurm.run_commands import report


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    return write_run(root / "a<b", make_corpus(root / "corpus").path)


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return Path(CliRunner().invoke(report, [str(run)], catch_exceptions=False).stdout.strip()).read_text()


def events_of(run: Path) -> list[dict]:
    return [event.model_dump(exclude_defaults=True) for event in read_events(run)]


def test_the_page_needs_nothing_else(page: str) -> None:
    assert not re.search(r'(src|href)="(?!#)', page)
    assert not re.search(r"url\((?!#)|@import|<script", page)
    ids = re.findall(r' id="([^"]*)"', page)
    assert all(f"#{name}" in page for name in ids)


def test_the_page_shows_curves_samples_data_and_the_configuration(page: str) -> None:
    for title in ("Loss", "Learning rate", "Gradient norm", "Throughput", "Time waiting", "Validation loss by length"):
        assert title in page
    assert "Model FLOPs utilisation" not in page  # no device whose peak is known
    assert page.count("<svg") == 7
    assert "Stored prefix lengths" in page
    assert "micro_batch_size: 2" in page
    assert "the model wrote" in page
    assert [int(step) for step in re.findall(r"words of step (\d+)", page)] == [40, 35, 30, 25, 20, 15, 10, 5]


def test_what_the_run_and_the_model_say_is_text_and_not_markup(page: str) -> None:
    assert "a&lt;b" in page
    assert PROMPT not in page
    assert "&lt;b&gt;old&lt;/b&gt; bridge\nwas" in page


def test_restarts_are_numbered_and_explained_by_the_run_or_by_its_jobs(run: Path) -> None:
    moments = history(read_metrics(run), events_of(run))
    assert [m.time for m in moments] == sorted(m.time for m in moments)
    restarts = {m.mark: m for m in moments if m.mark}
    assert restarts[1].step == 18
    assert restarts[1].why == "from step_00000018; requeued: restart 1 of 10; job 17 on node3"
    assert restarts[2].why == "from step_00000030; stop: SIGUSR1"
    assert "rank 3 was ended by SIGKILL" in next(m.why for m in moments if m.what == "crashed")
    skipped = next(m for m in moments if m.what == "skipped")
    assert (skipped.step, skipped.why) == (20, "the loss is not finite; rows 0, 1, 2, 3, 4, 5, 6, 7 and 4 more")
    loss = run_charts(read_metrics(run), moments)[0]
    assert loss.marks == {18.0: "1", 30.0: "2"}
    assert list(loss.ticks) == [20]


def test_without_a_word_of_its_end_a_restart_says_so(run: Path) -> None:
    first = next(m for m in history(read_metrics(run), []) if m.mark == 1)
    assert first.why.endswith("the process before it ended without a word")


def test_times_are_summed_over_the_starts_and_leave_out_what_lies_between(run: Path) -> None:
    metrics = read_metrics(run)
    assert seconds_by_part(metrics) == {"start_up_s": 4.0, "training_s": 61.0, "data_wait_s": 1.0, "evaluating_s": 8.0}
    # 42 steps of a second (two were made twice), 8 evaluations, the rest of the records; no waiting in a queue
    assert wall_time_s(metrics) == pytest.approx(42 + 8 * 2.1 + 0.5 + 4 * 0.1, abs=2.2)


def test_a_corpus_that_is_gone_is_told_of(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tmp_path / "corpus")
    assert "no such corpus directory" in write_report(run).read_text()


def test_a_directory_without_a_run_or_a_run_without_records_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give a run's directory"):
        write_report(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"event": "start", "step": 0, "time": 1.0}\n')
    with pytest.raises(DataError, match="no step has been logged yet"):
        write_report(tmp_path)
