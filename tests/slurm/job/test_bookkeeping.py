"""What a start of a job writes down, and what its script is told to do."""

import json
from pathlib import Path

import pytest
from tiny_checkpoint import make_checkpoint
from training import train_config

from foreword.errors import MachineError
from pipeline.watchdog.verdict import Laggard, Verdict, write_verdict
from slurm.events import append_event
from slurm.job.bookkeeping import Instruction, ThisStart, begin, end
from slurm.job.cluster_state import JobState, Node, Queue
from slurm.job.policy import Limits
from slurm.job.suspects import read_suspects
from slurm.preflight.report import result_path

LIMITS = Limits(max_restarts=10, max_failures=2, delay_s=60.0)
RUNNING = JobState(Queue.RUNNING)


def nodes(*dead: str) -> dict[str, Node]:
    names = ("n1", "n2", "n3", "n4")
    return {name: Node(name, "down*" if name in dead else "idle", frozenset()) for name in names}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "slurm").mkdir()
    append_event(tmp_path, "6", "crashed", checkpoint_step=None)  # of another job: counts for nothing
    return tmp_path


def start(run_dir: Path, restarts: int = 0) -> ThisStart:
    return ThisStart(run_dir, "7", restarts, ("n1", "n2"))


def ended(run_dir: Path, exit_code: int, restarts: int = 0, job: JobState = RUNNING, **changes) -> Instruction:
    settled = {"preflight_failed": False, "nodes": nodes(), "limits": LIMITS}
    return end(start(run_dir, restarts), exit_code=exit_code, job=job, **settled | changes)


def events(run_dir: Path, *keys: str) -> list[tuple]:
    """Of job 7, in order: restart, event, and what `keys` say."""
    lines = map(json.loads, (run_dir / "slurm/jobs.jsonl").read_text().splitlines())
    own = [event for event in lines if event["job_id"] == "7"]
    return [(event["restart"], event["event"], *(event.get(key) for key in keys)) for event in own]


def test_a_start_is_told_from_its_environment(run_dir):
    environment = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "3", "SLURM_JOB_NODELIST": "n[1-2]"}
    assert ThisStart.of(run_dir, environment) == start(run_dir, 3)
    assert ThisStart.of(run_dir, environment | {"SLURM_RESTART_COUNT": ""}).restarts == 0
    with pytest.raises(MachineError, match="SLURM_JOB_ID is not set"):
        ThisStart.of(run_dir, {})


def test_a_run_that_finishes(run_dir):
    assert begin(start(run_dir), nodes(), LIMITS) is None
    make_checkpoint(run_dir, 40, config=train_config(run_dir, run_dir))
    assert ended(run_dir, 0).line() == "end"
    assert events(run_dir, "exit_code", "checkpoint_step", "nodes") == [
        (0, "started", None, None, ["n1", "n2"]),
        (0, "finished", 0, 40, []),
    ]


def test_a_crash_comes_back_after_a_while_and_at_last_gives_up(run_dir):
    lines = []
    for restarts in range(3):
        begin(start(run_dir, restarts), nodes(), LIMITS)
        lines.append(ended(run_dir, 1, restarts).line())
    assert lines == ["requeue StartTime=now+60", "requeue StartTime=now+120", "end"]
    again, last = ["started", "crashed", "requeued"], ["started", "crashed", "gave_up"]
    assert [event[1] for event in events(run_dir)] == [*again, *again, *last]


def test_a_start_whose_end_nobody_wrote_down_is_written_down_by_the_next(run_dir):
    begin(start(run_dir), nodes(), LIMITS)
    assert begin(start(run_dir, 1), nodes("n2"), LIMITS) is None
    assert events(run_dir, "reason", "nodes") == [
        (0, "started", None, ["n1", "n2"]),
        (0, "crashed", "node failure: n2", ["n2"]),
        (1, "started", None, ["n1", "n2"]),
    ]
    assert [(suspect.node, suspect.reason) for suspect in read_suspects(run_dir)] == [("n2", "died under job 7")]


def test_a_job_that_ends_without_a_word_again_and_again_gives_up(run_dir):
    for restarts in range(3):
        assert begin(start(run_dir, restarts), nodes(), LIMITS) is None
    given_up = begin(start(run_dir, 3), nodes(), LIMITS)
    assert given_up is not None and "giving up after 3 failures" in given_up.outlook
    assert events(run_dir)[-2:] == [(2, "crashed"), (3, "gave_up")]


def test_an_end_that_was_written_down_is_not_written_down_again(run_dir):
    begin(start(run_dir), nodes(), LIMITS)
    ended(run_dir, 75)
    begin(start(run_dir, 1), nodes("n2"), LIMITS)
    assert [event[1] for event in events(run_dir)] == ["started", "stopped", "requeued", "started"]


