"""Training jobs that meet with faults on a real Slurm: each ends by itself, with the losses of one without faults."""

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version as installed

import pytest
from cluster_of_nodes import Cluster
from faults import PRETENDED, TRAINING
from training import curve, train_all
from training_job import STEPS, TrainingJob, config_of

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.fixture(scope="module")
def jobs(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[TrainingJob]]]:
    root = tmp_path_factory.mktemp("faults")
    faults = TRAINING | PRETENDED
    with ThreadPoolExecutor(len(faults)) as pool:
        yield {name: pool.submit(fault, slurm, root / name) for name, fault in faults.items()}


@pytest.fixture(scope="module")
def uninterrupted(jobs: object, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """The curve of four processes on one machine; it is made while the jobs run."""
    config = config_of(tmp_path_factory.mktemp("uninterrupted"))
    assert train_all(4, config) == [[None]] * 4
    return curve(config.run_dir)


@pytest.mark.parametrize("name", TRAINING)
def test_the_job_finishes_by_itself_with_the_losses_of_an_uninterrupted_run(
    jobs: dict[str, Future[TrainingJob]], uninterrupted: dict[int, float], name: str
) -> None:
    job = jobs[name].result()
    assert job.slurm.facts(job.number)["JobState"] == "COMPLETED", job.log[-8000:]
    assert sorted(job.curve) == list(range(1, STEPS + 1))
    assert job.curve == pytest.approx(uninterrupted, rel=1e-5)


def test_nodes_are_looked_at_and_meet_over_the_network_between_them(jobs: dict[str, Future[TrainingJob]]) -> None:
    job = jobs["none"].result()
    assert job.history("exit_code") == [(0, "started", None), (0, "finished", 0)]
    assert "4 processes on node[3-4], meeting at node3" in job.log
    assert "all nodes are fit" in job.log
    assert "4 processes sum right" in job.log


def test_a_signal_and_a_requeue_from_outside_are_no_failures(jobs: dict[str, Future[TrainingJob]]) -> None:
    job = jobs["stopped"].result()
    assert job.history("exit_code", "next_start_delay_s") == [
        (0, "started", None, None),
        (0, "stopped", 75, None),
        (0, "requeued", None, 0.0),
        (1, "started", None, None),
        (1, "stopped", 75, None),
        (1, "requeued", None, 0.0),
        (2, "started", None, None),
        (2, "finished", 0, None),
    ]


def test_a_process_that_is_killed_brings_the_job_back_after_a_while(jobs: dict[str, Future[TrainingJob]]) -> None:
    job = jobs["crashed_then_hung"].result()
    assert job.history()[:3] == [(0, "started"), (0, "crashed"), (0, "requeued")]
    assert "SIGKILL (out of memory?)" in job.event("crashed", 0)["reason"]
    assert job.event("requeued", 0)["next_start_delay_s"] == 1


def test_a_process_that_hangs_is_named_and_its_node_is_avoided(jobs: dict[str, Future[TrainingJob]]) -> None:
    job = jobs["crashed_then_hung"].result()
    assert job.history()[3:] == [(1, "started"), (1, "hung"), (1, "requeued"), (2, "started"), (2, "finished")]
    hung, node = job.event("hung", 1), job.event("started", 1)["nodes"][1]
    assert f"rank 1 on {node} does not answer" in hung["reason"]
    assert (hung["exit_code"], hung["nodes"]) == (137, [node])
    assert job.event("requeued", 1)["excluded"] == [node]
    assert node not in job.event("started", 2)["nodes"]
    assert f"\n{node} " in (job.run_dir / "slurm" / "suspect_nodes").read_text()
    (stacks,) = (job.run_dir / "hangs").glob("*/*.txt")  # of the rank that could still write them
    assert "in _steps" in stacks.read_text()


def test_nodes_that_are_lost_in_a_step_and_in_a_save_are_named(jobs: dict[str, Future[TrainingJob]]) -> None:
    job = jobs["lost_nodes"].result()
    assert [happened for happened in job.history() if happened[1] != "requeued"] == [
        (0, "started"),
        (0, "crashed"),
        (1, "started"),
        (1, "crashed"),
        (2, "started"),
        (2, "finished"),
    ]
    for restart in (0, 1):
        node = job.event("started", restart)["nodes"][1]
        assert job.event("crashed", restart)["reason"] == f"node failure: {node}"
        assert f"\n{node} " in (job.run_dir / "slurm" / "suspect_nodes").read_text()
    assert "removed what an interrupted save left behind" in job.log
    assert not list((job.run_dir / "checkpoints").glob(".tmp-*"))


def test_a_process_that_was_cut_off_ends_without_a_word(jobs: dict[str, Future[TrainingJob]]) -> None:
    job = jobs["cut_off"].result()
    assert job.history() == [(0, "started"), (0, "crashed"), (1, "started"), (1, "finished")]
    assert "another process has taken this run over" in job.log
    assert job.slurm.facts(job.number)["Restarts"] == "1"


def test_before_the_time_limit_training_saves_and_comes_back(jobs: dict[str, Future[TrainingJob]]) -> None:
    job = jobs["out_of_time"].result()
    assert job.history("exit_code") == [
        (0, "started", None),
        (0, "stopped", 75),
        (0, "requeued", None),
        (1, "started", None),
        (1, "finished", 0),
    ]


def test_unfit_nodes_are_named_with_the_reason_and_the_job_starts_elsewhere(
    jobs: dict[str, Future[TrainingJob]],
) -> None:
    job = jobs["unfit_nodes"].result()
    assert job.history("nodes", "excluded") == [
        (0, "started", ["node17", "node18"], None),
        (0, "preflight_failed", ["node17", "node18"], None),
        (0, "requeued", None, ["node17", "node18"]),
        (1, "started", ["node19", "node20"], None),
        (1, "preflight_failed", ["node19", "node20"], None),  # of two nodes either may be the wrong one
        (1, "requeued", None, ["node17", "node18", "node19", "node20"]),
        (2, "started", ["node21", "node22"], None),
        (2, "finished", [], None),
    ], job.log
    first, second = (job.event("preflight_failed", restart)["reason"] for restart in (0, 1))
    assert "node17: disk: " in first and "free in /dev/shm" in first
    assert "node18: shared file system: OSError: [Errno 30] Read-only file system" in first
    usual = f"deepspeed {installed('deepspeed')}"
    assert f"node20: versions: deepspeed 0.0.1, elsewhere {usual}" in second
    assert f"FAILED  versions            node19: {usual}, elsewhere deepspeed 0.0.1" in job.log
    result = json.loads((job.run_dir / "slurm" / f"preflight-{job.number}-1.json").read_text())
    assert (result["ok"], list(result["unfit"])) == (False, ["node19", "node20"])


def test_a_job_that_fails_again_and_again_gives_up_and_says_so(jobs: dict[str, Future[TrainingJob]]) -> None:
    job = jobs["hopeless"].result()
    assert job.history("next_start_delay_s") == [
        (0, "started", None),
        (0, "crashed", None),
        (0, "requeued", 1.0),
        (1, "started", None),
        (1, "crashed", None),
        (1, "requeued", 2.0),
        (2, "started", None),
        (2, "crashed", None),
        (2, "gave_up", None),
    ]
    facts = job.slurm.facts(job.number)
    assert (facts["JobState"], facts["ExitCode"]) == ("FAILED", "7:0")
    status = job.slurm.status(job.run_dir)
    assert status["state"] == "failed"
    assert "giving up after 3 failures without a new checkpoint" in status["reason"]


@pytest.mark.parametrize(
    ("name", "restart", "event", "reason"),
    [
        ("stopped", 0, "stopped", "stopped on request, with everything saved"),
        ("crashed_then_hung", 0, "crashed", "a process was ended by SIGKILL (out of memory?)"),
        ("crashed_then_hung", 1, "hung", "does not answer; its last heartbeat was at step"),
        ("lost_nodes", 1, "crashed", "node failure: node1"),
        ("cut_off", 0, "crashed", "node failure: node1"),
        ("unfit_nodes", 0, "preflight_failed", "node17: disk: "),
    ],
)
def test_foreword_status_tells_what_happened_and_why(
    jobs: dict[str, Future[TrainingJob]], name: str, restart: int, event: str, reason: str
) -> None:
    job = jobs[name].result()
    told = {(happened.get("restart", 0), happened["event"]): happened for happened in job.status["history"]}
    assert reason in told[restart, event]["reason"]


def test_a_cancelled_job_does_not_come_back(jobs: dict[str, Future[TrainingJob]]) -> None:
    job = jobs["cancelled"].result()
    facts = job.slurm.facts(job.number)
    assert (facts["JobState"], facts["Restarts"]) == ("CANCELLED", "0")
    assert job.history() == [(0, "started"), (0, "cancelled")]


def test_a_job_whose_time_is_up_before_it_has_saved_comes_back(jobs: dict[str, Future[TrainingJob]]) -> None:
    job = jobs["overdue"].result()
    assert job.history("exit_code") == [
        (0, "started", None),
        (0, "crashed", 143),
        (0, "requeued", None),
        (1, "started", None),
        (1, "finished", 0),
    ], job.log
    assert job.event("crashed", 0)["reason"] == "the time limit came before a checkpoint was saved"


def test_without_foreword_the_script_does_what_is_safe_and_says_so(jobs: dict[str, Future[TrainingJob]]) -> None:
    job = jobs["broken"].result()
    assert job.slurm.facts(job.number)["JobState"] == "COMPLETED"
    assert "Foreword does not run here any more: nothing is written down" in job.log
    assert "stopped with a checkpoint; back into the queue" in job.log


def test_two_jobs_on_a_node_do_not_meet_each_others_ports(jobs: dict[str, Future[TrainingJob]]) -> None:
    job = jobs["neighbours"].result()
    assert job.history() == [(0, "started"), (0, "finished")], job.log
    (other,) = (job.directory.parent / "other" / "run" / "slurm").glob("*.log")
    assert "all steps are taken" in other.read_text()
