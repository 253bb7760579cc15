"""A small corpus and the two configurations of a submission."""

from pathlib import Path

import numpy as np
import pytest

from data_prep.manifest import Manifest, SplitInfo, TokenizerInfo
from data_prep.shards import write_shard
from pipeline.config import TrainConfig
from slurm.config import ClusterConfig

SEQUENCE_LENGTH = 16


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Four rows of sixteen inputs each, one causal document a row."""
    path = tmp_path / "corpus"
    (path / "train").mkdir(parents=True)
    tokens = np.zeros((4, SEQUENCE_LENGTH + 1), dtype=np.uint16)
    shard = write_shard(path, "train", "00000", tokens, np.arange(5), np.zeros((4, 2), dtype=np.int32))
    sums = shard.model_dump(include={"rows", "segments", "tokens", "targets", "padding"})
    Manifest(
        tokenizer=TokenizerInfo(kind="sentencepiece", name="t", sha256="0", vocab_size=8, eod_id=0, pad_id=0),
        sequence_length=SEQUENCE_LENGTH,
        dtype="uint16",
        packing={"policy": "best_fit"},
        seed=1,
        splits={"train": SplitInfo(documents=4, cut_documents=0, shards=[shard], **sums)},
        sources=[],
        config={},
    ).save(path)
    return path


@pytest.fixture
def train_values(corpus: Path, tmp_path: Path) -> dict:
    """A training configuration for 64 rows a step, as plain values."""
    return {
        "run_dir": str(tmp_path / "run"),
        "data": {"corpus": str(corpus)},
        "model": {"num_layers": 2, "hidden_size": 16, "num_attention_heads": 4},
        "batch": {"global_batch_size": 64, "micro_batch_size": 4},
        "parallel": {"tensor_parallel_size": 2},
        "optimizer": {"lr": 1e-3},
        "schedule": {"total_steps": 100},
    }


@pytest.fixture
def train_config(train_values: dict) -> TrainConfig:
    return TrainConfig.model_validate(train_values)


@pytest.fixture
def cluster_config() -> ClusterConfig:
    """Two nodes of four GPUs."""
    return ClusterConfig(nodes=2, gpus_per_node=4, cpus_per_task=8, time_limit="12:00:00")
