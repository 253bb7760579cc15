"""Estimates before a submission: what is refused, and what is only warned of."""

from pathlib import Path
from typing import Any

import pytest

from foreword.config import load_config
from foreword.errors import ConfigError
from pipeline.config.model import ModelConfig
from pipeline.config.train import TrainConfig
from pipeline.plan.sizes import checkpoint_bytes
from slurm.checks import (
    node_memory_bytes,
    path_warnings,
    refuse_no_time_to_train,
    training_warnings,
)
from slurm.config import ClusterConfig

CONFIGS = Path(__file__).parents[2] / "configs" / "train"
GPT2_VOCABULARY = 50257


def cluster(**changes: Any) -> ClusterConfig:
    values = {"gpus_per_node": 8, "cpus_per_task": 8, "time_limit": "24:00:00"}
    return ClusterConfig.model_validate(values | changes)


@pytest.fixture
def large() -> TrainConfig:
    return load_config(CONFIGS / "gpt2-1.5b-prefix.yaml", [], TrainConfig)


def test_a_time_limit_that_a_save_fills_is_refused(large: TrainConfig) -> None:
    assert 18e9 < checkpoint_bytes(large.model, GPT2_VOCABULARY) < 20e9
    refuse_no_time_to_train(large, cluster(), GPT2_VOCABULARY)
    short = cluster(time_limit="5:10", prep={"time_limit": "1:00:00"})
    with pytest.raises(ConfigError, match=r"time_limit 5:10 less signal_before_limit_s 300 .* about 19 s"):
        refuse_no_time_to_train(large, short, GPT2_VOCABULARY)


def test_a_notice_shorter_than_a_save_is_warned_of(large: TrainConfig) -> None:
    huge = large.model_copy(
        update={"model": ModelConfig(num_layers=96, hidden_size=4096, num_attention_heads=32)}
    )  # 19 billion parameters
    assert training_warnings(large, cluster(signal_before_limit_s=60), GPT2_VOCABULARY) == []
    (warning,) = training_warnings(huge, cluster(signal_before_limit_s=60), GPT2_VOCABULARY)
    assert "signal_before_limit_s 60 is shorter than a save, about 2" in warning


def test_little_memory_is_warned_of(large: TrainConfig) -> None:
    needed_gb = node_memory_bytes(large, cluster(), GPT2_VOCABULARY) / 1e9
    assert training_warnings(large, cluster(memory_per_node_gb=round(needed_gb) + 1), GPT2_VOCABULARY) == []
    (warning,) = training_warnings(large, cluster(memory_per_node_gb=16), GPT2_VOCABULARY)
    assert f"memory_per_node_gb 16 is little for 8 processes: about {needed_gb:.0f} GB" in warning


def test_what_is_kept_in_main_memory_counts(large: TrainConfig) -> None:
    offloaded = large.model_copy(update={"parallel": large.parallel.model_copy(update={"offload_optimizer": True})})
    state = checkpoint_bytes(large.model, GPT2_VOCABULARY)
    more = node_memory_bytes(offloaded, cluster(), GPT2_VOCABULARY) - node_memory_bytes(
        large, cluster(), GPT2_VOCABULARY
    )
    assert more == state
    assert node_memory_bytes(large, cluster(nodes=2), GPT2_VOCABULARY) < node_memory_bytes(
        large, cluster(), GPT2_VOCABULARY
    )


def test_only_the_outermost_of_directories_that_nodes_have_for_themselves_is_named() -> None:
    bare = cluster(command=["/opt/python"])
    (missing, local) = path_warnings(bare, [Path("/tmp/a/b"), Path("/tmp/a"), Path("/scratch/c"), Path("/dev/shm/d")])
    assert missing == "there is no program /opt/python on this machine"
    assert local.endswith(": /dev/shm/d, /tmp/a")
    assert path_warnings(cluster(command=["foreword"]), [Path("/scratch/c")]) == []
