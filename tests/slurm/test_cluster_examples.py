"""Every file in configs/cluster/ can be used as it is: for training, for preparation, and for both."""

from pathlib import Path

import pytest
import yaml
from played_jobs import sbatch_values
from reviewed_scripts import assert_bash_parses, assert_shellcheck_finds_nothing
from tiny_preparation import write_preparation

from slurm.config import ClusterConfig, load_cluster
from slurm.preparation import prepare_all
from slurm.submit import Prepared

EXAMPLES = sorted((Path(__file__).parents[2] / "configs" / "cluster").glob("*.yaml"))


@pytest.fixture(params=EXAMPLES, ids=lambda path: path.stem)
def example(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def cluster(example: Path) -> ClusterConfig:
    return load_cluster(example, [])


@pytest.fixture
def prepared(example: Path, cluster: ClusterConfig, tmp_path: Path, train_values: dict) -> Prepared:
    train_values |= {"data": {"corpus": str(tmp_path / "prepared")}, "parallel": {}}
    train_values["batch"] = {"global_batch_size": cluster.world_size, "micro_batch_size": 1}
    train = tmp_path / "train.yaml"
    train.write_text(yaml.safe_dump(train_values))
    prep = write_preparation(tmp_path, tmp_path / "later.model", tmp_path / "prepared")
    return prepare_all(prep, train, example, [], 4, tmp_path)


def test_its_scripts_are_good_shell(prepared: Prepared) -> None:
    assert [job.kind for job in prepared.jobs] == ["tokenizer", "prep", "finish", "train"]
    for job in prepared.jobs:
        assert_bash_parses(job.script)
        assert_shellcheck_finds_nothing(job.script)


def test_its_scripts_ask_for_what_it_says(prepared: Prepared, cluster: ClusterConfig) -> None:
    tasks, trains = (sbatch_values(prepared.jobs[at].script) for at in (1, 3))
    assert int(trains["nodes"]) * int(trains["ntasks-per-node"]) == cluster.world_size
    assert tasks["time"] == (cluster.prep.time_limit or cluster.time_limit)
    assert "gpus-per-node" not in tasks
    for job in prepared.jobs:
        assert ("apptainer exec" in job.script) == ("apptainer" in str(cluster.container))
        assert ("--container-image" in job.script) == ("pyxis" in str(cluster.container))
