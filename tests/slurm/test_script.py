"""The rendered script: reviewed copies, shells that accept it, values that stay values, and what it does afterwards.

`srun` and `scontrol` are played by small programs here; a real Slurm runs the scripts in tests/cluster/.
"""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from played_jobs import ARGUMENT, JOB, LINE, TRICKY, TRICKY_LINE, play, sbatch_values
from reviewed_scripts import assert_bash_parses, assert_reviewed, assert_shellcheck_finds_nothing

from pipeline.config import TrainConfig
from pipeline.data.census import estimate_census
from pipeline.run_plan import RunData, plan_run
from slurm.config import ClusterConfig, ContainerConfig
from slurm.container import launch
from slurm.plan import TrainPlan
from slurm.script import quote_for_sbatch, render_training

CLUSTERS = {
    "gpu": ClusterConfig(
        nodes=2,
        gpus_per_node=8,
        gpu_type="h100",
        cpus_per_task=8,
        memory_per_node_gb=480,
        time_limit="2-00:00:00",
        partition="gpu",
        account="it's ours",
        sbatch_options={"exclusive": True, "constraint": "a&b", "nice": 5},
        setup=["module load cuda", 'source "$HOME/venv/bin/activate"'],
        environment={"NCCL_SOCKET_IFNAME": "ib0", "NOTE": "it's; $HOME"},
    ),
    "cpu": ClusterConfig(
        nodes=2, gpus_per_node=0, tasks_per_node=2, cpus_per_task=1, time_limit="1:00:00", max_restarts=3
    ),
    "apptainer": ClusterConfig(
        nodes=2,
        gpus_per_node=4,
        cpus_per_task=8,
        time_limit="12:00:00",
        container=ContainerConfig(runtime="apptainer", image="/images/foreword 1.sif", mounts=["/data:/data:ro"]),
        environment={"NCCL_DEBUG": "WARN"},
    ),
    "pyxis": ClusterConfig(
        nodes=2,
        gpus_per_node=4,
        cpus_per_task=8,
        time_limit="12:00:00",
        container=ContainerConfig(runtime="pyxis", image="nvcr.io#nvidia/pytorch:25.06-py3", mounts=["/data"]),
        command=["python", "-m", "foreword"],
        environment={"NCCL_DEBUG": "WARN"},
    ),
}


def plan_for(cluster: ClusterConfig, run_dir: str = "/scratch/runs/first") -> TrainPlan:
    values = {
        "run_dir": "unused",
        "data": {"corpus": "unused"},
        "model": {"num_layers": 1, "hidden_size": 16, "num_attention_heads": 1},
        "batch": {"global_batch_size": cluster.world_size, "micro_batch_size": 1},
        "optimizer": {"lr": 1e-3},
        "schedule": {"total_steps": 10},
    }
    config = TrainConfig.model_validate(values)
    data = RunData(32, 128, estimate_census(32, config), {}, {})
    return TrainPlan(
        nodes=cluster.nodes,
        processes_per_node=cluster.processes_per_node,
        gpus_per_node=cluster.gpus_per_node,
        run=plan_run(config, data, cluster.world_size),
        corpora=(Path("/scratch/corpus"),),
        run_dir=Path(run_dir),
        node_memory_bytes=10**9,
    )


def render(cluster: ClusterConfig, command: list[str] | None = None) -> str:
    working_directory = Path("/home/me/work dir")
    if cluster.container is None:
        cluster = cluster.model_copy(update={"command": command or ["/opt/venv/bin/python", "-m", "foreword"]})
    plan = plan_for(cluster)
    needed = [plan.run_dir, *plan.corpora]
    return render_training(
        plan,
        cluster,
        launch(cluster, working_directory, needed, OMP_NUM_THREADS=str(cluster.cpus_per_task)),
        arguments=[] if command else ["train", "/scratch/runs/first/slurm/train-ab12.yaml"],
        name="foreword-first",
        working_directory=working_directory,
    )


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_script_is_the_reviewed_one(name: str) -> None:
    assert_reviewed(f"train_{name}", render(CLUSTERS[name]))


@pytest.mark.parametrize("name", CLUSTERS)
def test_bash_parses_the_script(name: str) -> None:
    assert_bash_parses(render(CLUSTERS[name]))


@pytest.mark.parametrize("name", CLUSTERS)
def test_shellcheck_finds_nothing(name: str) -> None:
    assert_shellcheck_finds_nothing(render(CLUSTERS[name]))


def test_one_task_is_started_per_gpu_and_meets_on_the_first_node(tmp_path: Path) -> None:
    cluster = ClusterConfig(nodes=2, gpus_per_node=4, cpus_per_task=8, time_limit="60")
    job = play(tmp_path, render(cluster))
    assert {"--nodes=2", "--ntasks=8", "--ntasks-per-node=4", "--cpus-per-task=8"} <= set(job.srun_arguments)
    assert job.environment["MASTER_ADDR"] == "node1"


