"""How far a run is, from its directory alone: before its first start, while it runs, after it went back, at its end."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from training import train_config

from foreword.config import dump_config
from pipeline.run.lease import acquire, find_holder
from pipeline.run.progress import read_progress


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run of 100 steps that has been laid out, and has not begun."""
    config = train_config(tmp_path / "run", tmp_path / "corpus", schedule__total_steps=100)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(dump_config(config))
    return tmp_path / "run"


def record(run_dir: Path, *records: dict[str, Any]) -> None:
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in records)


def step(number: int, at: float) -> dict[str, Any]:
    consumed = {"samples_consumed": 8 * number, "tokens_consumed": 8 * 32 * number}
    return {"step": number, "loss": 1 / number, "tokens_per_s": 100.0, "time": at, **consumed}


def test_a_directory_that_is_no_run_yet_has_nothing_to_tell(tmp_path: Path) -> None:
    progress = read_progress(tmp_path)
    assert (progress.step, progress.total_steps, progress.holder, progress.starts) == (0, None, None, 0)
    assert not progress.is_held and not progress.is_finished


def test_speed_and_time_left_are_those_of_the_latest_start(run_dir: Path) -> None:
    record(run_dir, {"event": "start", "step": 0, "time": 10}, step(1, 20), step(2, 30))
    record(run_dir, {"event": "start", "step": 2, "time": 100}, step(3, 110), step(4, 112), step(5, 114))
    progress = read_progress(run_dir)
    assert (progress.step, progress.total_steps, progress.starts) == (5, 100, 2)
    assert progress.step_s == 2
    assert progress.remaining_s == 95 * 2
    assert progress.recorded == 114


def test_a_run_that_went_back_is_where_it_went_back_to(run_dir: Path) -> None:
    record(run_dir, {"event": "start", "step": 0, "time": 10}, step(10, 20), step(20, 30))
    record(run_dir, {"event": "start", "step": 10, "time": 100})
    assert read_progress(run_dir).step == 10
    assert read_progress(run_dir).step_s is None
    record(run_dir, step(11, 110))
    progress = read_progress(run_dir)
    assert (progress.step, progress.loss) == (11, 1 / 11)


def test_a_length_in_tokens_is_counted_in_steps(run_dir: Path, tmp_path: Path) -> None:
    config = train_config(run_dir, tmp_path / "corpus", schedule={"total_tokens": 8 * 32 * 50, "warmup_tokens": 256})
    (run_dir / "config.yaml").write_text(dump_config(config))
    assert read_progress(run_dir).total_steps is None  # nobody knows yet how long rows are
    record(run_dir, step(3, 10))
    assert read_progress(run_dir).total_steps == 50


def test_the_end_and_a_new_beginning_are_told_apart(run_dir: Path) -> None:
    record(
        run_dir, {"event": "start", "step": 0, "time": 10}, step(100, 20), {"event": "finish", "step": 100, "time": 21}
    )
    assert read_progress(run_dir).is_finished
    record(run_dir, {"event": "start", "step": 100, "time": 30})
    assert not read_progress(run_dir).is_finished


def test_a_run_is_held_while_its_process_lives(run_dir: Path) -> None:
    assert find_holder(run_dir) is None
    with acquire(run_dir, 60.0, {}):
        holder = find_holder(run_dir)
        assert holder is not None and holder.claim is not None and holder.claim.process == os.getpid()
        assert read_progress(run_dir).is_held
    released = find_holder(run_dir)
    assert released is not None and released.is_gone
    assert not read_progress(run_dir).is_held


def test_a_heartbeat_that_stands_still_on_another_machine_means_that_nobody_holds_the_run(run_dir: Path) -> None:
    with acquire(run_dir, 60.0, {}) as lease:
        claim = lease.path / "claim.json"
        claim.write_text(json.dumps(json.loads(claim.read_text()) | {"machine": "another"}))
        assert read_progress(run_dir).is_held
        os.utime(claim, (time.time() - 61, time.time() - 61))
        assert not read_progress(run_dir).is_held


def test_a_configuration_of_another_version_hides_nothing_else(run_dir: Path) -> None:
    (run_dir / "config.yaml").write_text("unknown: key\n")
    record(run_dir, step(3, 10))
    assert (read_progress(run_dir).step, read_progress(run_dir).total_steps) == (3, None)
