"""A few optimizer steps of the engine by itself, without corpus, checkpoints and logs, for many configurations."""

import os
from pathlib import Path

import numpy as np
from processes import run_distributed
from tiny_corpus import VOCAB_SIZE
from training import train_config

from pipeline.config.train import TrainConfig
from pipeline.data.batch import Batch, make_batch
from slurm.job.port import reserve_port

STEPS, ROWS, ROW_LENGTH = 2, 8, 33
Steps = list[tuple[float, float]]  # loss and gradient norm of each


def engine_config(**changes) -> TrainConfig:
    """As `train_config`; nothing is read from disk and nothing written."""
    return train_config(Path("unused"), Path("unused"), **changes)


def steps_of_each(world_size: int, *configs: TrainConfig, timeout_s: float = 240.0) -> list[Steps]:
    """What every configuration comes to on `world_size` ranks, the same on all of them."""
    ports = [reserve_port() for _ in configs]
    per_rank = run_distributed(world_size, steps_here, configs, ports, timeout_s=timeout_s)
    assert all(steps == per_rank[0] for steps in per_rank)
    return per_rank[0]


def steps_here(configs: list[TrainConfig], ports: list[int]) -> list[Steps]:
    """`steps_of_each` on one of the ranks."""
    results = []
    for config, port in zip(configs, ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        results.append(steps_of(config))
    return results


def steps_of(config: TrainConfig) -> Steps:
    """Steps of a fresh engine in this process, alone or as one of those that RANK and its like say."""
    from pipeline.attention import COMPUTE_DTYPES, select_backend
    from pipeline.distributed.parallel import initialize
    from pipeline.engine import Engine
    from pipeline.model import build_model

    parallel = initialize(config.parallel.tensor_parallel_size)
    try:
        model = build_model(
            config.model,
            VOCAB_SIZE,
            backend=select_backend(config.attention, parallel.device, COMPUTE_DTYPES[config.precision]),
            seed=config.seed,
            sequence_parallel=config.parallel.sequence_parallel,
        ).to(parallel.device)
        size = config.batch.micro_batch_size
        engine = Engine(model, config, parallel, ROWS // size // parallel.data_parallel_size)
        results = []
        for step in range(STEPS):
            batches = [batch_of(step, first, size) for first in range(0, ROWS, size)]
            targets = sum(batch.num_targets for batch in batches)
            own = batches[parallel.data_parallel_rank :: parallel.data_parallel_size]
            result = engine.step([batch.to(parallel.device) for batch in own], targets, lr=1e-2)
            results.append((result.loss, result.grad_norm))
        engine.deepspeed.destroy()
        return results
    finally:
        parallel.destroy()


def batch_of(step: int, first: int, size: int) -> Batch:
    """Rows `first` to `first + size` of a step: tokens that count upwards, in segments with prefixes."""
    rows = [_row(np.random.default_rng((step, row))) for row in range(first, first + size)]
    return make_batch(
        np.stack([tokens for tokens, _ in rows]), [segments for _, segments in rows], np.arange(len(rows))
    )


def _row(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    starts = np.append(0, np.sort(random.choice(np.arange(4, 30), size=random.integers(0, 5), replace=False)))
    prefix_lens = random.integers(0, np.diff(np.append(starts, ROW_LENGTH)))
    return (random.integers(VOCAB_SIZE) + np.arange(ROW_LENGTH)) % VOCAB_SIZE, np.stack([starts, prefix_lens], axis=1)
