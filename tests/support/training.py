"""Whole training runs on the tiny corpus, several after one another in the same processes to save their imports."""

import json
import os
import shutil
from pathlib import Path

from processes import run_distributed
from tiny_corpus import make_corpus

from foreword.config import dump_config, validate
from foreword.errors import ForewordError
from pipeline.config.train import TrainConfig
from slurm.job.port import reserve_port

STEPS = 8
HALF = 4


def train_config(run_dir: Path, corpus: Path, **changes) -> TrainConfig:
    """A two-layer model for a few steps; `changes` are dotted keys with "__" for the dot."""
    values: dict = {
        "run_dir": str(run_dir),
        "data": {"corpus": str(corpus), "seed": 7},
        "model": {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 32},
        "batch": {"global_batch_size": 8, "micro_batch_size": 2},
        "parallel": {},
        # the key bias has no gradient but rounding, which a small eps would blow up into different weights
        "optimizer": {"lr": 1e-2, "clip_grad_norm": 0.5, "eps": 1e-5},
        "schedule": {"total_steps": STEPS, "warmup_steps": 2},
        "checkpoint": {"every_steps": HALF, "keep_last": 10},
        "evaluation": {"every_steps": HALF},
        "logging": {"every_steps": 1, "wandb": {"mode": "disabled"}},
    }
    for key, value in changes.items():
        section = values
        *path, last = key.split("__")
        for name in path:
            section = section[name]
        section[last] = value
    return validate(values, TrainConfig)


def train_all(world_size: int, *configs: TrainConfig, timeout_s: float = 300.0) -> list[list[str | None]]:
    """Run the configurations one after another on `world_size` ranks.

    Returns:
        For each rank the message of each run's error, None where there was none.
    """
    ports = [reserve_port() for _ in configs]
    return run_distributed(world_size, _train_each, configs, ports, timeout_s=timeout_s)


def finished_run(root: Path, world_size: int) -> Path:
    """`root`, which gets a finished run, `run`, with a checkpoint in the middle and one at the end; beside it its
    corpus and its configuration, `c.yaml`.
    """
    config = train_config(root / "run", make_corpus(root / "corpus").path)
    (root / "c.yaml").write_text(dump_config(config))
    assert train_all(world_size, config) == [[None]] * world_size
    return root


def _train_each(configs: list[TrainConfig], ports: list[int]) -> list[str | None]:
    from pipeline.train import train

    errors: list[str | None] = []
    for config, port in zip(configs, ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        try:
            train(config)
            errors.append(None)
        except ForewordError as error:
            errors.append(f"{type(error).__name__}: {error}")
    return errors


def records(run_dir: Path) -> list[dict]:
    """Everything in metrics.jsonl, in order."""
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def curve(run_dir: Path, key: str = "loss") -> dict[int, float]:
    """Step -> value, the later of two records with the same step."""
    return {record["step"]: record[key] for record in records(run_dir) if "event" not in record}


def fork_run(run_dir: Path, copy: Path, step: int) -> Path:
    """A copy of a run as it was when it was interrupted after `step`."""
    shutil.copytree(run_dir, copy)
    for checkpoint in (copy / "checkpoints").iterdir():
        if checkpoint.name > f"step_{step:08d}":
            shutil.rmtree(checkpoint)
    kept = [line for line in (copy / "metrics.jsonl").read_text().splitlines() if json.loads(line)["step"] <= step]
    (copy / "metrics.jsonl").write_text("\n".join(kept) + "\n")
    return copy
