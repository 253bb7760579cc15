"""Nobody trains in a world that is smaller or other than it thinks."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
import torch.distributed as dist

from foreword.errors import ProcessesApartError
from pipeline.distributed.meeting import Presence, disagreement, meet
from pipeline.distributed.placement import Placement
from pipeline.distributed.ranks import ranks
from slurm.job.port import reserve_port

PATIENCE = timedelta(seconds=4)


def meet_in_threads(*placements: Placement, devices: tuple[str, ...] = ()) -> list[str]:
    """What each of them meets with: "met", or its error. A store needs no process of its own."""
    everyone_is_done = threading.Barrier(len(placements))

    def one(placement: Placement, device: str) -> str:
        try:
            store = meet(placement, device, PATIENCE)
        except ProcessesApartError as error:
            return str(error)
        finally:
            everyone_is_done.wait()  # rank 0's store is the others' too
        assert store is not None
        return "met"

    with ThreadPoolExecutor(len(placements)) as pool:
        return list(pool.map(one, placements, devices or ["cpu"] * len(placements)))


@pytest.fixture
def first() -> Placement:
    return Placement(rank=0, world_size=3, local_rank=0, address="127.0.0.1", port=reserve_port(), job="job 7")


def of_rank(first: Placement, rank: int) -> Placement:
    return replace(first, rank=rank, local_rank=rank)


def test_all_that_were_planned_meet(first):
    assert meet_in_threads(first, of_rank(first, 1), of_rank(first, 2)) == ["met"] * 3


def test_those_that_do_not_come_are_named_to_all_that_have(first):
    waited_in_vain = meet_in_threads(first, of_rank(first, 1))
    assert len(set(waited_in_vain)) == 1
    assert "rank 2 of 3 did not come" in waited_in_vain[0]
    assert str(first.port) in waited_in_vain[0]


def test_without_rank_0_the_others_say_where_they_looked_for_it(first):
    (alone,) = meet_in_threads(of_rank(first, 1))
    assert f"could not meet the other processes at 127.0.0.1:{first.port}" in alone


def test_a_process_that_finds_another_job_at_its_port_leaves_and_the_job_does_not_notice(first):
    two = replace(first, world_size=2)
    stranger = replace(of_rank(two, 1), job="job 8")
    met, met_too, left = meet_in_threads(two, of_rank(two, 1), stranger)
    assert (met, met_too) == ("met", "met")
    assert "of job 7, and this one is of job 8" in left


def test_a_world_of_another_size_is_refused_by_all(first):
    smaller = replace(of_rank(first, 1), world_size=2)
    answers = meet_in_threads(first, smaller, of_rank(first, 2))
    assert len(set(answers)) == 1
    assert "rank 0" in answers[0]
    assert "is one of 3 processes, and rank 1" in answers[0]
    assert "is one of 2 processes" in answers[0]


def test_a_rank_that_the_first_does_not_wait_for_leaves(first):
    alone = replace(first, world_size=1)
    met, left = meet_in_threads(alone, replace(of_rank(first, 2), world_size=3))
    assert met == "met"
    assert "is one of 1 processes, and rank 2" in left


def test_processes_that_torchrun_starts_again_meet_again_in_the_store_that_it_keeps(first):
    kept = dist.TCPStore(first.address, first.port, is_master=True, wait_for_workers=False)
    for restart in (0, 1):
        again = replace(first, world_size=2, job=f"torchrun job x, restart {restart}", launcher_listens=True)
        assert meet_in_threads(again, of_rank(again, 1)) == ["met", "met"]
    assert kept.num_keys() > 0


def test_two_processes_of_the_same_rank_are_refused():
    first = Presence(0, 2, "node1", "cpu", "")
    twins = [replace(first, rank=1, host=host) for host in ("node3", "node2")]
    assert disagreement({0: [first], 1: twins}) == "2 processes say that they are rank 1, on node2 and node3"


def test_a_node_whose_gpus_are_gone_does_not_train_on_its_processor_beside_the_others(first):
    answers = meet_in_threads(
        replace(first, world_size=2), replace(of_rank(first, 1), world_size=2), devices=("cuda", "cpu")
    )
    assert len(set(answers)) == 1
    assert "trains on cuda, and rank 1" in answers[0]


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([3], "rank 3"),
        ([3, 4, 7], "ranks 3, 4 and 7"),
        (range(20), f"ranks {', '.join(map(str, range(16)))} and 4 more"),
    ],
)
def test_ranks_are_named_and_of_very_many_the_first(numbers, words):
    assert ranks(numbers) == words
