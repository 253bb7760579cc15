"""Rendered jobs on a real Slurm: they start on all nodes, come back after a stop, and finish by themselves."""

import shutil
import sys
from pathlib import Path

import pytest
import yaml
from cluster_of_nodes import Cluster
from tiny_corpus import make_corpus
from training import train_config

from foreword.config import dump_config

pytestmark = pytest.mark.slurm

# plays training: notes what a task sees, stops with a checkpoint at the first start and finishes at the second (but the
# script's questions are answered by the real Foreword)
PRETEND = f"""#!/bin/bash
[ "$2" != job ] || exec {sys.executable} -m foreword "${{@:2}}"
env -0 > "$1/task-$SLURM_PROCID-start-${{SLURM_RESTART_COUNT:-0}}"
[ -n "$SLURM_RESTART_COUNT" ] || exit 75
"""


def write_configs(directory: Path, run_name: str, **cluster: object) -> tuple[Path, Path]:
    """A training and a cluster configuration (two nodes, a CPU task each) in `directory`."""
    train, cluster_path = directory / "train.yaml", directory / "cluster.yaml"
    train.write_text(dump_config(train_config(directory / run_name, make_corpus(directory / "corpus").path)))
    values = {"nodes": 2, "gpus_per_node": 0, "tasks_per_node": 1, "cpus_per_task": 1, "time_limit": "10:00"}
    values |= {"signal_before_limit_s": 60, "preflight_timeout_s": None}
    cluster_path.write_text(yaml.safe_dump(values | cluster))
    return train, cluster_path


def task_environment(directory: Path, task: int, start: int) -> dict[str, str]:
    words = (directory / f"task-{task}-start-{start}").read_text().split("\0")[:-1]
    return dict(word.split("=", 1) for word in words)


def test_a_stopped_job_comes_back_from_the_queue_whatever_its_names_hold(slurm: Cluster, tmp_path: Path) -> None:
    directory = tmp_path / 'it\'s a; "dir" #1 100% $HOME `x`'
    directory.mkdir()
    pretend = directory / "pretend training"
    pretend.write_text(PRETEND)
    value = "two\nlines; it's $HOME"
    command = ["bash", str(pretend), str(directory)]
    configs = write_configs(directory, "run; #2 50%", command=command, environment={"TRICKY": value})

    job = slurm.submit_training(*configs)
    facts = slurm.wait_for(job, "COMPLETED", "FAILED")

    assert (facts["JobState"], facts["Restarts"], facts["ExitCode"]) == ("COMPLETED", "1", "0:0")
    log = (directory / "run; #2 50%" / "slurm" / f"{job}.log").read_text()
    assert "start 1: 2 processes" in log
    assert "start 2: 2 processes" in log
    for start in (0, 1):
        tasks = [task_environment(directory, task, start) for task in (0, 1)]
        assert {task["SLURMD_NODENAME"] for task in tasks} == {"node1", "node2"}
        assert {task["MASTER_ADDR"] for task in tasks} == {"node1"}
        assert len({task["MASTER_PORT"] for task in tasks}) == 1
        assert all(task["SLURM_NTASKS"] == "2" and task["TRICKY"] == value for task in tasks)


def test_an_error_of_the_user_that_shows_on_the_node_ends_the_job(slurm: Cluster, tmp_path: Path) -> None:
    for name in ("configured wrong", "without corpus"):
        (tmp_path / name).mkdir()
    train, cluster = write_configs(tmp_path / "configured wrong", "run", environment={"WANDB_MODE": "sometimes"})
    wrong = slurm.submit_training(train, cluster, "logging.wandb.mode=auto")
    train, cluster = write_configs(tmp_path / "without corpus", "run", sbatch_options={"hold": True})
    without = slurm.submit_training(train, cluster)
    shutil.rmtree(tmp_path / "without corpus" / "corpus")
    slurm.run("scontrol", "release", without)

    wanted = {
        wrong: ("2:0", "a configuration that cannot be used", "'sometimes' is not a mode of Weights & Biases"),
        without: ("3:0", "a corpus or a checkpoint that is not intact", "no such corpus directory"),
    }
    for job, directory in ((wrong, "configured wrong"), (without, "without corpus")):
        facts = slurm.wait_for(job, "COMPLETED", "FAILED", timeout_s=180)
        exit_code, *reasons = wanted[job]
        assert (facts["JobState"], facts["Restarts"], facts["ExitCode"]) == ("FAILED", "0", exit_code)
        status = slurm.status(tmp_path / directory / "run")
        assert status["state"] == "failed"
        assert all(reason in status["reason"] for reason in reasons)


def test_a_partition_that_does_not_exist_is_refused_at_submission(slurm: Cluster, tmp_path: Path) -> None:
    train, cluster = write_configs(tmp_path, "run", partition="no such partition")
    with pytest.raises(AssertionError, match="invalid partition specified: no such partition"):
        slurm.submit_training(train, cluster)
    status = slurm.status(tmp_path / "run")
    assert status["state"] == "new"
    assert "not submitted: " in status["reason"]
    assert "invalid partition specified: no such partition" in status["reason"]