def test_nodes_that_failed_the_preflight_are_avoided(run_dir):
    begin(start(run_dir), nodes(), LIMITS)
    unfit = {"n2": "GPUs: 7 of 8 are there"}
    result_path(run_dir, "7", 0).write_text(json.dumps({"summary": "n2: GPUs: 7 of 8 are there", "unfit": unfit}))
    line = ended(run_dir, 76, preflight_failed=True).line()
    assert line == "requeue StartTime=now+60 ExcNodeList=n2"
    again = "failure 1 of 2 without a new checkpoint; back into the queue"
    assert events(run_dir, "reason", "nodes", "excluded")[1:] == [
        (0, "preflight_failed", "n2: GPUs: 7 of 8 are there", ["n2"], None),
        (0, "requeued", f"n2: GPUs: 7 of 8 are there; {again}", None, ["n2"]),
    ]
    assert read_suspects(run_dir)[0].reason == "preflight: GPUs: 7 of 8 are there"


def test_the_node_of_a_process_that_hung_is_avoided_whatever_srun_exited_with(run_dir):
    begin(start(run_dir), nodes(), LIMITS)
    (run_dir / "hangs/000001").mkdir(parents=True)
    laggards = (Laggard(3, "n2", "does not answer"), Laggard(4, None, "does not answer"), Laggard(5, "n9", "elsewhere"))
    write_verdict(run_dir / "hangs/000001", Verdict("7", 0, "no progress: rank 3 on n2", laggards))
    assert ended(run_dir, 137).line() == "requeue StartTime=now+60 ExcNodeList=n2"
    assert events(run_dir, "reason", "nodes")[1] == (0, "hung", "no progress: rank 3 on n2", ["n2"])
    assert ended(run_dir, 1, restarts=1).decision.event == "crashed"  # the verdict was on another start


def test_what_the_user_excludes_stays_excluded_and_what_a_person_trusts_again_does_not(run_dir):
    own = JobState(Queue.RUNNING, excluded=("n4",))
    result_path(run_dir, "7", 0).write_text(json.dumps({"summary": "n1", "unfit": {"n1": "slow"}}))
    first = ended(run_dir, 76, job=own, preflight_failed=True)
    assert first.settings == ("StartTime=now+60", "ExcNodeList=n1,n4")

    unchanged = JobState(Queue.RUNNING, excluded=("n1", "n4"))
    assert ended(run_dir, 75, restarts=1, job=unchanged).settings == ()
    (run_dir / "slurm/suspect_nodes").write_text("")
    assert ended(run_dir, 75, restarts=2, job=unchanged).settings == ("ExcNodeList=n4",)


def test_a_node_that_the_job_asks_for_by_name_is_not_excluded_and_it_says_so(run_dir, capfd):
    (run_dir / "slurm/suspect_nodes").write_text("n1 2026-01-01 slow\nn3 2026-01-02 slow\n")
    assert ended(run_dir, 75, job=JobState(Queue.RUNNING, required=("n1",))).settings == ("ExcNodeList=n3",)
    assert "n1 is suspect (slow), but the job asks for it by name" in capfd.readouterr().err


def test_without_an_answer_from_sinfo_the_exclusions_stay_as_they_are(run_dir):
    (run_dir / "slurm/suspect_nodes").write_text("n1 2026-01-01 slow\n")
    assert ended(run_dir, 75).settings == ("ExcNodeList=n1",)
    excluded = JobState(Queue.RUNNING, excluded=("n1",))
    assert ended(run_dir, 75, restarts=1, job=excluded, nodes={}).settings == ()
    assert events(run_dir, "excluded")[-1] == (1, "requeued", ["n1"])


def test_suspicions_that_leave_too_few_nodes_are_dropped_and_it_says_so(run_dir, capfd):
    (run_dir / "slurm/suspect_nodes").write_text("n1 2026-01-01 slow\nn2 2026-01-02 slow\nn3 2026-01-03 slow\n")
    assert ended(run_dir, 75).settings == ("ExcNodeList=n2,n3",)
    assert [suspect.node for suspect in read_suspects(run_dir)] == ["n2", "n3"]
    assert "n1 is not suspect any more, because too few nodes would remain" in capfd.readouterr().err


def test_a_node_that_failed_while_slurm_queues_the_job_again(run_dir):
    begin(start(run_dir), nodes(), LIMITS)
    instruction = ended(run_dir, 143, job=JobState(Queue.REQUEUED), nodes=nodes("n2"))
    assert instruction.line() == "adjust StartTime=now+60 ExcNodeList=n2"
    assert events(run_dir, "reason")[1] == (0, "crashed", "node failure: n2")


def test_a_start_that_was_cut_off_writes_nothing_even_when_slurm_does_not_answer(run_dir):
    begin(start(run_dir), nodes(), LIMITS)
    begin(start(run_dir, 1), nodes("n1"), LIMITS)
    before = events(run_dir)
    assert ended(run_dir, 2, job=JobState(Queue.UNKNOWN)).line() == "end"
    assert events(run_dir) == before


def test_a_full_disk_does_not_keep_a_job_from_coming_back(run_dir, monkeypatch, capfd):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("slurm.job.bookkeeping.append_event", full)
    assert ended(run_dir, 75).line() == "requeue"
    assert "cannot be written down: No space left on device" in capfd.readouterr().err
