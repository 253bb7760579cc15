"""How a step is computed is no part of a checkpoint: a run goes on with other options as if nothing had changed."""

from pathlib import Path

import pytest
from tiny_corpus import make_corpus
from training import HALF, curve, fork_run, train_all, train_config

from pipeline.checkpoint.meta import KINDS, read_meta
from pipeline.checkpoint.read import CheckpointReader
from pipeline.config.train import TrainConfig

LAST = "checkpoints/step_00000008"
WAYS = {
    "plain": {"parallel": {"tensor_parallel_size": 2}},
    "saving": {
        "parallel": {"tensor_parallel_size": 2, "sequence_parallel": True, "zero_stage": 3},
        "activation_checkpointing": "full",
    },
}


def config_of(run: Path, root: Path, way: str) -> TrainConfig:
    return train_config(run, root / "corpus", evaluation__every_steps=None, **WAYS[way])


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("ways")
    make_corpus(root / "corpus")
    assert train_all(2, *(config_of(root / way, root, way) for way in WAYS)) == [[None, None]] * 2
    changed = [("plain", "saving"), ("saving", "plain")]
    forks = [fork_run(root / before, root / f"{before}_forked", HALF) for before, _ in changed]
    others = [config_of(fork, root, after) for fork, (_, after) in zip(forks, changed, strict=True)]
    assert train_all(2, *others) == [[None, None]] * 2
    return root


@pytest.mark.parametrize("before", WAYS)
def test_a_run_goes_on_with_sequence_parallelism_and_checkpointing_or_without_and_is_the_same_run(root, before):
    run, uninterrupted = root / f"{before}_forked", root / before
    assert curve(run) == pytest.approx(curve(uninterrupted), rel=1e-6)
    assert curve(run, "grad_norm") == pytest.approx(curve(uninterrupted, "grad_norm"), rel=1e-6)
    checkpoints = [(path / LAST, read_meta(path / LAST)) for path in (run, uninterrupted)]
    (reader, other) = (CheckpointReader(path, meta) for path, meta in checkpoints)
    with reader, other:
        for name in checkpoints[0][1].parameters:
            for kind in KINDS:
                expected = other.read_full(name, kind)
                assert reader.read_full(name, kind).numpy() == pytest.approx(expected.numpy(), rel=1e-4, abs=5e-6)
