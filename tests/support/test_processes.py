"""The helper that starts ranks: results in rank order, a failing rank's own traceback, no waiting for the dead."""

import os
import time

import pytest
from processes import RankError, run_distributed


def rank_and_world(offset: int) -> tuple[int, int, str]:
    return int(os.environ["RANK"]) + offset, int(os.environ["WORLD_SIZE"]), os.environ["OMP_NUM_THREADS"]


def fail_on_last_rank_while_others_wait() -> None:
    if int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1:
        raise ValueError("a recognisable mistake")
    time.sleep(60)


def die_silently() -> None:
    os._exit(7)


def sleep_long() -> None:
    time.sleep(60)


def test_results_come_back_in_rank_order() -> None:
    assert run_distributed(2, rank_and_world, 10) == [(10, 2, "1"), (11, 2, "1")]


def test_a_failing_rank_is_reported_with_its_traceback_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(RankError, match=r"rank 1 raised[\s\S]*a recognisable mistake"):
        run_distributed(2, fail_on_last_rank_while_others_wait)
    assert time.monotonic() - started < 30


def test_a_rank_that_dies_is_noticed() -> None:
    with pytest.raises(RankError, match="died"):
        run_distributed(1, die_silently)


def test_a_rank_that_hangs_is_ended() -> None:
    with pytest.raises(RankError, match="no answer in time"):
        run_distributed(1, sleep_long, timeout_s=3.0)
