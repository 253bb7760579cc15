"""All processes of a job together."""

import pytest
from processes import run_distributed

from slurm.preflight.all_reduce import bus_bandwidth


def test_the_bandwidth_of_the_bus_does_not_depend_on_how_many_share_it() -> None:
    assert bus_bandwidth(100, 2.0, 2) == 50.0  # half of it to the other, and the other half of the sum back
    assert bus_bandwidth(100, 2.0, 10**9) == pytest.approx(100.0)
    assert bus_bandwidth(100, 2.0, 1) == 0.0


def reduced(patience_s: float) -> tuple[bool, str]:
    import os
    from datetime import timedelta

    from pipeline.distributed.placement import find_placement
    from slurm.preflight.all_reduce import all_reduce

    return all_reduce(find_placement(os.environ), timedelta(seconds=patience_s))


def test_processes_that_find_each_other_sum_right_and_say_how_fast() -> None:
    for problem, found in run_distributed(2, reduced, 60.0):
        assert not problem
        assert "2 processes sum right" in found
        assert "GB/s bus bandwidth over gloo" in found


def reduced_without_the_last() -> tuple[bool, str] | None:
    import os

    return None if os.environ["RANK"] == "1" else reduced(3.0)


def test_processes_that_do_not_find_each_other_say_who_is_missing() -> None:
    (problem, found), _ = run_distributed(2, reduced_without_the_last)
    assert problem
    assert "rank 1 of 2 did not come" in found
