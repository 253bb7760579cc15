"""What is refused before a preparation is submitted, what is left to do, and what the plan says."""

from pathlib import Path

import pytest
from tiny_preparation import write_preparation

from data_prep.config import PrepConfig
from data_prep.prepare import finish, prepare_task
from foreword.config import load_config
from foreword.errors import ConfigError, DataError
from slurm.config import ClusterConfig
from slurm.prep_plan import PrepPlan, plan_preparation

CLUSTER = ClusterConfig.model_validate(
    {
        "gpus_per_node": 8,
        "cpus_per_task": 8,
        "time_limit": "12:00:00",
        "prep": {"cpus_per_task": 3, "memory_gb": 20, "time_limit": "2:00:00"},
    }
)


def plan(path: Path, tasks: int = 4, *overrides: str) -> PrepPlan:
    config = load_config(path, overrides, PrepConfig)
    return plan_preparation(config, CLUSTER, tasks, any(text.startswith("workers=") for text in overrides))


def kinds(made: PrepPlan) -> list[tuple[str, tuple[int, ...]]]:
    return [(stage.kind, stage.tasks) for stage in made.stages]


def test_tasks_then_one_job_that_finishes(prep_path: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    made = plan(prep_path)
    assert kinds(made) == [("prep", (0, 1, 2, 3)), ("finish", ())]
    assert sorted(tmp_path.rglob("*")) == before
    assert "4 of 4 to do" in made.describe()
    assert "3 CPU(s) on one node, 20 GB, 2:00:00, 3 worker(s)" in made.describe()


def test_only_tasks_with_something_left_to_do_are_submitted_again(prep_path: Path) -> None:
    config = load_config(prep_path, [], PrepConfig)
    for task in (0, 2):
        prepare_task(config, task, 4)
    assert kinds(plan(prep_path)) == [("prep", (1, 3)), ("finish", ())]
    for task in (1, 3):
        prepare_task(config, task, 4)
    assert kinds(plan(prep_path)) == [("finish", ())]
    finish(config)
    assert kinds(plan(prep_path)) == []
    assert "finished already, nothing to do" in plan(prep_path).describe()


def test_a_slice_that_is_gone_is_done_again(prep_path: Path) -> None:
    config = load_config(prep_path, [], PrepConfig)
    prepare_task(config, 0, 1)
    next((Path(config.output) / ".work" / "slices").glob("*.json")).unlink()
    assert kinds(plan(prep_path, 1)) == [("prep", (0,)), ("finish", ())]


def test_as_many_workers_as_cpus_unless_told_otherwise(prep_path: Path) -> None:
    assert plan(prep_path).config.workers == 3
    assert plan(prep_path, 4, "workers=2").config.workers == 2


def test_a_tokenizer_that_is_not_there_is_trained_first(tmp_path: Path) -> None:
    path = write_preparation(tmp_path, tmp_path / "later.model", tmp_path / "prepared")
    made = plan(path)
    assert [kind for kind, _ in kinds(made)] == ["tokenizer", "prep", "finish"]
    assert "to be trained first: bpe, 300 pieces" in made.describe()


def test_a_tokenizer_that_nobody_can_train_is_missed_at_once(tmp_path: Path) -> None:
    path = write_preparation(tmp_path, tmp_path / "tokenizer.json", tmp_path / "prepared")
    with pytest.raises(ConfigError, match="no such tokenizer"):
        plan(path)


def test_a_preparation_does_not_go_on_with_another_tokenizer_than_it_began_with(
    tmp_path: Path, tokenizer: Path
) -> None:
    own = tmp_path / "own.model"
    own.write_bytes(tokenizer.read_bytes())
    path = write_preparation(tmp_path, own, tmp_path / "prepared")
    prepare_task(load_config(path, [], PrepConfig), 0, 4)
    own.unlink()
    with pytest.raises(ConfigError, match="tokenizer that this preparation began with is gone"):
        plan(path)


def test_sources_that_are_not_there_are_named(tmp_path: Path, tokenizer: Path) -> None:
    missing = [{"kind": "jsonl", "path": str(tmp_path / "nowhere.jsonl")}]
    path = write_preparation(tmp_path, tokenizer, tmp_path / "prepared", sources=missing)
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl"):
        plan(path)


def test_an_output_of_another_configuration_is_refused_with_what_changed(prep_path: Path) -> None:
    prepare_task(load_config(prep_path, [], PrepConfig), 0, 4)
    with pytest.raises(ConfigError, match="sequence_length: 32 -> 64"):
        plan(prep_path, 4, "sequence_length=64")


def test_an_input_that_changed_since_is_refused(prep_path: Path, tmp_path: Path) -> None:
    prepare_task(load_config(prep_path, [], PrepConfig), 0, 4)
    with (tmp_path / "text.jsonl").open("a") as file:
        file.write('{"text": "one more"}\n')
    with pytest.raises(DataError, match="has changed since the preparation began"):
        plan(prep_path)


@pytest.mark.parametrize("make", [Path.touch, lambda path: (path / "something else").mkdir(parents=True)])
def test_an_output_that_is_something_else_is_refused(prep_path: Path, tmp_path: Path, make) -> None:
    make(tmp_path / "prepared")
    with pytest.raises(ConfigError, match=r"not a directory|not empty"):
        plan(prep_path)


def test_scripts_of_an_earlier_submission_are_no_hindrance(prep_path: Path, tmp_path: Path) -> None:
    (tmp_path / "prepared" / "slurm").mkdir(parents=True)
    (tmp_path / "prepared" / "slurm" / "12.log").touch()
    assert kinds(plan(prep_path, 1)) == [("prep", (0,)), ("finish", ())]
    prepare_task(load_config(prep_path, [], PrepConfig), 0, 1)


def test_tasks_without_a_share_are_told(prep_path: Path) -> None:
    assert "99 have no share" not in plan(prep_path, 1).describe()
    assert "of 100 have no share" in plan(prep_path, 100).describe()


def test_what_the_jobs_read_and_write_is_known(prep_path: Path, tmp_path: Path, tokenizer: Path) -> None:
    assert {tmp_path / "prepared", tokenizer.parent, tmp_path} <= set(plan(prep_path).needed_directories())


def test_the_estimate_is_that_of_a_dry_run_of_prep(prep_path: Path) -> None:
    assert "tokens:" in plan(prep_path).estimate()
