"""What is refused before a job is submitted, and what the plan says."""

from pathlib import Path

import pytest
from tiny_corpus import SEQUENCE_LENGTH

from foreword.errors import ConfigError, DataError
from pipeline.config.train import TrainConfig
from slurm.config import ClusterConfig
from slurm.plan import plan_training


def test_the_plan_multiplies_out(train_config: TrainConfig, cluster_config: ClusterConfig) -> None:
    plan = plan_training(train_config, cluster_config)
    assert (plan.world_size, plan.run.world_size, plan.run.data_parallel_size) == (8, 8, 4)
    assert plan.run.gradient_accumulation_steps * 4 * plan.run.data_parallel_size == 64
    assert plan.run.global_batch_tokens == 64 * SEQUENCE_LENGTH
    description = plan.describe()
    assert "8 = 2 node(s) x 4 GPU process(es)" in description
    assert "tensor 2 x data 4" in description
    assert "memory     of one GPU" in plan.estimate()


def test_times_are_predicted_where_the_cluster_names_its_network(
    train_values: dict, cluster_config: ClusterConfig
) -> None:
    train = TrainConfig.model_validate(train_values | {"precision": "bf16"})
    assert "predicted" not in plan_training(train, cluster_config).estimate()
    named = ClusterConfig.model_validate(cluster_config.model_dump() | {"gpu_type": "a100", "network": "hdr200"})
    assert "predicted  A100, 4 a node, hdr200;" in plan_training(train, named).estimate()
    unknown = ClusterConfig.model_validate(named.model_dump() | {"gpu_type": "abacus"})
    assert "predicted  nothing: no figures for a GPU 'abacus'" in plan_training(train, unknown).estimate()
    with pytest.raises(ValueError, match="no network 'tin-can'"):
        ClusterConfig.model_validate(named.model_dump() | {"network": "tin-can"})


def test_a_tensor_parallel_group_must_stay_inside_a_node(train_values: dict) -> None:
    train_values["parallel"]["tensor_parallel_size"] = 4
    cluster = ClusterConfig(nodes=2, gpus_per_node=2, cpus_per_task=1, time_limit="60")
    with pytest.raises(ConfigError, match="would span nodes"):
        plan_training(TrainConfig.model_validate(train_values), cluster)


def test_a_batch_that_the_ranks_cannot_share_is_refused_with_the_multiple(
    train_values: dict, cluster_config: ClusterConfig
) -> None:
    train_values["batch"]["global_batch_size"] = 50
    with pytest.raises(ConfigError, match="a multiple of 16"):
        plan_training(TrainConfig.model_validate(train_values), cluster_config)


def test_a_missing_corpus_is_refused(train_values: dict, cluster_config: ClusterConfig) -> None:
    train_values["data"]["corpus"] += "-elsewhere"
    with pytest.raises(DataError, match="no such corpus directory"):
        plan_training(TrainConfig.model_validate(train_values), cluster_config)


def test_a_truncated_shard_is_refused_by_name(
    train_config: TrainConfig, cluster_config: ClusterConfig, corpus: Path
) -> None:
    shard = corpus / "train" / "00000.tokens.npy"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"00000\.tokens\.npy"):
        plan_training(train_config, cluster_config)


def test_a_split_that_the_corpus_lacks_is_refused(train_values: dict, cluster_config: ClusterConfig) -> None:
    train_values["data"]["train_split"] = "holdout"
    with pytest.raises(ConfigError, match="holdout"):
        plan_training(TrainConfig.model_validate(train_values), cluster_config)


def test_what_would_end_the_run_in_its_middle_is_refused(train_values: dict, cluster_config: ClusterConfig) -> None:
    train_values["data"]["validation_split"] = "holdout"
    plan_training(TrainConfig.model_validate(train_values), cluster_config)  # it is not read without evaluation
    train_values["evaluation"] = {"every_steps": 10}
    with pytest.raises(ConfigError, match="holdout"):
        plan_training(TrainConfig.model_validate(train_values), cluster_config)


def test_rows_longer_than_the_models_positions_are_refused(train_values: dict, cluster_config: ClusterConfig) -> None:
    train_values["model"]["max_position_embeddings"] = 16
    with pytest.raises(ConfigError, match="rows of 32 tokens and the model 16 positions"):
        plan_training(TrainConfig.model_validate(train_values), cluster_config)


def test_a_missing_initial_checkpoint_is_refused(train_values: dict, cluster_config: ClusterConfig) -> None:
    train_values["init_from"] = "/nowhere"
    with pytest.raises(ConfigError, match=r"init_from\.path: /nowhere: no such checkpoint"):
        plan_training(TrainConfig.model_validate(train_values), cluster_config)


@pytest.mark.parametrize("name", ["two\nlines", "back\\slash", "bell\a"])
def test_a_run_directory_that_an_sbatch_line_cannot_name_is_refused(
    train_values: dict, cluster_config: ClusterConfig, name: str
) -> None:
    train_values["run_dir"] += name
    with pytest.raises(ConfigError, match="run_dir"):
        plan_training(TrainConfig.model_validate(train_values), cluster_config)
