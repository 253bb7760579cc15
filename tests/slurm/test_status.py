"""`foreword status`: the state and why, with Slurm and without it."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_slurm import FakeSlurm
from training import train_config

from data_prep.config import PrepConfig
from data_prep.prepare import finish, prepare_task
from foreword.cli import foreword
from foreword.config import dump_config, load_config
from foreword.errors import ConfigError, DataError
from pipeline.run.lease import acquire
from slurm.events import append_event
from slurm.status import status_of

START = {"event": "start", "step": 0, "time": 1000.0}
FINISH = {"event": "finish", "step": 100, "time": 2000.0, "loss": 0.5}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run of 100 steps as it was submitted as job 12."""
    run_dir = tmp_path / "run"
    append_event(run_dir, "12", "submitted", kind="train")
    (run_dir / "slurm" / "train-ab.sbatch").touch()
    config = train_config(run_dir, tmp_path / "corpus", schedule__total_steps=100)
    (run_dir / "config.yaml").write_text(dump_config(config))
    return run_dir


def record(run_dir: Path, *records: dict[str, Any]) -> None:
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in records)


def step(number: int) -> dict[str, Any]:
    return {"step": number, "loss": 0.5, "tokens_per_s": 1000.0, "time": 1000.0 + number}


def status(*words: object) -> Result:
    return CliRunner().invoke(foreword, ["status", *map(str, words)])


def state(directory: Path) -> tuple[str, str]:
    found = status_of(directory)
    return found.state, found.reason or ""


def test_a_queued_job_says_what_it_waits_for(run_dir: Path, fake_slurm: FakeSlurm) -> None:
    fake_slurm.show(("12", "PENDING"), reason="Priority", start="2026-11-29T10:00:00")
    assert state(run_dir) == ("queued", "job 12 waits (Priority); expected to start at 2026-11-29T10:00:00")
    append_event(run_dir, "13", "submitted", kind="train", after="12")
    fake_slurm.show(("13", "PENDING"), reason="Dependency")
    assert state(run_dir) == ("queued", "job 13 waits for job 12")


def test_a_submission_that_was_refused_says_why(run_dir: Path, fake_slurm: FakeSlurm) -> None:
    append_event(run_dir, "12", "stopped", reason="stopped on request")
    append_event(run_dir, "", "refused", kind="train", reason="sbatch refused: invalid partition specified: gpux")
    fake_slurm.show()
    refusal = "not submitted: sbatch refused: invalid partition specified: gpux"
    assert state(run_dir) == ("stopped", f"job 12: stopped on request; {refusal}")
    assert "submission  refused (train) - sbatch refused: invalid partition" in status(run_dir).stdout
    append_event(run_dir, "13", "submitted", kind="train")
    fake_slurm.show(("13", "PENDING"))
    assert "not submitted" not in state(run_dir)[1]


def test_a_job_that_came_back_says_why(run_dir: Path, fake_slurm: FakeSlurm) -> None:
    append_event(run_dir, "12", "started", nodes=["node1", "node2"])
    append_event(run_dir, "12", "hung", reason="rank 3 on node2 has made no step for 600 s")
    fake_slurm.show(("12", "PENDING"), reason="BeginTime")
    assert state(run_dir) == (
        "queued",
        "job 12 waits (BeginTime); it was put back because: rank 3 on node2 has made no step for 600 s",
    )
    assert "hung - rank 3 on node2" in status(run_dir).stdout


def test_a_job_that_has_taken_no_step_since_its_start_is_starting(run_dir: Path, fake_slurm: FakeSlurm) -> None:
    fake_slurm.show(("12", "RUNNING"), nodes="node1")
    append_event(run_dir, "12", "started")
    assert state(run_dir)[0] == "starting"
    record(run_dir, START, step(4))
    assert state(run_dir)[0] == "starting"  # that was an earlier start
    record(run_dir, step(5) | {"time": 1e10})
    assert state(run_dir)[0] == "running"


