"""From raw text to a trained model on a real Slurm; tasks that are killed or refused; what a person asks on the way."""

import json
import os
from pathlib import Path

import pytest
import yaml
from cluster_of_nodes import Cluster
from tiny_corpus import make_corpus
from tiny_preparation import documents, train_tokenizer, write_preparation
from training import train_config

from data_prep.config import PrepConfig
from data_prep.prepare import prepare
from foreword.config import dump_config, load_config
from foreword.files import sha256_of

pytestmark = pytest.mark.slurm

# every Python imports this at its start; at the first slice that it finishes, the first start of task 1 is killed, and
# that of task 3 gets what Slurm sends before the time limit
SIGNALS = """
import os, signal, sys

NUMBER = {"1": signal.SIGKILL, "3": signal.SIGTERM}.get(os.environ.get("SLURM_ARRAY_TASK_ID"))

def watch(event, arguments):
    if event == "os.rename" and "/slices/" in str(arguments[1]) and str(arguments[1]).endswith(".json"):
        os.kill(os.getpid(), NUMBER)

if NUMBER and not os.environ.get("SLURM_RESTART_COUNT"):
    sys.addaudithook(watch)
"""


def write_cluster(directory: Path, **values: object) -> Path:
    """One CPU task on one node."""
    path = directory / "cluster.yaml"
    settled = {"gpus_per_node": 0, "tasks_per_node": 1, "cpus_per_task": 1, "time_limit": "10:00"}
    path.write_text(yaml.safe_dump(settled | values))
    return path


def write_training(directory: Path, steps: int) -> Path:
    path = directory / "train.yaml"
    config = train_config(directory / "run", directory / "corpus", schedule__total_steps=steps)
    path.write_text(dump_config(config))
    return path


def bytes_of(corpus: Path) -> dict[str, str]:
    """Hash of every file of a corpus but its report, which holds the time it took, and what its jobs left."""
    files = [path for path in corpus.rglob("*") if path.is_file() and path.name != "report.html"]
    return {str(path.relative_to(corpus)): sha256_of(path) for path in files if "slurm" not in path.parts}