def test_jobs_with_neighbouring_numbers_meet_at_different_ports(tmp_path: Path) -> None:
    script = render(CLUSTERS["cpu"])
    numbers = (1, 2, 19_999, 20_000)
    ports = [int(play(tmp_path, script, SLURM_JOB_ID=str(number)).environment["MASTER_PORT"]) for number in numbers]
    assert len(set(ports)) == len(ports)
    assert all(1024 < port < 32768 for port in ports)  # above the privileged ones, below Linux' ephemeral ones


@pytest.mark.parametrize("missing", JOB)
def test_a_missing_variable_of_slurm_ends_the_job_before_training(tmp_path: Path, missing: str) -> None:
    script = f"unset {missing}\n{render(CLUSTERS['cpu'])}"
    job = play(tmp_path, script)
    assert job.exit_code != 0
    assert missing in job.output
    assert not (tmp_path / "arguments").exists()


def test_another_number_of_nodes_than_planned_ends_the_job_before_training(tmp_path: Path) -> None:
    job = play(tmp_path, render(CLUSTERS["cpu"]), SLURM_JOB_NUM_NODES="3")
    assert job.exit_code == 2
    assert "got 3 node(s), planned for 2" in job.output
    assert not (tmp_path / "arguments").exists()


def test_a_run_that_stopped_with_a_checkpoint_goes_back_into_the_queue(tmp_path: Path) -> None:
    job = play(tmp_path, render(CLUSTERS["cpu"]), exits_with=75)
    assert job.requeued
    assert job.exit_code == 75


@pytest.mark.parametrize("code", [0, 1, 2, 3, 137])
def test_every_other_end_is_the_end(tmp_path: Path, code: int) -> None:
    job = play(tmp_path, render(CLUSTERS["cpu"]), exits_with=code)
    assert not job.requeued
    assert job.exit_code == code


def test_a_cancelled_job_that_slurm_will_not_queue_again_ends_all_the_same(tmp_path: Path) -> None:
    job = play(tmp_path, render(CLUSTERS["cpu"]), exits_with=75, REQUEUE_EXITS_WITH="1")
    assert job.exit_code == 75
    assert "not queued again" in job.output


def test_restarts_are_bounded(tmp_path: Path) -> None:
    script = render(CLUSTERS["cpu"])
    assert play(tmp_path, script, exits_with=75, SLURM_RESTART_COUNT="2").requeued
    last = play(tmp_path, script, exits_with=75, SLURM_RESTART_COUNT="3")
    assert not last.requeued
    assert last.exit_code == 75


@given(word=ARGUMENT, value=ARGUMENT)
@example(word=TRICKY, value=TRICKY)
@example(word="", value="\r")
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_words_and_variables_reach_the_tasks_as_they_are(tmp_path: Path, word: str, value: str) -> None:
    cluster = CLUSTERS["cpu"].model_copy(update={"environment": {"TRICKY": value}})
    job = play(tmp_path, render(cluster, command=["python", word]))
    assert job.exit_code == 0
    assert job.srun_arguments[-2:] == ["python", word]
    assert job.environment["TRICKY"] == value
    assert not Path("broken").exists()


@given(value=LINE)
@example(value=TRICKY_LINE)
@settings(max_examples=25)
def test_values_on_sbatch_lines_are_what_sbatch_reads(value: str) -> None:
    changes = {"partition": value, "account": value, "qos": value, "sbatch_options": {"constraint": value, "nice": 5}}
    read = sbatch_values(render(CLUSTERS["cpu"].model_copy(update=changes)))
    assert {read[option] for option in ("partition", "account", "qos", "constraint")} == {value}
    assert read["nice"] == "5"


def test_set_up_lines_may_use_unset_variables(tmp_path: Path) -> None:
    cluster = CLUSTERS["cpu"].model_copy(update={"setup": ["export FROM_SETUP=$UNSET_HERE.done"]})
    assert play(tmp_path, render(cluster)).environment["FROM_SETUP"] == ".done"


def test_a_failing_set_up_line_ends_the_job(tmp_path: Path) -> None:
    cluster = CLUSTERS["cpu"].model_copy(update={"setup": ["false"]})
    assert play(tmp_path, render(cluster)).exit_code == 1


def test_tasks_use_the_cores_they_were_given_unless_told_otherwise(tmp_path: Path) -> None:
    cluster = CLUSTERS["cpu"].model_copy(update={"cpus_per_task": 6})
    assert play(tmp_path, render(cluster)).environment["OMP_NUM_THREADS"] == "6"
    told = cluster.model_copy(update={"environment": {"OMP_NUM_THREADS": "2"}})
    assert play(tmp_path, render(told)).environment["OMP_NUM_THREADS"] == "2"


@pytest.mark.parametrize("value", ["two\nlines", "return\r", "nul\0", ""])
def test_what_an_sbatch_line_cannot_hold_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="must not"):
        quote_for_sbatch(value)


@pytest.mark.parametrize(
    ("value", "quoted"),
    [("gpu", "gpu"), ("a b", '"a b"'), ("it's", '"it\'s"'), ('"', '"\\""'), ("a\\b", '"a\\\\b"'), ("a;#b", '"a;#b"')],
)
def test_quoting_for_sbatch_lines(value: str, quoted: str) -> None:
    assert quote_for_sbatch(value) == quoted