def test_a_run_tells_how_far_it_is_and_how_long_it_will_take(run_dir: Path, fake_slurm: FakeSlurm) -> None:
    fake_slurm.show(("12", "RUNNING"), nodes="node[1-2]", running="1:00:00", left="23:00:00")
    validation = {"event": "validation", "step": 10, "prefix_loss": 0.25, "time": 1010.0}
    record(run_dir, START, step(10), validation, step(20))
    shown = status(run_dir).stdout
    for line in (
        "step       20 of 100 (20.0%), loss 0.5000",
        "validation prefix_loss 0.2500 after step 10",
        "speed      1,000 tokens/s, 1.00 s a step",
        "left       0:01:20",
        "job        12 RUNNING on node[1-2] for 1:00:00, 23:00:00 left",
        "starts     1",
    ):
        assert line in shown
    facts = json.loads(status(run_dir, "--json").stdout)
    assert (facts["step"], facts["total_steps"], facts["remaining_s"]) == (20, 100, 80)
    assert facts["jobs"][0]["left_s"] == 23 * 3600
    assert [event["event"] for event in facts["history"]] == ["start", "submitted"]


def test_a_finished_run_is_finished(run_dir: Path, fake_slurm: FakeSlurm) -> None:
    fake_slurm.show(("12", "COMPLETED"))
    record(run_dir, START, step(100), FINISH)
    append_event(run_dir, "12", "finished", exit_code=0)
    assert state(run_dir) == ("finished", "")
    assert json.loads(status(run_dir, "--json").stdout)["remaining_s"] is None
    fake_slurm.show(("12", "COMPLETING"))
    assert state(run_dir) == ("finished", "")


def test_a_failed_job_says_why_in_the_words_of_its_log(run_dir: Path, fake_slurm: FakeSlurm) -> None:
    fake_slurm.show()
    (run_dir / "slurm" / "12.log").write_text("start\nforeword: attention: needs a GPU\n  -> use sdpa\nend\n")
    append_event(run_dir, "12", "failed", exit_code=2, reason="the configuration cannot be used")
    assert state(run_dir) == (
        "failed",
        "job 12: the configuration cannot be used\nforeword: attention: needs a GPU\n  -> use sdpa",
    )
    assert "\n             -> use sdpa\n" in status(run_dir).stdout


def test_a_job_that_gave_up_has_failed_and_a_cancelled_one_has_not(run_dir: Path, fake_slurm: FakeSlurm) -> None:
    fake_slurm.show()
    append_event(run_dir, "12", "gave_up", reason="crashed 4 time(s)")
    assert state(run_dir) == ("failed", "job 12: crashed 4 time(s)")
    append_event(run_dir, "13", "submitted", kind="train")
    append_event(run_dir, "13", "cancelled", reason="foreword cancel: taken out of the queue")
    assert state(run_dir) == ("cancelled", "job 13: foreword cancel: taken out of the queue")
    append_event(run_dir, "13", "stopped", exit_code=75, reason="stopped on request")
    assert state(run_dir) == ("cancelled", "job 13: stopped on request")


def test_a_job_that_left_the_queue_without_a_start_names_the_one_it_waited_for(
    run_dir: Path, fake_slurm: FakeSlurm
) -> None:
    append_event(run_dir, "15", "submitted", kind="train", after="14")
    fake_slurm.show(("15", "CANCELLED"))
    expected = "job 15, which waited for job 14, left the queue without a start (CANCELLED)"
    assert state(run_dir) == ("failed", expected)
    fake_slurm.show()
    fake_slurm.remember(("15", "CANCELLED", "0:0"))
    assert state(run_dir) == ("failed", expected)


def test_a_job_that_ended_without_a_word_is_told_with_what_slurm_remembers(
    run_dir: Path, fake_slurm: FakeSlurm
) -> None:
    append_event(run_dir, "12", "started")
    fake_slurm.show(("12", "TIMEOUT"))
    assert state(run_dir) == ("interrupted", "job 12 ended without a word (TIMEOUT)")
    fake_slurm.show()
    assert state(run_dir) == ("interrupted", "job 12 ended without a word (Slurm has forgotten how)")


