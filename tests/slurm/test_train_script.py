"""What the training script does, with Slurm and Foreword played; the real ones run it in tests/cluster/."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from played_jobs import ARGUMENT, JOB, TRICKY, Played, play
from training_scripts import CLUSTERS, render

from pipeline.distributed.placement import PLANNED_WORLD_SIZE
from slurm.config import ClusterConfig

PLAYED = ("played-foreword", "anything")
WITH_PREFLIGHT = CLUSTERS["cpu"]
WITHOUT_PREFLIGHT = CLUSTERS["cpu"].model_copy(update={"preflight_timeout_s": None})
LIMITS = "--max-restarts=3 --max-failures=5 --delay-s=60"
RUN = "/scratch/runs/first"


def script(cluster: ClusterConfig = WITHOUT_PREFLIGHT, *command: str) -> str:
    return render(cluster, list(command or PLAYED))


def asked(job: Played) -> list[str]:
    """What Foreword was asked, without options, and when processes were started."""
    return [call.partition(" --")[0] for call in job.calls if call.startswith(("foreword", "srun"))]


def told(job: Played) -> list[str]:
    """What Slurm was told."""
    return [call for call in job.calls if call.startswith(("scontrol requeue", "scontrol update", "scancel"))]


def test_one_task_is_started_per_gpu_and_meets_on_the_first_node(tmp_path: Path) -> None:
    cluster = ClusterConfig(nodes=2, gpus_per_node=4, cpus_per_task=8, time_limit="60")
    job = play(tmp_path, script(cluster), PORT="banner of a container\n50505")
    assert {"--nodes=2", "--ntasks=8", "--ntasks-per-node=4", "--cpus-per-task=8"} <= set(job.srun_arguments)
    assert job.environment["MASTER_ADDR"] == "node1"
    assert job.environment["MASTER_PORT"] == "50505"
    assert job.environment[PLANNED_WORLD_SIZE] == "8"


def test_a_start_is_written_down_its_nodes_are_looked_at_and_its_end_is_written_down(tmp_path: Path) -> None:
    job = play(tmp_path, script(WITH_PREFLIGHT))
    first, port, *preflight, port_again, training, last = asked(job)
    assert (first, training, last) == (f"foreword job begin {RUN}", "srun", f"foreword job end {RUN}")
    assert sorted(preflight) == [f"foreword job preflight {RUN}", "srun look"]  # one hears the other
    assert port == port_again == "foreword job port"
    assert f"foreword job begin {RUN} {LIMITS}" in job.calls
    assert (tmp_path / "nodes").read_text() == "node1 idle (null)\nnode2 idle (null)\n"
    assert job.exit_code == 0


def test_without_a_preflight_no_node_is_looked_at(tmp_path: Path) -> None:
    assert asked(play(tmp_path, script(WITHOUT_PREFLIGHT)))[1:-1] == ["foreword job port", "srun"]


@pytest.mark.parametrize("missing", JOB)
def test_a_missing_variable_of_slurm_ends_the_job_before_training(tmp_path: Path, missing: str) -> None:
    job = play(tmp_path, f"unset {missing}\n{script()}")
    assert job.exit_code != 0
    assert missing in job.output
    assert "srun" not in job.calls


def test_another_number_of_nodes_than_planned_ends_the_job_before_training(tmp_path: Path) -> None:
    job = play(tmp_path, script(), SLURM_JOB_NUM_NODES="3")
    assert job.exit_code == 2
    assert "got 3 node(s), planned for 2" in job.output
    assert "srun" not in job.calls


def test_a_start_that_is_refused_ends_the_job_before_training(tmp_path: Path) -> None:
    job = play(tmp_path, script(WITH_PREFLIGHT), BEGIN_EXITS_WITH="1")
    assert (job.exit_code, asked(job), told(job)) == (1, [f"foreword job begin {RUN}"], [])


def test_unfit_nodes_are_not_trained_on(tmp_path: Path) -> None:
    job = play(tmp_path, script(WITH_PREFLIGHT), PREFLIGHT_EXITS_WITH="76")
    assert "srun" not in job.calls
    (end,) = [call for call in job.calls if call.startswith("foreword job end")]
    assert "--exit-code=76" in end
    assert "--preflight-failed" in end
    assert job.exit_code == 76


def test_a_preflight_that_is_told_to_stop_is_a_stop(tmp_path: Path) -> None:
    job = play(tmp_path, script(WITH_PREFLIGHT), PREFLIGHT_EXITS_WITH="75")
    assert "srun" not in job.calls
    (end,) = [call for call in job.calls if call.startswith("foreword job end")]
    assert "--exit-code=75" in end
    assert "--preflight-failed" not in end


def test_a_preflight_that_cannot_be_made_does_not_keep_the_job_from_training(tmp_path: Path) -> None:
    job = play(tmp_path, script(WITH_PREFLIGHT), PREFLIGHT_EXITS_WITH="1")
    assert "srun" in job.calls
    assert "the nodes could not be looked at (exit code 1); training starts without that" in job.output
    assert job.exit_code == 0


@pytest.mark.parametrize("code", [0, 1, 2, 3, 75, 76, 137])
def test_foreword_hears_the_exit_code_and_the_jobs_state_and_the_job_ends_with_the_code(
    tmp_path: Path, code: int
) -> None:
    state = "JobId=123456 JobState=RUNNING it's; $HOME"
    job = play(tmp_path, script(), exits_with=code, STATE=state)
    (end,) = [call for call in job.calls if call.startswith("foreword job end")]
    assert end == f"foreword job end {RUN} --exit-code={code} --state={state} {LIMITS}"
    assert job.exit_code == code


@pytest.mark.parametrize(
    ("answer", "commands"),
    [
        ("end", []),
        ("requeue", ["scontrol requeue 123456"]),
        (
            "requeue StartTime=now+60 ExcNodeList=n1,n2",
            ["scontrol requeue 123456", "scontrol update JobId=123456 StartTime=now+60 ExcNodeList=n1,n2"],
        ),
        ("requeue ExcNodeList=", ["scontrol requeue 123456", "scontrol update JobId=123456 ExcNodeList="]),
        ("adjust ExcNodeList=n1", ["scontrol update JobId=123456 ExcNodeList=n1"]),
        ("adjust", []),
        ("cancel", ["scancel 123456"]),
        ("banner of a container\nrequeue", ["scontrol requeue 123456"]),
    ],
)
def test_the_script_does_what_foreword_answers(tmp_path: Path, answer: str, commands: list[str]) -> None:
    assert told(play(tmp_path, script(), exits_with=1, ANSWER=answer)) == commands


def test_a_controller_that_is_away_for_a_while_is_waited_for(tmp_path: Path) -> None:
    job = play(tmp_path, script(), exits_with=75, ANSWER="requeue", SILENT_FOR="2")
    assert [call for call in job.calls if call.startswith("sleep")] == ["sleep 20", "sleep 60"]
    assert job.requeued


def test_without_an_answer_from_the_controller_foreword_decides_without_it(tmp_path: Path) -> None:
    job = play(tmp_path, script(), exits_with=75, SILENT_FOR="9")
    (end,) = [call for call in job.calls if call.startswith("foreword job end")]
    assert " --state= " in end
    assert "scontrol does not answer" in job.output


def test_when_slurm_will_not_queue_the_job_again_that_is_written_down(tmp_path: Path) -> None:
    job = play(tmp_path, script(), exits_with=75, ANSWER="requeue", REQUEUE_EXITS_WITH="1")
    assert job.exit_code == 75
    assert f"foreword job note {RUN} stopped Slurm refuses to queue the job again" in job.calls


def test_a_sigterm_does_not_keep_the_script_from_writing_down_what_happened(tmp_path: Path) -> None:
    job = play(tmp_path, script(), exits_with=75, TERM_FROM_SLURM="1")
    assert asked(job)[-1] == f"foreword job end {RUN}"
    assert job.exit_code == 75


@pytest.mark.parametrize(
    ("code", "changes", "requeued"),
    [
        (75, {}, True),
        (75, {"SLURM_RESTART_COUNT": "2"}, True),
        (75, {"SLURM_RESTART_COUNT": "3"}, False),  # the most that are allowed
        (75, {"STATE": "JobId=123456 JobState=COMPLETING Restarts=0"}, False),  # cancelled
        (75, {"REQUEUE": "0"}, False),  # `foreword cancel`
        (75, {"STATE": ""}, False),
        (0, {}, False),
        (1, {}, False),
        (76, {}, False),
        (137, {}, False),
    ],
)
def test_without_foreword_only_what_stopped_with_a_checkpoint_comes_back(
    tmp_path: Path, code: int, changes: dict[str, str], requeued: bool
) -> None:
    job = play(tmp_path, script(), exits_with=code, ANSWER="requeue", END_EXITS_WITH="127", **changes)
    assert job.requeued is requeued
    assert "Foreword does not run here any more: nothing is written down" in job.output
    assert ("not queued again" in job.output) is not requeued


def test_settings_of_the_network_are_printed(tmp_path: Path) -> None:
    cluster = WITHOUT_PREFLIGHT.model_copy(update={"environment": {"GLOO_SOCKET_IFNAME": "ib0"}})
    assert "GLOO_SOCKET_IFNAME=ib0" in play(tmp_path, script(cluster)).output
    assert "NCCL_DEBUG=WARN" in play(tmp_path, script(), NCCL_DEBUG="WARN").output
    assert "no variable of NCCL or gloo is set" in play(tmp_path, script()).output


def test_where_the_container_belongs_to_srun_foreword_is_started_by_it() -> None:
    """With Pyxis there is no Foreword on the node itself."""
    (line,) = [line for line in render(CLUSTERS["pyxis"]).splitlines() if line.endswith('"$@"')]
    assert line.split()[:4] == ["srun", "--nodes=1", "--ntasks=1", "--overlap"]
    assert "--container-image=" in line


@given(word=ARGUMENT, value=ARGUMENT)
@example(word=TRICKY, value=TRICKY)
@example(word="", value="\r")
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_words_and_variables_reach_the_tasks_as_they_are(tmp_path: Path, word: str, value: str) -> None:
    cluster = WITHOUT_PREFLIGHT.model_copy(update={"environment": {"TRICKY": value}})
    job = play(tmp_path, script(cluster, "played-foreword", word))
    assert job.exit_code == 0
    assert job.srun_arguments[-2:] == ["played-foreword", word]
    assert job.environment["TRICKY"] == value
    assert not Path("broken").exists()


def test_set_up_lines_may_use_unset_variables(tmp_path: Path) -> None:
    cluster = WITHOUT_PREFLIGHT.model_copy(update={"setup": ["export FROM_SETUP=$UNSET_HERE.done"]})
    assert play(tmp_path, script(cluster)).environment["FROM_SETUP"] == ".done"


def test_a_failing_set_up_line_ends_the_job(tmp_path: Path) -> None:
    cluster = WITHOUT_PREFLIGHT.model_copy(update={"setup": ["false"]})
    assert play(tmp_path, script(cluster)).exit_code == 1


def test_tasks_use_the_cores_they_were_given_unless_told_otherwise(tmp_path: Path) -> None:
    cluster = WITHOUT_PREFLIGHT.model_copy(update={"cpus_per_task": 6})
    assert play(tmp_path, script(cluster)).environment["OMP_NUM_THREADS"] == "6"
    told_otherwise = cluster.model_copy(update={"environment": {"OMP_NUM_THREADS": "2"}})
    assert play(tmp_path, script(told_otherwise)).environment["OMP_NUM_THREADS"] == "2"
