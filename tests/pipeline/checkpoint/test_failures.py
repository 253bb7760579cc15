"""What goes wrong on one rank while a checkpoint is saved or loaded goes wrong on all, at once and with its message.

An error of the disk fails the save and not the run, as long as there is another save to come; a bug ends the run.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
from processes import run_distributed
from training import HALF, STEPS, curve, finished_run, records, train_all, train_config

from foreword.errors import CheckpointError, ForewordError
from pipeline.checkpoint.find import complete_checkpoints
from pipeline.checkpoint.inspect import verify_checkpoint

SECONDS = 30.0  # of which most are the import and the set-up of two ranks on a busy machine


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A finished run on two processes, `run`, and its corpus."""
    return finished_run(tmp_path_factory.mktemp("finished"), 2)


# What is broken on one rank: (what to patch, what it raises, on which of its calls)


def broken(name: str, error: Exception, calls: tuple[int, ...]) -> Callable:
    """A patch of `name`, which raises `error` in the given calls, counted from 0."""
    module, _, function = name.rpartition(".")
    real = getattr(__import__(module, fromlist=[function]), function)
    count = iter(range(10**9))

    def call(*args, **keywords):
        if next(count) in calls:
            raise error
        return real(*args, **keywords)

    return mock.patch(name, call)


def train_broken(config, rank: int, name: str, error: Exception, calls: tuple[int, ...]) -> tuple[str, int, float]:
    """Train with something broken on one rank; the error, its exit code, and the seconds since it was raised."""
    import pipeline.train

    if int(os.environ["RANK"]) == rank:
        broken(name, error, calls).start()
    started = time.monotonic()
    try:
        pipeline.train.train(config)
    except ForewordError as raised:
        return str(raised), raised.exit_code, time.monotonic() - started
    return "", 0, time.monotonic() - started


DISK_FULL = OSError(28, "No space left on device")
BUG = ZeroDivisionError("a recognisable bug")
WRITE, PUBLISH, COPY = (
    "pipeline.checkpoint.save.write_and_hash",
    "pipeline.checkpoint.save.write_meta",
    "pipeline.checkpoint.save.fragments_of",
)
READ = "pipeline.checkpoint.restore.read_meta"


@pytest.mark.parametrize(("name", "rank"), [(WRITE, 0), (WRITE, 1), (PUBLISH, 0)])
def test_a_rank_that_cannot_save_fails_the_save_on_all_and_training_goes_on(finished, tmp_path, name, rank):
    run = tmp_path / "run"
    config = train_config(run, finished / "corpus")
    outcomes = run_distributed(2, train_broken, config, rank, name, DISK_FULL, (0,))
    assert [(message, code) for message, code, _ in outcomes] == [("", 0)] * 2
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step_{STEPS:08d}"]
    assert verify_checkpoint(run) == []
    assert curve(run) == curve(finished / "run")
    (failure,) = [record for record in records(run) if record.get("event") == "failed_save"]
    assert "could not be written: No space left on device" in failure["error"]
    assert f"(rank {rank})" in failure["error"]
    assert HALF <= failure["step"] <= STEPS  # heard of at the end of a step, while training goes on


@pytest.mark.parametrize(("name", "rank"), [(WRITE, 1), (PUBLISH, 0)])
def test_a_run_whose_last_save_fails_ends_on_all_ranks_with_that_ranks_message(finished, tmp_path, name, rank):
    run = tmp_path / "run"
    outcomes = run_distributed(
        2, train_broken, train_config(run, finished / "corpus"), rank, name, DISK_FULL, (1,), timeout_s=SECONDS
    )
    (message, code), other = [(message, code) for message, code, _ in outcomes]
    assert other == (message, code)
    assert code == CheckpointError.exit_code
    assert "could not be written: No space left on device" in message
    assert f"(rank {rank})" in message
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step_{HALF:08d}"]
    assert verify_checkpoint(run) == []


