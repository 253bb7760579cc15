"""What people do to run directories: links, spaces, copies, things removed and put there while a run goes on."""

import shutil
import time
from pathlib import Path
from unittest import mock

import pytest
from processes import run_distributed
from training import HALF, STEPS, curve, finished_run, records, train_all, train_config

from foreword.errors import ForewordError
from pipeline.checkpoint.find import complete_checkpoints, find_checkpoint
from pipeline.checkpoint.inspect import verify_checkpoint


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A finished run on one process, with its corpus and its configuration."""
    return finished_run(tmp_path_factory.mktemp("finished"), 1)


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return shutil.copytree(finished / "run", tmp_path / "run")


def steps_of(run: Path) -> list[int]:
    return [step for step, _ in complete_checkpoints(run)]


# Where a run lies


@pytest.mark.parametrize("name", ["my run", "läuft/größer", "-run", "a=b, [c]: {d}", "${x}"])
def test_a_run_may_have_any_name(finished, tmp_path, monkeypatch, name):
    """As a path relative to where the command is given, which is not where it ends."""
    monkeypatch.chdir(tmp_path)
    for total_steps in (HALF, STEPS):
        config = train_config(Path(name), finished / "corpus", schedule__total_steps=STEPS)
        config = config.model_copy(update={"schedule": config.schedule.model_copy(update={"total_steps": total_steps})})
        assert run_distributed(1, train_in, tmp_path, config) == [None]
    assert steps_of(tmp_path / name) == [HALF, STEPS]
    assert verify_checkpoint(Path(name)) == []
    assert sorted(curve(tmp_path / name)) == list(range(1, STEPS + 1))


def train_in(directory: Path, config) -> None:
    import os

    from pipeline.train import train

    os.chdir(directory)
    train(config)


@pytest.mark.parametrize("linked", ["run", "run/checkpoints", "run/.lease"])
def test_a_part_of_a_run_may_be_a_link_to_another_place(finished, run, tmp_path, linked):
    target = tmp_path / "scratch"
    (tmp_path / linked).rename(target)
    (tmp_path / linked).symlink_to(target)
    assert train_all(1, train_config(run, finished / "corpus", schedule__total_steps=2 * STEPS)) == [[None]]
    assert (tmp_path / linked).is_symlink()
    assert steps_of(run) == [HALF, STEPS, STEPS + HALF, 2 * STEPS]
    assert verify_checkpoint(run) == []


def test_a_fresh_start_sets_the_link_aside_and_leaves_what_it_points_to(finished, run, tmp_path, run_alone):
    (run / "checkpoints").rename(tmp_path / "scratch")
    (run / "checkpoints").symlink_to(Path("..") / "scratch")  # relative, so it must not simply be moved
    result = run_alone(finished / "c.yaml", f"run_dir={run}", "--fresh", f"schedule.total_steps={HALF}")
    assert result.code == 0, result.errors
    assert steps_of(run) == [HALF]
    assert steps_of(run / "set_aside" / "001") == [HALF, STEPS]
    assert verify_checkpoint(run / "set_aside" / "001") == []
    assert [path.name for path in sorted((tmp_path / "scratch").iterdir())][-1] == f"step_{STEPS:08d}"


def test_going_back_on_another_file_system_is_refused_before_anything_is_moved(finished, run, run_alone):
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == run.stat().st_dev:
        pytest.skip("/dev/shm is no other file system here")
    target = elsewhere / f"foreword-{time.time_ns()}"
    shutil.move(run / "checkpoints", target)
    (run / "checkpoints").symlink_to(target)
    try:
        result = run_alone(finished / "c.yaml", f"run_dir={run}", "--from", str(HALF))
        assert result.code == 2
        assert "on another file system than the run" in result.errors
        assert steps_of(run) == [HALF, STEPS]
        assert not (run / "set_aside").exists()
    finally:
        shutil.rmtree(target)


def test_a_run_that_was_copied_is_a_run_of_its_own(finished, run):
    """With its lease, which says of the copy what was true of the original."""
    config = train_config(run, finished / "corpus", schedule__total_steps=STEPS + HALF)
    assert train_all(1, config) == [[None]]
    assert steps_of(run) == [HALF, STEPS, STEPS + HALF]
    assert steps_of(finished / "run") == [HALF, STEPS]


# What lies in it


def test_strange_things_among_the_checkpoints_are_left_alone(finished, run):
    checkpoints = run / "checkpoints"
    (checkpoints / "step_00000002 (copy)").mkdir()
    (checkpoints / "notes.txt").write_text("keep this")
    (checkpoints / "step_00000007").write_text("a file")
    (checkpoints / "step_123456789012345678901").mkdir()
    (checkpoints / ".tmp-000099" / "step_00000008").mkdir(parents=True)
    (checkpoints / "latest").symlink_to(f"step_{STEPS:08d}")
    config = train_config(run, finished / "corpus", schedule__total_steps=STEPS + HALF)
    assert train_all(1, config) == [[None]]
    assert steps_of(run) == [HALF, STEPS, STEPS + HALF]
    assert (checkpoints / "notes.txt").read_text() == "keep this"
    assert find_checkpoint(checkpoints / "latest") == checkpoints / "latest"


def test_when_the_lease_was_removed_what_is_left_of_starts_with_higher_numbers_gets_into_no_checkpoint(finished, run):
    shutil.rmtree(run / ".lease")
    leftover = run / "checkpoints" / ".tmp-000001" / f"step_{STEPS + HALF:08d}"
    leftover.mkdir(parents=True)
    (leftover / "tp_00_dp_007.safetensors").write_bytes(b"of another time")
    config = train_config(run, finished / "corpus", schedule__total_steps=STEPS + HALF)
    assert train_all(1, config) == [[None]]
    assert [path.name for path in sorted((run / "checkpoints" / leftover.name).iterdir())] == [
        "foreword.json",
        "tp_00_dp_000.safetensors",
    ]


@pytest.mark.parametrize("name", ["config.yaml", "tokenizer", "metrics.jsonl", "start.json"])
def test_what_was_removed_of_a_run_by_hand_comes_again(finished, run, name):
    path = run / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    config = train_config(run, finished / "corpus", schedule__total_steps=STEPS + HALF)
    assert train_all(1, config) == [[None]]
    assert name == "start.json" or path.exists()
    assert sorted(step for step in curve(run) if step > STEPS) == list(range(STEPS + 1, STEPS + HALF + 1))


def test_a_run_that_was_longer_than_it_shall_be_now_ends_at_once_and_keeps_what_it_has(finished, run):
    assert train_all(1, train_config(run, finished / "corpus", schedule__total_steps=HALF)) == [[None]]
    assert steps_of(run) == [HALF, STEPS]
    assert curve(run) == curve(finished / "run")


# While it goes on


def train_and_lose(config, lost: str) -> tuple[str, float]:
    """After the third step somebody removes a part of the run; the error, and how long it took to come."""
    from pipeline.engine import Engine
    from pipeline.train import train

    steps, removed_at = 0, 0.0
    real_step = Engine.step

    def step(self, *args):
        nonlocal steps, removed_at
        steps += 1
        if steps == 4:
            removed_at = time.monotonic()
            shutil.rmtree(config.run_dir / lost)
        return real_step(self, *args)

    with mock.patch.object(Engine, "step", step):
        try:
            train(config)
        except ForewordError as error:
            return str(error), time.monotonic() - removed_at
    return "no error", 0.0


@pytest.mark.parametrize("lost", ["", ".lease"])
def test_a_run_whose_directory_disappears_ends_and_does_not_come_again(finished, tmp_path, lost):
    config = train_config(tmp_path / "run", finished / "corpus", schedule__total_steps=10_000)
    for message, seconds in run_distributed(1, train_and_lose, config, lost):
        assert "run/.lease: cannot be read: No such file or directory" in message
        assert seconds < 20
    assert not (tmp_path / "run" / ".lease").exists()


def test_checkpoints_that_disappear_are_missed_at_the_end_at_the_latest(finished, tmp_path):
    config = train_config(tmp_path / "run", finished / "corpus")
    ((message, _),) = run_distributed(1, train_and_lose, config, "checkpoints")
    assert "could not be written: No such file or directory" in message
    assert [record["step"] for record in records(tmp_path / "run") if record.get("event") == "failed_save"] != []
    assert sorted(curve(tmp_path / "run")) == list(range(1, STEPS + 1))


def train_with_a_jumping_clock(config) -> str | None:
    """The wall clock goes back a year after every step."""
    from pipeline.run import lease
    from pipeline.train import train

    now, real = [time.time()], time.time

    def jump() -> float:
        now[0] -= 365 * 86400
        return now[0]

    with mock.patch("time.time", jump), mock.patch.object(lease.time, "time_ns", lambda: int(jump() * 1e9)):
        try:
            train(config)
        except ForewordError as error:
            return str(error)
    assert real() > now[0]
    return None


def test_a_clock_that_jumps_disturbs_nothing(finished, tmp_path):
    config = train_config(tmp_path / "run", finished / "corpus", checkpoint__takeover_after_s=0.5)
    assert run_distributed(1, train_with_a_jumping_clock, config) == [None]
    assert curve(tmp_path / "run") == curve(finished / "run")
    assert verify_checkpoint(tmp_path / "run") == []
