"""A process that does not go on ends by itself, with its stacks and the name of who holds it up; others do not."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from foreword.config import validate
from pipeline.config.run import WatchdogConfig
from pipeline.run.lease import acquire
from pipeline.telemetry.clock import Clock
from pipeline.watchdog.heartbeat import read_heartbeats
from pipeline.watchdog.watchdog import LOOKS, Watchdog

LIMIT_S = 0.5
PATIENT_S = 60.0
START = "20260301T101200-3f2a"
JOB = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "2", "SLURMD_NODENAME": "node5"}


def config(**timeouts: float) -> WatchdogConfig:
    patient = dict.fromkeys(("start_up", "step", "evaluation", "save"), PATIENT_S)
    return validate({"timeout_s": patient | timeouts}, WatchdogConfig)


def wait_in_a_recognisable_place() -> None:
    time.sleep(PATIENT_S)


def one_rank(run_dir: Path, rank: int, hangs_in: str, warm: bool = True, limit_s: float = LIMIT_S) -> None:
    """Goes through the parts of steps until it hangs in one of them."""
    clock = Clock()
    with Watchdog(config(step=limit_s), run_dir, START, rank, 2, clock, JOB) as watchdog:
        watchdog.begin_heartbeats(1)
        clock.go_over_to("training")
        if warm:
            watchdog.step(3)
        while True:
            with clock.spent_on("data_wait"):
                if hangs_in == "data_wait":
                    wait_in_a_recognisable_place()
            if hangs_in == "training":
                wait_in_a_recognisable_place()
            time.sleep(LIMIT_S / 100)


@pytest.fixture
def run_dir(tmp_path):
    with acquire(tmp_path, 60.0, {}):  # the first start: number 1
        yield tmp_path


@pytest.fixture
def start():
    processes = []

    def start_process(function: Callable[..., None], *args: object) -> BaseProcess:
        processes.append(multiprocessing.get_context("fork").Process(target=function, args=args))
        processes[-1].start()
        return processes[-1]

    yield start_process
    for process in processes:
        process.kill()


def exit_codes(*processes: BaseProcess) -> list[int | None]:
    for process in processes:
        process.join(20)
    return [process.exitcode for process in processes]


def verdict(run_dir: Path) -> dict:
    return json.loads((run_dir / "hangs" / START / "verdict.json").read_text())


def test_ranks_that_wait_for_one_end_with_76_and_name_it(run_dir, start, capfd):
    assert exit_codes(start(one_rank, run_dir, 0, "training"), start(one_rank, run_dir, 1, "data_wait")) == [76, 76]
    (laggard,) = verdict(run_dir)["laggards"]
    assert laggard == {"rank": 1, "host": "node5", "reason": "is behind the others: step 3, data_wait"}
    assert (verdict(run_dir)["job"], verdict(run_dir)["restart"]) == ("7", 2)
    for rank in (0, 1):
        assert "in wait_in_a_recognisable_place" in (run_dir / "hangs" / START / f"rank_0000{rank}.txt").read_text()
    said = capfd.readouterr().err
    assert said.count("watchdog: no progress for 0.5 s at step 3") == 1
    assert "rank 1 on node5 is behind the others" in said


def test_a_stopped_process_is_named_by_the_others(run_dir, start):
    stopped = start(one_rank, run_dir, 1, "training", True, 10 * LIMIT_S)  # it shall not notice before it is stopped
    while (beat := read_heartbeats(run_dir / ".lease/000001/heartbeats").get(1)) is None or beat.step < 3:
        time.sleep(0.01)
    os.kill(stopped.pid, signal.SIGSTOP)
    assert exit_codes(start(one_rank, run_dir, 0, "training")) == [76]
    assert stopped.is_alive()
    (laggard,) = verdict(run_dir)["laggards"]
    assert (laggard["rank"], laggard["host"]) == (1, "node5")
    assert laggard["reason"].startswith("does not answer; its last heartbeat was at step 3")


def in_a_long_step(run_dir: Path, limit_s: float) -> None:
    clock = Clock()
    with Watchdog(config(step=limit_s), run_dir, START, 0, 1, clock, JOB) as watchdog:
        watchdog.begin_heartbeats(1)
        watchdog.step(1)
        clock.go_over_to("training")
        (run_dir / "in a step").touch()
        while not (run_dir / "go on").exists():
            time.sleep(limit_s / 100)
        time.sleep(limit_s / 10)


def test_a_job_that_was_suspended_for_longer_than_a_step_may_take_is_not_stuck(run_dir, start):
    process = start(in_a_long_step, run_dir, 2 * LIMIT_S)
    while not (run_dir / "in a step").exists():
        time.sleep(0.01)
    time.sleep(0.6 * LIMIT_S)  # it has been looked at once
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(3 * LIMIT_S)
    (run_dir / "go on").touch()
    os.kill(process.pid, signal.SIGCONT)
    assert exit_codes(process) == [0]


def test_the_first_heartbeat_comes_at_once(run_dir):
    with Watchdog(config(), run_dir, START, 0, 1, Clock(), JOB) as watchdog:
        watchdog.begin_heartbeats(1)
        deadline = time.monotonic() + PATIENT_S / LOOKS / 2
        while not read_heartbeats(run_dir / ".lease/000001/heartbeats"):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_before_the_first_step_there_is_more_time(run_dir, start):
    process = start(one_rank, run_dir, 0, "training", False)
    time.sleep(3 * LIMIT_S)
    assert process.is_alive()


def test_a_process_that_moves_is_left_alone_and_takes_its_heartbeat_with_it(run_dir):
    clock = Clock()
    heartbeats = run_dir / ".lease/000001/heartbeats"
    with Watchdog(config(step=LIMIT_S), run_dir, START, 0, 1, clock, JOB) as watchdog:
        watchdog.begin_heartbeats(1)
        for step in range(1, 16):
            clock.go_over_to("data_wait")
            clock.go_over_to("training")
            watchdog.step(step)
            time.sleep(LIMIT_S / 5)
        beat = read_heartbeats(heartbeats)[0]
        assert beat.step > 5
        assert beat.beats > 5
        clock.go_over_to("saving")  # has a limit of its own
        time.sleep(2 * LIMIT_S)
        clock.go_over_to("training")
        watchdog.close()
        time.sleep(2 * LIMIT_S)
    assert read_heartbeats(heartbeats) == {}


def test_without_times_nothing_is_watched(run_dir):
    with Watchdog(WatchdogConfig(timeout_s=None), run_dir, START, 0, 1, Clock(), JOB) as watchdog:
        watchdog.begin_heartbeats(1)
        watchdog.step(1)
    assert not (run_dir / ".lease/000001/heartbeats").exists()


def before_the_lease(run_dir: Path, rank: int) -> None:
    with Watchdog(config(start_up=LIMIT_S), run_dir, START, rank, 2, Clock(), JOB):
        wait_in_a_recognisable_place()


def test_processes_that_hang_before_they_hold_the_run_are_named_too(tmp_path, start, capfd):
    run_dir = tmp_path / "not made yet"
    processes = [start(before_the_lease, run_dir, rank) for rank in (0, 1)]
    assert exit_codes(*processes) == [76, 76]
    assert capfd.readouterr().err.count("watchdog: no progress for 0.5 s at step 0 (start_up)") == 1
    stacks = sorted((run_dir / "hangs" / START).glob("*.txt"))
    assert ["in wait_in_a_recognisable_place" in path.read_text() for path in stacks] == [True, True]


def test_it_ends_even_when_it_cannot_write_what_it_knows(run_dir, start, capfd):
    (run_dir / "hangs").write_text("in the way")
    assert exit_codes(start(one_rank, run_dir, 0, "training")) == [76]
    assert "in wait_in_a_recognisable_place" in capfd.readouterr().err
