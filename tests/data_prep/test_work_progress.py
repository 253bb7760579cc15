"""How far a preparation is, told by somebody who has no part in it."""

from pathlib import Path

import pytest
from jsonl_files import write_jsonl

from data_prep.config import PrepConfig
from data_prep.prepare import finish, prepare_task
from data_prep.work_progress import read_progress


@pytest.fixture
def config(make_config, tmp_path, texts) -> PrepConfig:
    return make_config(write_jsonl(tmp_path / "text.jsonl", texts[:200]), slice_bytes=5000)


def test_nothing_is_told_of_what_has_not_begun(tmp_path):
    assert read_progress(tmp_path) is None
    assert read_progress(tmp_path / "nowhere") is None


def test_slices_and_tasks_are_counted_as_they_are_done(config):
    output = Path(config.output)
    prepare_task(config, 1, 3)
    progress = read_progress(output)
    assert progress.unfinished_tasks(3) == [0, 2]
    assert sorted(progress.done) == progress.plan.shares(3)[1]
    assert 0 < progress.done_bytes < progress.size_bytes == (output.parent / "text.jsonl").stat().st_size
    assert (progress.task_counts, progress.shards) == ((3,), 0)
    for task in (0, 2):
        prepare_task(config, task, 3)
    assert read_progress(output).unfinished_tasks(3) == []
    assert read_progress(output).done_bytes == progress.size_bytes
    finish(config)
    assert read_progress(output) is None


def test_a_slice_without_its_record_or_its_files_hash_is_not_done(config):
    work = Path(config.output) / ".work"
    prepare_task(config, 0, 1)
    done = len(read_progress(work.parent).done)
    (work / "slices" / "000002.json").unlink()
    (work / "files" / "000000").unlink()
    assert sorted(set(range(done)) - read_progress(work.parent).done) == [0, 2]


def test_looking_changes_nothing_and_hinders_nobody(config):
    prepare_task(config, 0, 2)
    output = Path(config.output)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    read_progress(output)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before