@pytest.mark.slow
def test_one_command_leads_from_text_to_a_trained_model_although_tasks_are_killed_and_stopped(
    slurm: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(SIGNALS)
    python_path = os.pathsep.join(filter(None, [str(tmp_path / "hook"), os.environ.get("PYTHONPATH")]))
    tmp_path /= 'it\'s a; "dir" #1 100% $HOME `x`'
    tmp_path.mkdir()
    cluster = write_cluster(
        tmp_path, prep={"environment": {"PYTHONPATH": python_path}, "sbatch_options": {"hold": True}}
    )
    prep = write_preparation(tmp_path, tmp_path / "own.model", tmp_path / "corpus")
    train, corpus, run = write_training(tmp_path, steps=3), tmp_path / "corpus", tmp_path / "run"

    words = ["submit", "all", prep, train, "--cluster", cluster, "--tasks", 4]
    tokenizer, tasks, finish, training = slurm.foreword(*words, cwd=tmp_path).split()
    assert slurm.status(run)["state"] == "queued"
    listed = slurm.foreword("status").splitlines()
    assert any(str(corpus) in line for line in listed) and any(str(run) in line for line in listed)

    for held in (tokenizer, tasks, finish):
        slurm.run("scontrol", "release", held)
    slurm.wait_for(training, "COMPLETED", "FAILED", "CANCELLED", timeout_s=180)
    told = slurm.status(corpus)
    assert told["state"] == "finished"
    assert slurm.facts(tokenizer)["JobState"] == slurm.facts(finish)["JobState"] == "COMPLETED"
    happened = {
        task: [(event["event"], event.get("exit_code")) for event in told["history"] if event["job_id"] == task]
        for task in (f"{tasks}_{number}" for number in range(4))
    }
    again = [("started", None), ("finished", 0)]
    assert happened == {
        f"{tasks}_0": again,
        f"{tasks}_1": [("started", None), ("crashed", 137), ("requeued", 137), *again],
        f"{tasks}_2": again,
        f"{tasks}_3": [("started", None), ("requeued", 75), *again],
    }
    whole = load_config(prep, [f"output={tmp_path / 'whole'}"], PrepConfig)
    prepare(whole)
    assert bytes_of(corpus) == bytes_of(tmp_path / "whole")

    told = slurm.status(run)
    assert (told["state"], told["step"], told["total_steps"]) == ("finished", 3, 3)
    assert "finished: 3 steps" in slurm.foreword("logs", run, "--lines", 20)


def test_a_task_whose_data_is_refused_is_not_repeated_and_those_after_it_say_so(slurm: Cluster, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(tmp_path / "own.model")
    prep = write_preparation(tmp_path, tokenizer, tmp_path / "corpus")
    lines = [json.dumps({"text": document}) for document in documents()]
    lines[0] = json.dumps({"no text": 1})
    (tmp_path / "text.jsonl").write_text("\n".join(lines) + "\n")
    train = write_training(tmp_path, steps=3)

    words = ["submit", "all", prep, train, "--cluster", write_cluster(tmp_path), "--tasks", 2]
    tasks, finish, training = slurm.foreword(*words, cwd=tmp_path).split()
    slurm.wait_for(finish, "FAILED", "COMPLETED")
    slurm.wait_for(training, "CANCELLED")

    corpus, run = slurm.status(tmp_path / "corpus"), slurm.status(tmp_path / "run")
    ends = {event["job_id"]: event["event"] for event in corpus["history"]}
    (refused,) = corpus["unfinished_tasks"]["2"]
    assert ends == {tasks: "submitted", f"{tasks}_{refused}": "failed", f"{tasks}_{1 - refused}": "finished"} | {
        finish: "failed"
    }
    assert sum(event["event"] == "started" for event in corpus["history"]) == 3
    assert corpus["state"] == "failed"
    assert "text.jsonl:1" in corpus["reason"]
    assert f"with --tasks 2: --task {refused}" in slurm.foreword("logs", tmp_path / "corpus", "--job", finish)
    assert (run["state"], f"waited for job {finish}" in run["reason"]) == ("failed", True)


@pytest.mark.slow
def test_training_that_is_cancelled_saves_and_does_not_come_back(slurm: Cluster, tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus")
    train, run = write_training(tmp_path, steps=100_000), tmp_path / "run"
    changes = ["checkpoint.every_steps=1000000", "evaluation.every_steps=null"]
    job = slurm.submit_training(train, write_cluster(tmp_path), *changes)
    with pytest.raises(AssertionError, match=f"in the queue already: {job}"):
        slurm.submit_training(train, write_cluster(tmp_path), *changes)
    slurm.wait_until(lambda: slurm.status(run)["step"] > 5)
    told = slurm.status(run)
    assert told["state"] == "running"
    assert told["tokens_per_s"] > 0 and told["remaining_s"] > 0

    assert f"job {job} (RUNNING): told to save and to end" in slurm.foreword("cancel", run)
    facts = slurm.wait_for(job, "FAILED", "CANCELLED", "COMPLETED")
    assert facts["Restarts"] == "0"
    told = slurm.status(run)
    assert told["state"] == "cancelled"
    assert told["checkpoint_step"] == told["step"] > 5
    assert told["jobs"] == []
    assert "cancelled" in [event["event"] for event in told["history"]]
    assert slurm.foreword("cancel", run) == ""


def test_when_training_is_refused_nothing_of_the_chain_stays_in_the_queue(slurm: Cluster, tmp_path: Path) -> None:
    prep = write_preparation(tmp_path, tmp_path / "own.model", tmp_path / "corpus")
    train = write_training(tmp_path, steps=3)
    cluster = write_cluster(tmp_path, partition="no such partition", prep={"partition": "debug"})
    words = ["submit", "all", prep, train, "--cluster", cluster, "--tasks", 2]
    with pytest.raises(AssertionError, match="invalid partition specified: no such partition"):
        slurm.foreword(*words, cwd=tmp_path)
    numbers = [event["job_id"] for event in slurm.status(tmp_path / "corpus")["history"]]
    for number in numbers[:3]:
        slurm.wait_for(number, "CANCELLED")


def test_training_on_a_corpus_that_is_not_there_is_refused_before_anything_is_submitted(
    slurm: Cluster, tmp_path: Path
) -> None:
    train = write_training(tmp_path, steps=3)
    with pytest.raises(AssertionError, match="no such corpus directory"):
        slurm.submit_training(train, write_cluster(tmp_path))
    assert not (tmp_path / "run").exists()
