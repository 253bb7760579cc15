"""How a process is started in a container: the words, what is mounted, and that values stay what they are."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from played_jobs import TRICKY_LINE
from pydantic import ValidationError

from foreword.errors import ConfigError
from slurm.config import ClusterConfig
from slurm.container import launch

HERE = Path("/home/me/work")


def cluster(gpus: int = 8, runtime: str = "apptainer", **container: object) -> ClusterConfig:
    values = {"runtime": runtime, "image": "/images/a.sif"} | container
    tasks = {} if gpus else {"tasks_per_node": 1}
    return ClusterConfig.model_validate(
        {"gpus_per_node": gpus, "cpus_per_task": 1, "time_limit": "1:00:00", "container": values} | tasks
    )


def mounted(runtime: str, *mounts: str, needed: list[str]) -> list[str]:
    started = launch(cluster(runtime=runtime, mounts=list(mounts)), HERE, [Path(path) for path in needed])
    if runtime == "pyxis":
        (option,) = (word for word in started.srun_options if word.startswith("--container-mounts="))
        return option.removeprefix("--container-mounts=").split(",")
    words = started.command
    return [words[at + 1] for at, word in enumerate(words) if word == "--bind"]


def test_without_a_container_the_python_that_submits_starts_foreword() -> None:
    bare = ClusterConfig(gpus_per_node=1, cpus_per_task=1, time_limit="60")
    assert launch(bare, HERE, [Path("/scratch")]).command[1:] == ("-m", "foreword")
    assert launch(bare, HERE, [Path("/scratch")]).srun_options == ()


@pytest.mark.parametrize("runtime", ["apptainer", "singularity"])
def test_apptainer_is_a_command_before_the_command_and_sees_gpus_where_there_are_some(runtime: str) -> None:
    words = launch(cluster(runtime=runtime, options=["--cleanenv"]), HERE, []).command
    assert words[:3] == (runtime, "exec", "--nv")
    assert words[-3:] == ("--cleanenv", "/images/a.sif", "foreword")
    assert words[words.index("--pwd") + 1] == str(HERE)
    assert "--nv" not in launch(cluster(gpus=0, runtime=runtime), HERE, []).command


def test_pyxis_is_options_of_srun() -> None:
    started = launch(cluster(runtime="pyxis", options=["--no-container-mount-home"]), HERE, [], A="1", B="2")
    assert started.command == ("foreword",)
    assert started.srun_options == (
        "--container-image=/images/a.sif",
        "--container-mounts=/home/me/work:/home/me/work",
        "--container-workdir=/home/me/work",
        "--container-env=A,B",
        "--no-container-mount-home",
    )


def test_variables_win_over_the_images_own() -> None:
    environment = launch(cluster(), HERE, [], NAME="a b").environment
    assert environment == {"NAME": "a b", "APPTAINERENV_NAME": "a b"}


@pytest.mark.parametrize("runtime", ["apptainer", "pyxis"])
def test_what_a_job_needs_is_mounted_once_and_only_where_no_mount_brings_it_in(runtime: str) -> None:
    found = mounted(runtime, "/scratch", "/data:/corpora:ro", needed=["/scratch/run", "/data/c", "/x/y", "/x", "/"])
    sources = [mount.partition(":")[0] for mount in found]
    assert sources == ["/scratch", "/data", "/data/c", "/home/me/work", "/x"]
    assert found[1] == "/data:/corpora:ro"


@pytest.mark.parametrize("path", ["/scratch/a:b", "/scratch/a,b"])
def test_a_path_that_cannot_be_mounted_is_refused_unless_one_above_it_is(path: str) -> None:
    with pytest.raises(ConfigError, match="colon or a comma"):
        launch(cluster(), HERE, [Path(path)])
    launch(cluster(mounts=["/scratch"]), HERE, [Path(path)])


@pytest.mark.parametrize("key", ["image", "mounts"])
@pytest.mark.parametrize("value", ["a\nb", ""])
def test_names_of_images_and_mounts_are_single_lines(key: str, value: str) -> None:
    with pytest.raises(ValidationError, match="must not"):
        cluster(**{key: [value] if key == "mounts" else value})


@given(image=st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1))
@example(image=TRICKY_LINE)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_images_name_is_one_word_whatever_it_holds(image: str) -> None:
    assert launch(cluster(image=image), HERE, []).command[-2] == image
    assert launch(cluster(image=image, runtime="pyxis"), HERE, []).srun_options[0] == f"--container-image={image}"