@pytest.mark.parametrize(("name", "rank", "call"), [(COPY, 1, 1), (WRITE, 1, 0), (WRITE, 0, 0), (PUBLISH, 0, 0)])
def test_a_bug_of_one_rank_in_a_save_ends_all_with_its_message(finished, tmp_path, name, rank, call):
    run = tmp_path / "run"
    config = train_config(run, finished / "corpus", schedule__total_steps=10_000)  # it would take minutes
    outcomes = run_distributed(2, train_broken, config, rank, name, BUG, (call,), timeout_s=SECONDS)
    for message, code, _ in outcomes:
        assert message.startswith(f"rank {rank}: ZeroDivisionError: a recognisable bug")
        assert code == 1
    assert max(record["step"] for record in records(run)) < 1000
    assert list((run / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    ("error", "rank", "expected", "code"),
    [
        (CheckpointError("torn", where="a file", remedy="copy it"), 1, "a file: torn (rank 1)\n  -> copy it", 3),
        (BUG, 0, "rank 0: ZeroDivisionError: a recognisable bug", 1),
        (BUG, 1, "rank 1: ZeroDivisionError: a recognisable bug", 1),
    ],
)
def test_a_rank_that_cannot_load_ends_all_with_its_message(finished, tmp_path, error, rank, expected, code):
    run = shutil.copytree(finished / "run", tmp_path / "run")
    config = train_config(run, finished / "corpus", schedule__total_steps=10_000)
    outcomes = run_distributed(2, train_broken, config, rank, READ, error, (0,), timeout_s=SECONDS)
    for message, found, _ in outcomes:
        assert message.startswith(expected)
        assert found == code
    assert [step for step, _ in complete_checkpoints(run)] == [HALF, STEPS]


# Disks


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A file system of 2 MiB; the tests below fill it, or make it read-only."""
    path = tmp_path / "disk"
    path.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", path], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def remount(disk: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", disk], check=True)


def test_a_full_disk_fails_saves_and_keeps_the_run_and_the_old_checkpoints(finished, disk, tmp_path):
    run, corpus = disk / "run", finished / "corpus"
    changes = {"schedule": {"kind": "constant", "total_steps": 16}, "checkpoint__every_steps": 2}
    ((error,), (other,)) = train_all(2, train_config(run, corpus, **changes))
    assert error == other
    assert "could not be written: No space left on device" in error
    assert "earlier checkpoints are untouched; make room and resume" in error
    failed = [record for record in records(run) if record.get("event") == "failed_save"]
    assert len(failed) >= 2
    assert sorted(curve(run)) == list(range(1, 17))  # to its end, every step of it on record
    saved = [step for step, _ in complete_checkpoints(run)]
    assert saved == list(range(2, 2 * len(saved) + 1, 2))
    assert 2 <= len(saved) < 8
    assert verify_checkpoint(run) == []

    remount(disk, "size=20m")
    assert train_all(2, train_config(run, corpus, **changes)) == [[None], [None]]
    start = [record for record in records(run) if record.get("event") == "start"][-1]
    assert start["step"] == saved[-1]
    assert train_all(2, train_config(tmp_path / "whole", corpus, **changes)) == [[None], [None]]
    assert curve(run) == curve(tmp_path / "whole")


def test_a_disk_that_is_full_at_the_start_is_named(finished, disk):
    with pytest.raises(OSError, match="No space left"):
        (disk / "filler").write_bytes(bytes(2**22))
    (error,) = train_all(1, train_config(disk / "run", finished / "corpus"))[0]
    assert error is not None
    assert "cannot be written: No space left on device" in error


@pytest.mark.parametrize("part", ["", "checkpoints"])
def test_a_read_only_directory_is_named(finished, disk, tmp_path, part):
    run = tmp_path / "run"
    shutil.copytree(finished / "run", disk / "run")
    if part:
        shutil.copytree(finished / "run", run)
        shutil.rmtree(run / part)
        (run / part).symlink_to(disk / "run" / part)
    else:
        run.symlink_to(disk / "run")
    remount(disk, "ro")
    config = train_config(run, finished / "corpus", schedule__total_steps=2 * STEPS)
    for error in train_all(2, config):
        assert "Read-only file system" in error[0]
        assert str(run) in error[0]
