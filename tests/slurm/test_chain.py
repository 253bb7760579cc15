"""`foreword submit prep` and `submit all`: one job after the other, all or none, and only what is left to do."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from fake_slurm import FakeSlurm
from played_jobs import sbatch_values
from tiny_preparation import SEQUENCE_LENGTH, write_preparation

from data_prep.config import PrepConfig
from data_prep.prepare import prepare
from foreword.cli import foreword
from foreword.config import load_config
from foreword.errors import ConfigError, DataError, ForewordError, MachineError
from slurm.events import read_events


@pytest.fixture
def paths(tmp_path: Path, train_values: dict) -> dict[str, Path]:
    """Configuration files of a preparation whose tokenizer is not there yet, of training on it, and of a cluster."""
    train_values |= {"data": {"corpus": str(tmp_path / "prepared")}, "run_dir": str(tmp_path / "run")}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(train_values))
    (tmp_path / "cluster.yaml").write_text("nodes: 2\ngpus_per_node: 4\ncpus_per_task: 8\ntime_limit: '12:00:00'\n")
    return {
        "prep": write_preparation(tmp_path, tmp_path / "later.model", tmp_path / "prepared"),
        "train": tmp_path / "train.yaml",
        "cluster": tmp_path / "cluster.yaml",
    }


def submit(*words: object) -> Result:
    return CliRunner().invoke(foreword, ["submit", *map(str, words)])


def submit_all(paths: dict[str, Path], *more: str) -> Result:
    return submit("all", paths["prep"], paths["train"], "--cluster", paths["cluster"], "--tasks", 4, *more)


def refused(result: Result) -> ForewordError:
    assert isinstance(result.exception, ForewordError), result.output
    return result.exception


def scripts(output: str) -> list[str]:
    return ["#!/bin/bash\n" + script for script in output.split("#!/bin/bash\n")[1:]]


def test_everything_is_submitted_each_after_the_other(
    paths: dict[str, Path], tmp_path: Path, fake_slurm: FakeSlurm
) -> None:
    result = submit_all(paths)
    assert result.exit_code == 0, result.output
    assert result.stdout == "12\n13\n14\n15\n"
    dependencies = [[word for word in words if word.startswith("--dependency")] for words in fake_slurm.asked("sbatch")]
    # the job that finishes says which tasks are missing, so it waits for their end and not for their success
    assert dependencies == [[], ["--dependency=afterok:12"], ["--dependency=afterany:13"], ["--dependency=afterok:14"]]
    told = [(event.event, event.job_id, event.kind, event.after) for event in read_events(tmp_path / "prepared")]
    assert told == [
        ("submitted", "12", "tokenizer", None),
        ("submitted", "13", "prep", "12"),
        ("submitted", "14", "finish", "13"),
    ]
    (trains,) = read_events(tmp_path / "run")
    assert (trains.job_id, trains.kind, trains.after) == ("15", "train", "14")
    assert f"log {tmp_path}/run/slurm/15.log" in result.stderr
    assert f"log {tmp_path}/prepared/slurm/13_*.log" in result.stderr


def test_a_dry_run_prints_scripts_and_plans_and_changes_nothing(paths: dict[str, Path], tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    result = submit_all(paths, "--dry-run")
    assert result.exit_code == 0, result.output
    tokenizer, tasks, finishes, trains = scripts(result.stdout)
    assert "tokenizer train" in tokenizer
    assert sbatch_values(tasks)["array"] == "0-3"
    assert "--finish" in finishes
    assert sbatch_values(trains)["ntasks-per-node"] == "4"
    assert "4 of 4 to do" in result.stderr and "8 = 2 node(s) x 4 GPU" in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_when_a_job_in_the_middle_is_refused_those_before_it_are_taken_back(
    paths: dict[str, Path], tmp_path: Path, fake_slurm: FakeSlurm
) -> None:
    fake_slurm.refuse_after(2)
    result = submit_all(paths)
    error = refused(result)
    assert isinstance(error, MachineError) and "QOSMaxSubmitJobPerUserLimit" in str(error)
    assert fake_slurm.asked("scancel") == [["13"], ["12"]]
    assert "job 13 (prep) was taken back" in result.stderr
    assert [event.event for event in read_events(tmp_path / "prepared")][2:] == ["cancelled", "cancelled", "refused"]
    assert result.stdout == ""


def test_a_job_that_cannot_be_taken_back_is_named(paths: dict[str, Path], fake_slurm: FakeSlurm) -> None:
    fake_slurm.refuse_after(1)
    fake_slurm.refuse("scancel", "error: Kill job error on job id 12: Unable to contact slurm controller")
    assert "job 12 (tokenizer) is still in the queue" in submit_all(paths).stderr


def test_what_is_there_is_not_made_again(
    paths: dict[str, Path], tmp_path: Path, tokenizer: Path, fake_slurm: FakeSlurm
) -> None:
    (tmp_path / "later.model").write_bytes(tokenizer.read_bytes())
    assert [sbatch_values(script)["job-name"] for script in scripts(submit_all(paths, "--dry-run").stdout)] == [
        "foreword-prepared-prep",
        "foreword-prepared-finish",
        "foreword-run",
    ]
    prepare(load_config(paths["prep"], [], PrepConfig))
    result = submit_all(paths)
    assert result.stdout == "12\n"
    assert fake_slurm.asked("sbatch")[0][:1] == ["--parsable"]
    assert not any(word.startswith("--dependency") for word in fake_slurm.asked("sbatch")[0])


def test_nothing_is_submitted_for_a_corpus_that_is_finished(
    prep_path: Path, paths: dict[str, Path], fake_slurm: FakeSlurm, tmp_path: Path, tokenizer: Path
) -> None:
    path = write_preparation(tmp_path, tokenizer, tmp_path / "prepared")
    prepare(load_config(path, [], PrepConfig))
    result = submit("prep", path, "--cluster", paths["cluster"], "--tasks", 2)
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "finished already" in result.stderr
    assert fake_slurm.asked("sbatch") == []


def test_overrides_go_to_the_configuration_that_they_name(paths: dict[str, Path]) -> None:
    result = submit_all(
        paths, "--dry-run", "cluster.prep.time_limit=2:00:00", "cluster.nodes=1", "train.schedule.total_steps=7"
    )
    tasks, trains = scripts(result.stdout)[1], scripts(result.stdout)[3]
    assert sbatch_values(tasks)["time"] == "2:00:00"
    assert sbatch_values(trains)["nodes"] == "1"
    assert "steps      7:" in result.stderr
    error = refused(submit_all(paths, "--dry-run", "schedule.total_steps=7"))
    assert "does not say which configuration" in str(error)


def test_training_is_planned_on_the_corpus_that_will_be_there(paths: dict[str, Path]) -> None:
    result = submit_all(paths, "--dry-run")
    assert f"{64 * SEQUENCE_LENGTH:,} tokens" in result.stderr
    for override, message in (
        ("train.data.corpus=elsewhere", "the preparation makes"),
        ("train.model.max_position_embeddings=16", "rows of 32 tokens and the model 16 positions"),
        ("train.batch.global_batch_size=50", "a multiple of"),
        ("train.parallel.tensor_parallel_size=8", "does not divide"),
        ("prep.sequence_length=2048", "rows of 2048 tokens"),
    ):
        assert message in str(refused(submit_all(paths, "--dry-run", override)))


def test_a_split_that_there_will_not_be_is_refused(paths: dict[str, Path]) -> None:
    assert submit_all(paths, "--dry-run", "train.evaluation.every_steps=10").exit_code == 0
    error = refused(submit_all(paths, "--dry-run", "train.evaluation.every_steps=10", "prep.splits.valid=0"))
    assert "no split 'valid'" in str(error)


def test_the_tokenizer_of_submit_prep_has_to_be_there(paths: dict[str, Path]) -> None:
    error = refused(submit("prep", paths["prep"], "--cluster", paths["cluster"], "--tasks", 4, "--dry-run"))
    assert "foreword submit all" in str(error)


def test_no_second_job_works_on_the_same_directory(
    paths: dict[str, Path], fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    assert submit_all(paths).exit_code == 0
    fake_slurm.show(("12", "COMPLETED"), ("13_0", "PENDING"))
    error = refused(submit_all(paths))
    assert isinstance(error, ConfigError)
    assert "13_0 (PENDING)" in str(error) and f"foreword cancel {tmp_path}/prepared" in str(error)
    fake_slurm.show(("12", "COMPLETED"), ("13_0", "FAILED"))
    assert submit_all(paths).exit_code == 0


def test_a_corpus_with_a_flipped_bit_is_refused_when_every_hash_is_compared(
    train_values: dict, corpus: Path, paths: dict[str, Path], fake_slurm: FakeSlurm
) -> None:
    shard = corpus / "train" / "00000.tokens.npy"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    words = ("train", paths["train"], f"data.corpus={corpus}", "--cluster", paths["cluster"], "--dry-run")
    assert submit(*words).exit_code == 0
    error = refused(submit(*words, "--verify-corpus"))
    assert isinstance(error, DataError) and "00000.tokens.npy" in str(error)


def test_paths_that_nodes_may_not_see_are_warned_of(paths: dict[str, Path], tmp_path: Path) -> None:
    container = "cluster.container={runtime: apptainer, image: /images/nowhere.sif, mounts: [/tmp]}"
    result = submit_all(paths, "--dry-run", container)
    assert "warning: there is no image /images/nowhere.sif on this machine" in result.stderr
    assert "apptainer exec" in scripts(result.stdout)[0]
    result = submit_all(paths, "--dry-run", "cluster.command=[/nowhere/python, -m, foreword]")
    assert "warning: there is no program /nowhere/python" in result.stderr
