"""A small corpus and the two configurations of a submission."""

from pathlib import Path

import pytest
from fake_slurm import FakeSlurm, install
from tiny_corpus import make_corpus
from tiny_preparation import train_tokenizer, write_preparation

from pipeline.config.train import TrainConfig
from slurm.config import ClusterConfig


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return make_corpus(tmp_path / "corpus").path


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


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tiny.model")


@pytest.fixture
def prep_path(tmp_path: Path, tokenizer: Path) -> Path:
    """The configuration file of a preparation in `tmp_path`, whose output is `tmp_path / "prepared"`."""
    return write_preparation(tmp_path, tokenizer, tmp_path / "prepared")


@pytest.fixture
def fake_slurm(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Slurm's clients in front of the PATH, played."""
    return install(tmp_path_factory.mktemp("fake") / "slurm", monkeypatch)
