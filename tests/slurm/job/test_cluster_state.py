"""Slurm's own words, read."""

import pytest

from slurm.job.cluster_state import JobState, Node, Queue, read_nodes

# as Slurm 22.05 prints it, shortened
SHOWN = (
    "JobId=7 JobName=it's a=b Priority=42 JobState={state} Reason={reason} Dependency=(null) Requeue={requeue} "
    "Restarts={restarts} BatchFlag=1 ExitCode=0:0 ReqNodeList=node2 ExcNodeList=node[1,4-5] NodeList=node[2-3] "
    "Features=a&b DelayBoot=00:00:00"
)


def shown(state="RUNNING", reason="None", requeue=1, restarts=0) -> str:
    return SHOWN.format(state=state, reason=reason, requeue=requeue, restarts=restarts)


@pytest.mark.parametrize(
    ("text", "queue"),
    [
        (shown(), Queue.RUNNING),
        (shown("COMPLETING"), Queue.ENDING),  # scancel
        (shown("CANCELLED"), Queue.ENDING),
        (shown(requeue=0), Queue.ENDING),  # foreword cancel
        (shown("COMPLETING", "TimeLimit"), Queue.OUT_OF_TIME),
        (shown("TIMEOUT"), Queue.OUT_OF_TIME),
        (shown("COMPLETING", restarts=1), Queue.REQUEUED),
        (shown("PENDING", "BeginTime", restarts=1), Queue.REQUEUED),
        (shown(restarts=1), Queue.RUNS_AGAIN),
        ("", Queue.UNKNOWN),
        ("slurm_load_jobs error: Unable to contact slurm controller", Queue.UNKNOWN),
    ],
)
def test_where_the_queue_has_the_first_start_of_a_job(text, queue):
    assert JobState.read(text, restarts=0).queue is queue


def test_a_later_start_is_told_from_an_earlier_one():
    assert JobState.read(shown(restarts=2), restarts=2).queue is Queue.RUNNING
    assert JobState.read(shown(restarts=3), restarts=2).queue is Queue.RUNS_AGAIN


def test_what_a_job_asks_of_nodes_and_which_it_avoids():
    job = JobState.read(shown(), restarts=0)
    assert job.features == "a&b"
    assert job.required == ("node2",)
    assert job.excluded == ("node1", "node4", "node5")


def test_nodes_and_their_states():
    lines = ["n1 idle (null)\n", "n2 mixed fast,new\n", "n3 down* (null)\n", "n4 draining\n", "n5 idle~ slow\n", "\n"]
    nodes = read_nodes([*lines, "n6 not_responding* x"])
    assert {name for name, node in nodes.items() if node.is_usable} == {"n1", "n2", "n5"}
    assert {name for name, node in nodes.items() if node.is_dead} == {"n3", "n6"}  # n4 is kept back, not dead
    assert nodes["n2"].features == {"fast", "new"}


@pytest.mark.parametrize(
    ("constraint", "offers"), [("", True), ("fast", True), ("fast&new", True), ("fast&old", False), ("[a*2|b]", True)]
)
def test_a_constraint_is_read_where_it_is_a_list(constraint, offers):
    assert Node("n1", "idle", frozenset({"fast", "new"})).offers(constraint) is offers
