"""What happened to jobs: written line by line, read in the order of time, whatever else lies there."""

import json
from pathlib import Path

import pytest

from slurm.events import append_event, read_events


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    append_event(tmp_path, "12", "submitted", kind="train", after=None)
    append_event(tmp_path, "12", "cancelled", reason="foreword cancel")
    first, second = read_events(tmp_path)
    assert (first.job_id, first.event, first.kind, first.after) == ("12", "submitted", "train", None)
    assert (second.event, second.reason) == ("cancelled", "foreword cancel")
    assert first.time <= second.time


def test_files_of_single_jobs_are_read_too_and_sorted_by_time(tmp_path: Path) -> None:
    jobs = tmp_path / "slurm"
    jobs.mkdir()
    for name, time, number in (("12_3.jsonl", 2.5, "12_3"), ("jobs.jsonl", 1, 12), ("14.jsonl", 3, "14")):
        record = {"time": time, "job_id": number, "event": "started", "nodes": "node1", "something": "new"}
        (jobs / name).write_text(json.dumps(record) + "\n")
    (jobs / "others.jsonl").write_text("{}\n")
    assert [(event.job_id, event.nodes) for event in read_events(tmp_path)] == [
        ("12", ["node1"]),
        ("12_3", ["node1"]),
        ("14", ["node1"]),
    ]


def test_a_line_that_is_no_event_is_named_and_the_rest_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    append_event(tmp_path, "12", "started")
    with (tmp_path / "slurm" / "jobs.jsonl").open("a") as file:
        file.write('{"time": 1, "job_\n')
    append_event(tmp_path, "12", "finished")
    assert [event.event for event in read_events(tmp_path)] == ["started", "finished"]
    assert "jobs.jsonl:2: not an event of a job" in capsys.readouterr().err


def test_there_are_no_events_where_nothing_was_submitted(tmp_path: Path) -> None:
    assert read_events(tmp_path) == []
    assert not (tmp_path / "slurm").exists()
