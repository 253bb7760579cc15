"""Which end of a start brings a job back, and when."""

import pytest

from slurm.events import JobEvent
from slurm.job.cluster_state import Queue
from slurm.job.policy import FAILURES, MAX_DELAY_S, End, Limits, decide

LIMITS = Limits(max_restarts=100, max_failures=3, delay_s=60.0)
CRASH = End(1, Queue.RUNNING)


def failures(*checkpoint_steps: int | None, kind: str = "crashed") -> list[JobEvent]:
    return [JobEvent(time=0.0, job_id="7", event=kind, checkpoint_step=step) for step in checkpoint_steps]


def decided(end: End, history=(), checkpoint_step=None, restarts=0, limits=LIMITS):
    return decide(end, history, checkpoint_step, restarts, limits)


@pytest.mark.parametrize(("code", "event"), [(0, "finished"), (2, "failed"), (3, "failed")])
@pytest.mark.parametrize("queue", [Queue.RUNNING, Queue.ENDING, Queue.OUT_OF_TIME, Queue.REQUEUED])
def test_what_is_finished_or_cannot_be_mended_by_another_start_ends(code, event, queue):
    decision = decided(End(code, queue))
    assert (decision.event, decision.action, decision.gives_up) == (event, "end", False)


def test_a_stop_with_a_checkpoint_comes_back_at_once_however_often_it_failed_before():
    decision = decided(End(75, Queue.RUNNING), failures(None, None, None, None), None)
    assert (decision.event, decision.action, decision.delay_s) == ("stopped", "requeue", 0)


@pytest.mark.parametrize(
    ("end", "event", "reason"),
    [
        (CRASH, "crashed", "exit code 1"),
        (End(137, Queue.RUNNING), "crashed", "SIGKILL (out of memory?)"),
        (End(200, Queue.RUNNING), "crashed", "exit code 200"),
        (End(None, Queue.RUNNING), "crashed", "ended without a word"),
        (End(76, Queue.RUNNING), "hung", "did not come together"),
        (End(137, Queue.RUNNING, hung=True, detail="rank 1 on node2 does not answer"), "hung", "rank 1 on node2"),
        (End(76, Queue.RUNNING, True, detail="node2: 7 of 8 GPUs"), "preflight_failed", "node2: 7 of 8 GPUs"),
        (End(1, Queue.RUNNING, dead_nodes=("node2",)), "crashed", "node failure: node2"),
        (End(143, Queue.OUT_OF_TIME), "crashed", "time limit came before a checkpoint"),
    ],
)
def test_a_failure_comes_back_after_a_while(end, event, reason):
    decision = decided(end)
    assert (decision.event, decision.action, decision.delay_s) == (event, "requeue", 60.0)
    assert reason in decision.reason


def test_the_while_doubles_with_every_failure_without_a_new_checkpoint_and_then_it_gives_up():
    delays = [decided(CRASH, failures(*[20] * before), 20).delay_s for before in range(3)]
    assert delays == [60, 120, 240]
    last = decided(CRASH, failures(20, 20, 20), 20)
    assert (last.event, last.action, last.gives_up) == ("crashed", "end", True)
    assert "4 failures without a new checkpoint; 3 are allowed" in last.outlook
    patient = Limits(max_restarts=100, max_failures=50, delay_s=60.0)
    assert decided(CRASH, failures(*[20] * 30), 20, limits=patient).delay_s == MAX_DELAY_S


def test_a_new_checkpoint_starts_the_count_again():
    assert decided(CRASH, failures(None, None, None), 20).delay_s == 60
    assert decided(CRASH, failures(20, 20, 20, 40), 40).delay_s == 120


def test_all_kinds_of_failures_count_and_what_lies_between_them_does_not():
    history = [event for kind in FAILURES for event in failures(20, kind=kind)]
    between = [JobEvent(time=0.0, job_id="7", event=kind) for kind in ("started", "requeued", "stopped")]
    mixed = [event for failure in history for event in (*between, failure)]
    assert decided(CRASH, mixed, 20).gives_up


def test_restarts_are_bounded_whatever_their_reason():
    limits = Limits(max_restarts=5, max_failures=3, delay_s=60.0)
    for end in (CRASH, End(75, Queue.RUNNING)):
        assert decided(end, restarts=4, limits=limits).action == "requeue"
        last = decided(end, restarts=5, limits=limits)
        assert (last.action, last.gives_up) == ("end", True)
        assert "5 restarts" in last.outlook


@pytest.mark.parametrize("code", [1, 75, 76, 137, 143])
def test_a_cancelled_job_does_not_come_back(code):
    decision = decided(End(code, Queue.ENDING))
    assert (decision.event, decision.action) == ("cancelled", "end")


def test_a_job_that_is_in_the_queue_again_is_left_there_and_only_its_next_start_is_adjusted():
    preempted = decided(End(143, Queue.REQUEUED))
    assert (preempted.event, preempted.action, preempted.delay_s) == ("stopped", "adjust", 0)
    died = decided(End(143, Queue.REQUEUED, dead_nodes=("node2",)), failures(None))
    assert (died.event, died.action, died.delay_s) == ("crashed", "adjust", 120)
    too_often = decided(End(143, Queue.REQUEUED, dead_nodes=("node2",)), failures(None, None, None))
    assert (too_often.action, too_often.gives_up) == ("cancel", True)


@pytest.mark.parametrize("code", [0, 1, 2, 75, 76])
def test_a_start_that_was_cut_off_leaves_no_word(code):
    decision = decided(End(code, Queue.RUNS_AGAIN))
    assert (decision.event, decision.action) == (None, "end")


@pytest.mark.parametrize("code", [1, 75, 76])
def test_without_an_answer_from_slurm_nothing_is_asked_of_it(code):
    assert decided(End(code, Queue.UNKNOWN)).action == "end"
