"""The scripts of a preparation: reviewed copies, values that stay values, and when a job goes back into the queue."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from played_jobs import ARGUMENT, LINE, TRICKY, TRICKY_LINE, Played, play, sbatch_values
from reviewed_scripts import assert_bash_parses, assert_reviewed, assert_shellcheck_finds_nothing

from foreword.errors import ConfigError
from slurm.config import ClusterConfig
from slurm.container import launch
from slurm.events import JobEvent, read_events
from slurm.prep_plan import PrepStage
from slurm.script import array_of, render_preparation

CLUSTER = {
    "gpus_per_node": 8,
    "cpus_per_task": 8,
    "memory_per_node_gb": 480,
    "time_limit": "2-00:00:00",
    "partition": "gpu",
    "account": "it's ours",
    "sbatch_options": {"exclusive": True},
    "command": ["/opt/venv/bin/python", "-m", "foreword"],
    "max_restarts": 5,
    "prep": {
        "cpus_per_task": 16,
        "memory_gb": 64,
        "time_limit": "8:00:00",
        "partition": "cpu",
        "max_at_once": 50,
        "setup": [": module load python"],
        "environment": {"HF_HOME": "/scratch/my cache"},
    },
}
STAGES = {
    "tokenizer": PrepStage("tokenizer"),
    "prep": PrepStage("prep", (0, 1, 2, 7)),
    "finish": PrepStage("finish"),
}
ARGUMENTS = {
    "tokenizer": ["tokenizer", "train", "prep-ab12.yaml"],
    "prep": ["prep", "prep-ab12.yaml", "--tasks", "8"],
    "finish": ["prep", "prep-ab12.yaml", "--finish"],
}
ELEMENT = {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "7", "SLURMD_NODENAME": "node3"}


def render(kind: str = "prep", directory: Path = Path("/scratch/corpus"), **changes: Any) -> str:
    cluster = ClusterConfig.model_validate(CLUSTER | changes).for_preparation()
    return render_preparation(
        STAGES[kind],
        cluster,
        launch(cluster, Path("/home/me/work dir"), [directory]),
        directory=directory,
        arguments=ARGUMENTS[kind],
        name=f"foreword-corpus-{kind}",
        working_directory=Path("/home/me/work dir"),
    )


def play_task(directory: Path, exits_with: int = 0, **environment: str) -> Played:
    """Run element 7 of the array as a job on the corpus `directory`."""
    (directory / "slurm").mkdir(exist_ok=True)
    return play(directory, render(directory=directory), exits_with, **ELEMENT, **environment)


def events(directory: Path) -> list[JobEvent]:
    return read_events(directory)


@pytest.mark.parametrize("kind", STAGES)
def test_the_script_is_the_reviewed_one(kind: str) -> None:
    assert_reviewed(f"{kind}_cpu", render(kind))


def test_the_script_with_a_container_is_the_reviewed_one() -> None:
    container = {"runtime": "apptainer", "image": "/images/foreword 1.sif"}
    prep = {"cpus_per_task": 4, "container": container, "command": ["foreword"]}
    assert_reviewed("prep_apptainer", render(prep=prep))


@pytest.mark.parametrize("kind", STAGES)
def test_bash_parses_the_script(kind: str) -> None:
    assert_bash_parses(render(kind))


@pytest.mark.parametrize("kind", STAGES)
def test_shellcheck_finds_nothing(kind: str) -> None:
    assert_shellcheck_finds_nothing(render(kind))


def test_a_job_asks_for_what_the_preparation_needs_and_not_for_what_training_does() -> None:
    asked = sbatch_values(render())
    assert (asked["partition"], asked["account"]) == ("cpu", "it's ours")
    assert (asked["cpus-per-task"], asked["mem"], asked["time"]) == ("16", "64G", "8:00:00")
    assert not {"exclusive", "gpus-per-node"} & asked.keys()


def test_only_the_tasks_are_an_array() -> None:
    assert sbatch_values(render("prep"))["array"] == "0-2,7%50"
    assert "array" not in render("tokenizer") + render("finish")


@pytest.mark.parametrize(
    ("tasks", "limit", "text"),
    [([0], None, "0"), ([3, 1, 2], None, "1-3"), ([0, 2, 4, 5], 2, "0,2,4-5%2"), (range(1000), None, "0-999")],
)
def test_numbers_of_tasks_as_sbatch_takes_them(tasks: list[int], limit: int | None, text: str) -> None:
    assert array_of(list(tasks), limit) == text


def test_an_element_does_its_own_task_and_says_so(tmp_path: Path) -> None:
    job = play_task(tmp_path)
    assert job.exit_code == 0
    assert job.srun_arguments[-6:] == ["prep", "prep-ab12.yaml", "--tasks", "8", "--task", "7"]
    assert job.environment["HF_HOME"] == "/scratch/my cache"
    assert [(event.event, event.job_id, event.nodes) for event in events(tmp_path)] == [
        ("started", "12_7", ["node3"]),
        ("finished", "12_7", ["node3"]),
    ]


@pytest.mark.parametrize("code", [75, 143])
def test_a_stopped_job_goes_back_into_the_queue(tmp_path: Path, code: int) -> None:
    job = play_task(tmp_path, code, SLURM_RESTART_COUNT="2")
    assert job.was_requeued("12_7")
    last = events(tmp_path)[-1]
    assert (last.event, last.exit_code, last.restart, last.reason) == ("requeued", code, 2, "stopped on request")


@pytest.mark.parametrize("code", [2, 3])
def test_a_wrong_configuration_and_damaged_data_are_never_tried_again(tmp_path: Path, code: int) -> None:
    job = play_task(tmp_path, code)
    assert not job.was_requeued("12_7")
    assert job.exit_code == code
    assert (events(tmp_path)[-1].event, events(tmp_path)[-1].exit_code) == ("failed", code)


def test_a_crash_is_tried_again_so_often_and_no_more(tmp_path: Path) -> None:
    for restart in range(3):
        assert play_task(tmp_path, 137, SLURM_RESTART_COUNT=str(restart)).was_requeued("12_7")
    last = play_task(tmp_path, 137, SLURM_RESTART_COUNT="3")
    assert not last.was_requeued("12_7")
    assert last.exit_code == 137
    assert events(tmp_path)[-1].event == "gave_up"
    assert "crashed 4 time(s)" in str(events(tmp_path)[-1].reason)


def test_being_stopped_for_time_does_not_count_as_a_crash(tmp_path: Path) -> None:
    for restart in range(4):
        assert play_task(tmp_path, 75, SLURM_RESTART_COUNT=str(restart)).was_requeued("12_7")
    assert play_task(tmp_path, 1, SLURM_RESTART_COUNT="4").was_requeued("12_7")


@pytest.mark.parametrize("code", [75, 1])
def test_all_starts_together_are_bounded(tmp_path: Path, code: int) -> None:
    assert not play_task(tmp_path, code, SLURM_RESTART_COUNT="5").was_requeued("12_7")
    assert events(tmp_path)[-1].event == "gave_up"


@pytest.mark.parametrize("code", [75, 137])
def test_a_cancelled_job_does_not_try_to_come_back(tmp_path: Path, code: int) -> None:
    job = play_task(tmp_path, code, REQUEUE="0")
    assert job.exit_code == code
    assert not job.was_requeued("12_7")
    last = events(tmp_path)[-1]
    assert (last.event, str(last.reason).partition(", ")[2]) == ("stopped", "and cancelled")


def test_a_job_that_slurm_does_not_queue_again_says_so(tmp_path: Path) -> None:
    assert play_task(tmp_path, 75, REQUEUE_EXITS_WITH="1").exit_code == 75
    assert [event.event for event in events(tmp_path)][-2:] == ["requeued", "stopped"]


def test_the_tokenizer_begins_anew_when_it_is_stopped_so_that_counts_as_a_crash(tmp_path: Path) -> None:
    (tmp_path / "slurm").mkdir()
    job = play(tmp_path, render("tokenizer", directory=tmp_path), 143)
    assert job.was_requeued("123456")
    assert [event.event for event in events(tmp_path)] == ["started", "crashed", "requeued"]


def test_a_job_works_although_nothing_can_be_noted(tmp_path: Path) -> None:
    job = play(tmp_path, render(directory=tmp_path / "gone"), 1, **ELEMENT)
    assert job.was_requeued("12_7")


@given(word=ARGUMENT, value=ARGUMENT)
@example(word=TRICKY, value=TRICKY)
@example(word="", value="\r")
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_words_and_variables_reach_the_process_as_they_are(tmp_path: Path, word: str, value: str) -> None:
    (tmp_path / "slurm").mkdir(exist_ok=True)
    prep = {"environment": {"TRICKY": value}, "command": ["python", word]}
    job = play(tmp_path, render(directory=tmp_path, prep=prep), **ELEMENT)
    assert job.exit_code == 0
    assert job.srun_arguments[3:5] == ["python", word]
    assert job.environment["TRICKY"] == value
    assert not Path("broken").exists()


@given(name=LINE.filter(lambda name: "/" not in name and "\\" not in name and name not in (".", "..")))
@example(name=TRICKY_LINE.replace("/", ""))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_corpus_may_have_any_name_that_fits_on_a_line(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name[:60]
    (directory / "slurm").mkdir(parents=True, exist_ok=True)
    script = render(directory=directory)
    assert sbatch_values(script)["comment"] == f"foreword:{directory}"
    assert sbatch_values(script)["output"].replace("%%", "%") == f"{directory}/slurm/%A_%a.log"
    assert play(tmp_path, script, **ELEMENT).exit_code == 0
    assert events(directory)[-1].event == "finished"
    assert not Path("broken").exists()


@pytest.mark.parametrize("name", ["two\nlines", "bell\a"])
def test_a_name_that_does_not_fit_on_a_line_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="#SBATCH --comment"):
        render(directory=Path("/scratch") / name)
