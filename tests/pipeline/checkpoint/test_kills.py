"""Killed at any point of a save, alone or all together: training continues from a complete checkpoint, and never hangs.

A rank is killed (SIGKILL, by itself) right before the file operation of a save that the seed has chosen for it.
"""

import os
import random
import re
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest
from processes import run_distributed, run_until_one_dies
from tiny_corpus import make_corpus
from training import curve, records, train_all, train_config
from watched import train_watched

from pipeline.checkpoint.find import all_checkpoints, complete_checkpoints
from pipeline.checkpoint.inspect import verify_checkpoint
from pipeline.checkpoint.workspace import TEMPORARY_PREFIX
from pipeline.run.start import Start

KILLS = 50
INTERVAL = 2  # steps between saves
FOREVER = 10_000
HANGS_AFTER_S = 60.0


def run_config(run_dir: Path, corpus: Path, total_steps: int):
    return train_config(
        run_dir,
        corpus,
        schedule={"kind": "constant", "warmup_steps": 1, "total_steps": total_steps},
        checkpoint={"every_steps": INTERVAL, "keep_last": 2, "takeover_after_s": 1.0},
        evaluation__every_steps=None,
    )


def operations_of_a_run(config) -> list[str]:
    told: list[str] = []
    train_watched(config, Start(), lambda event, path: told.append(f"{event} {Path(path).name}"), among="checkpoints")
    return told


def train_and_be_killed(config, victim: int, number: int, note: Path) -> None:
    """Train; `victim` dies before its operation `number`, and has written down which that was."""
    counter, lock = Counter(), threading.Lock()

    def count(event: str, path: str) -> None:
        if int(os.environ["RANK"]) == victim:
            with lock:
                counter["operations"] += 1
                if counter["operations"] == number:
                    note.write_text(f"{event} {path}")
                    os.kill(os.getpid(), signal.SIGKILL)

    train_watched(config, Start(), count, among="checkpoints")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus")).path


@pytest.fixture(scope="module")
def operations(corpus, tmp_path_factory) -> list[list[str]]:
    """For each rank what it does with files while three checkpoints are saved and the first of them is removed."""
    run = tmp_path_factory.mktemp("watched") / "run"
    return run_distributed(2, operations_of_a_run, run_config(run, corpus, 3 * INTERVAL))


def test_a_save_has_points_of_every_kind(operations):
    kinds = [{operation.split()[0] for operation in of_rank} for of_rank in operations]
    assert kinds[0] >= {"write", "open", "os.mkdir", "os.rename", "os.remove", "os.scandir", "os.rmdir"}
    assert kinds[1] >= {"write", "open", "os.mkdir"}
    assert any("foreword.json" in operation for operation in operations[0])


@pytest.mark.slow
def test_fifty_kills_lose_no_more_than_one_interval_and_leave_the_curve_as_it_is(corpus, operations, tmp_path):
    draw = random.Random(2026)
    run, note = tmp_path / "run", tmp_path / "note"
    where: Counter[str] = Counter()
    newest = 0
    for kill in range(KILLS):
        victim, kill_all = kill % 2, kill % 4 >= 2
        number = draw.randint(1, len(operations[victim]))
        arguments = run_config(run, corpus, FOREVER), victim, number, note
        ended = run_until_one_dies(2, train_and_be_killed, *arguments, kill_all=kill_all, timeout_s=HANGS_AFTER_S)

        killed_at = note.read_text()
        note.unlink()
        assert ended[victim].exit_code == -signal.SIGKILL, killed_at
        if kill_all:
            assert ended[1 - victim].exit_code == -signal.SIGKILL, killed_at
        before, newest = newest, max((step for step, _ in complete_checkpoints(run)), default=0)
        assert len(all_checkpoints(run)) == len(complete_checkpoints(run)), killed_at
        assert newest == 0 or verify_checkpoint(run) == [], killed_at
        assert newest >= before, killed_at
        being_saved = [int(step) for step in re.findall(r"step_(\d+)", killed_at)]
        assert all(newest >= step - INTERVAL for step in being_saved), killed_at
        told = records(run) if (run / "metrics.jsonl").exists() else []
        assert all(record["step"] <= newest for record in told if record.get("event") == "checkpoint"), killed_at
        # of the steps that are lost, some were taken while the save was in flight
        assert all(record["step"] <= newest + 2 * INTERVAL for record in told), killed_at
        where[re.sub(r"[0-9a-f]{32}|\d+", "N", re.sub(r".*/", "", killed_at)) + killed_at.split()[0]] += 1

    assert len(where) >= 10, where
    starts = [record["step"] for record in records(run) if record.get("event") == "start"]
    assert starts == sorted(starts)
    assert newest >= 10 * INTERVAL
    end = newest + 2 * INTERVAL
    assert train_all(2, run_config(run, corpus, end)) == [[None], [None]]
    assert not list((run / "checkpoints").glob(f"{TEMPORARY_PREFIX}*"))
    assert train_all(2, run_config(tmp_path / "whole", corpus, end)) == [[None], [None]]
    assert curve(run) == curve(tmp_path / "whole")
