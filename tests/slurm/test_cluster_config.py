"""The cluster configuration: what is refused, and what its numbers mean."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from foreword.config import load_config
from foreword.errors import ConfigError
from slurm.config import ClusterConfig, load_cluster, seconds_of

GENERIC = Path(__file__).parents[2] / "configs" / "cluster" / "generic_8gpu.yaml"


def cluster(**values: Any) -> ClusterConfig:
    return ClusterConfig.model_validate({"gpus_per_node": 8, "cpus_per_task": 4, "time_limit": "1:00:00"} | values)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("1:30", 90), ("2:00:00", 7200), ("1-12", 129600), ("1-0:30", 88200), ("2-01:00:05", 176405)],
)
def test_a_time_limit_means_what_it_means_to_sbatch(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("value", ["forever", "1:2:3:4", "-5", "1h", ""])
def test_a_time_limit_that_sbatch_would_not_take_is_refused(value: str) -> None:
    with pytest.raises(ValidationError, match="Slurm time"):
        cluster(time_limit=value)


def test_a_time_limit_without_quotes_is_refused_because_yaml_reads_a_number(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("gpus_per_node: 8\ncpus_per_task: 4\ntime_limit: 12:00:00\n")
    with pytest.raises(ConfigError, match=r"cluster\.yaml:3: time_limit: must be written in quotes"):
        load_config(path, [], ClusterConfig)


def test_with_gpus_there_is_one_process_per_gpu() -> None:
    assert cluster(nodes=2).world_size == 16
    with pytest.raises(ValidationError, match="tasks_per_node is for clusters without GPUs"):
        cluster(tasks_per_node=2)


def test_without_gpus_the_number_of_processes_must_be_said() -> None:
    assert cluster(nodes=3, gpus_per_node=0, tasks_per_node=2).world_size == 6
    with pytest.raises(ValidationError, match="tasks_per_node must say"):
        cluster(gpus_per_node=0)


def test_the_signal_must_come_before_the_limit() -> None:
    with pytest.raises(ValidationError, match="must be below time_limit"):
        cluster(time_limit="5", signal_before_limit_s=300)


@pytest.mark.parametrize("key", ["partition", "account", "qos", "gpu_type"])
@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b", "\x1b[31m", ""])
def test_what_is_written_on_an_sbatch_line_must_fit_on_one(key: str, value: str) -> None:
    with pytest.raises(ValidationError, match=key):
        cluster(**{key: value})


@pytest.mark.parametrize("value", ["a\nb", ""])
def test_further_options_must_fit_on_a_line(value: str) -> None:
    with pytest.raises(ValidationError, match="sbatch_options"):
        cluster(sbatch_options={"constraint": value})


@pytest.mark.parametrize("name", ["Constraint", "--constraint", "a b", "a\nb", "-C", ""])
def test_further_options_are_named_as_sbatch_names_them(name: str) -> None:
    with pytest.raises(ValidationError, match="long name of an sbatch option"):
        cluster(sbatch_options={name: "x"})


def test_an_option_that_has_a_key_of_its_own_is_refused_with_the_key() -> None:
    with pytest.raises(ValidationError, match="written by the key 'time_limit'"):
        cluster(sbatch_options={"time": "1"})


@pytest.mark.parametrize("value", [False, None, 1.5])
def test_an_options_value_is_text_a_whole_number_or_true(value: object) -> None:
    with pytest.raises(ValidationError, match="sbatch_options"):
        cluster(sbatch_options={"exclusive": value})


@pytest.mark.parametrize("name", ["A B", "A=B", "1A", "A;B", ""])
def test_a_variable_must_have_a_name_that_a_shell_can_export(name: str) -> None:
    with pytest.raises(ValidationError, match="name of an environment variable"):
        cluster(environment={name: "x"})


@pytest.mark.parametrize("text", ["time_limit=2:00:00", "time_limit=30", "prep.time_limit=1-12"])
def test_a_time_limit_on_the_command_line_needs_no_quotes(text: str) -> None:
    loaded = load_cluster(GENERIC, [text])
    key, _, value = text.partition("=")
    assert (loaded.prep.time_limit if key.startswith("prep") else loaded.time_limit) == value


def test_preparation_has_what_it_says_and_otherwise_what_training_has() -> None:
    loaded = cluster(
        nodes=4,
        gpu_type="h100",
        memory_per_node_gb=480,
        partition="gpu",
        account="ours",
        setup=["module load python"],
        environment={"A": "1"},
        sbatch_options={"exclusive": True},
        prep={"partition": "cpu", "cpus_per_task": 16, "environment": {"B": "2"}},
    ).for_preparation()
    assert (loaded.world_size, loaded.gpus_per_node, loaded.gpu_type) == (1, 0, None)
    assert (loaded.partition, loaded.account, loaded.cpus_per_task) == ("cpu", "ours", 16)
    assert (loaded.setup, loaded.environment) == (["module load python"], {"B": "2"})
    assert (loaded.memory_per_node_gb, loaded.sbatch_options, loaded.signal_before_limit_s) == (None, {}, 120)
    assert loaded.time_limit == "1:00:00"


def test_the_signal_of_preparation_comes_before_its_own_limit() -> None:
    with pytest.raises(ValidationError, match=r"prep\.signal_before_limit_s 120 must be below"):
        cluster(prep={"time_limit": "2"})


@pytest.mark.parametrize("name", ["array", "comment", "dependency", "output"])
def test_what_foreword_itself_writes_is_no_further_option(name: str) -> None:
    with pytest.raises(ValidationError, match="is written by Foreword itself"):
        cluster(prep={"sbatch_options": {name: "x"}})