def test_without_slurm_the_directory_is_told(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    record(run_dir, START, step(100), FINISH)
    assert state(run_dir)[0] == "finished"
    assert "what Slurm knows is missing: there is no squeue" in capsys.readouterr().err


def test_a_run_outside_of_slurm_is_told_by_its_heartbeat_and_its_records(tmp_path: Path, fake_slurm: FakeSlurm) -> None:
    run_dir = tmp_path / "local"
    with acquire(run_dir, 60.0, {}):
        assert state(run_dir)[0] == "running"
        record(run_dir, START, step(5))
        assert "process" in state(run_dir)[1]
    assert state(run_dir)[0] == "interrupted"
    record(run_dir, {"event": "stop", "step": 5, "reason": "SIGTERM", "time": 1100.0})
    assert state(run_dir) == ("stopped", "SIGTERM after step 5; the same command continues")
    assert fake_slurm.asked("squeue") == []


def test_a_preparation_is_told_slice_by_slice(prep_path: Path, tmp_path: Path, fake_slurm: FakeSlurm) -> None:
    config, corpus = load_config(prep_path, [], PrepConfig), tmp_path / "prepared"
    (corpus / "slurm").mkdir(parents=True)
    append_event(corpus, "12", "submitted", kind="prep")
    (corpus / "slurm" / "prep-ab.sbatch").touch()
    fake_slurm.show(("12_0", "PENDING"), ("12_1", "PENDING"), reason="Resources")
    assert state(corpus) == ("queued", "job 12_0 waits (Resources)")
    prepare_task(config, 1, 2)
    fake_slurm.show(("12_0", "RUNNING"), nodes="node1")
    shown = status(corpus).stdout
    assert "state      running" in shown
    assert "tasks      of 2, not done: 0" in shown
    facts = json.loads(status(corpus, "--json").stdout)
    assert (facts["kind"], facts["unfinished_tasks"]) == ("corpus", {"2": [0]})
    assert 0 < facts["slices_done"] < facts["slices"]
    prepare_task(config, 0, 2)
    finish(config)
    fake_slurm.show()
    assert state(corpus) == ("finished", "")
    assert json.loads(status(corpus, "--json").stdout)["splits"]["train"]["rows"] > 0


def test_the_first_failure_of_a_chain_is_its_reason(prep_path: Path, tmp_path: Path, fake_slurm: FakeSlurm) -> None:
    corpus = tmp_path / "prepared"
    append_event(corpus, "12", "submitted", kind="prep")
    append_event(corpus, "13", "submitted", kind="finish", after="12")
    (corpus / "slurm" / "prep-ab.sbatch").touch()
    fake_slurm.show()
    append_event(corpus, "12_0", "finished")
    append_event(corpus, "12_1", "failed", exit_code=3, reason="the data is not intact")
    append_event(corpus, "13", "failed", exit_code=3, reason="tasks are missing")
    assert state(corpus) == ("failed", "job 12_1: the data is not intact")
    append_event(corpus, "14", "submitted", kind="prep")  # what failed earlier is not the state of what is new
    fake_slurm.show(("14_1", "PENDING"))
    assert state(corpus)[0] == "queued"
    append_event(corpus, "14_1", "finished")
    fake_slurm.show()
    assert state(corpus) == ("unfinished", "")


def test_without_a_run_all_that_has_jobs_in_the_queue_is_listed(run_dir: Path, fake_slurm: FakeSlurm) -> None:
    assert "no job of yours" in status().stderr
    record(run_dir, START, step(10), step(20))
    fake_slurm.show(("12", "PENDING"), comment=f"foreword:{run_dir}")
    assert status().stdout.splitlines()[1].split()[:4] == ["queued", "step", "20/100", "0.5000"]
    assert str(run_dir) in status().stdout
    (facts,) = json.loads(status("--json").stdout)
    assert facts["directory"] == str(run_dir)


def test_what_is_neither_run_nor_corpus_is_refused(tmp_path: Path) -> None:
    assert isinstance(status(tmp_path).exception, DataError)
    assert isinstance(status(tmp_path / "nowhere").exception, ConfigError)
