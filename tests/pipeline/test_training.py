"""An interrupted run is the uninterrupted one, to the bit, and every topology measures the same.

`checkpoint.test_topologies` has the runs that change their topology, `test_against_plain_pytorch` what is computed.
"""

from pathlib import Path

import pytest
import torch
from tiny_corpus import make_corpus
from training import HALF, STEPS, curve, fork_run, records, train_all, train_config

from pipeline.checkpoint.meta import read_meta
from pipeline.checkpoint.read import CheckpointReader

TOPOLOGIES = [(zero_stage, tensor_parallel_size) for zero_stage in (0, 1, 2, 3) for tensor_parallel_size in (1, 2)]
LAST = f"checkpoints/step_{STEPS:08d}"


def cut(zero_stage: int, tensor_parallel_size: int) -> dict:
    return {"parallel__zero_stage": zero_stage, "parallel__tensor_parallel_size": tensor_parallel_size}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Whole runs of every ZeRO stage and tensor-parallel size on two processes, and one process alone."""
    root = tmp_path_factory.mktemp("runs")
    corpus = make_corpus(root / "corpus").path
    configs = [train_config(root / f"zero{zero}_tp{tp}", corpus, **cut(zero, tp)) for zero, tp in TOPOLOGIES]
    assert train_all(2, *configs) == [[None] * len(configs)] * 2
    assert train_all(1, train_config(root / "alone", corpus, **cut(0, 1))) == [[None]]
    return root


def test_every_topology_measures_the_same_validation_losses(runs):
    measured = {
        run.name: {
            (record["step"], key): record[key]
            for record in records(run)
            if record.get("event") == "validation"
            for key in ("prefix_loss", "causal_loss", "prefix_bits_per_byte", "causal_bits_per_byte")
        }
        for run in runs.glob("zero*")
    }
    assert len(measured["zero0_tp1"]) == 8
    for values in measured.values():
        assert values == pytest.approx(measured["zero0_tp1"], rel=1e-6)


def test_the_curve_falls(runs):
    losses = curve(runs / "alone")
    assert losses[STEPS] < 0.9 * losses[1]


def test_resuming_with_the_same_topology_is_bitwise(runs, tmp_path):
    names = {f"zero{zero}_tp{tp}": cut(zero, tp) for zero, tp in TOPOLOGIES}
    forks = {name: fork_run(runs / name, tmp_path / name, HALF) for name in names}
    configs = [train_config(forks[name], runs / "corpus", **changes) for name, changes in names.items()]
    assert train_all(2, *configs) == [[None] * len(configs)] * 2
    for name, run in forks.items():
        for key in ("loss", "grad_norm"):
            assert curve(run, key) == curve(runs / name, key)
        assert_same_state(run / LAST, runs / name / LAST)


def test_bf16_keeps_its_masters_and_resumes_to_the_bit(runs, tmp_path):
    """The master weights are saved, not the bf16 copies; ZeRO 0 and 1 use another optimizer of DeepSpeed's here."""
    names = {f"bf16_zero{zero}": cut(zero, 1) | {"precision": "bf16"} for zero in (0, 1, 2, 3)}
    configs = [train_config(tmp_path / name, runs / "corpus", **changes) for name, changes in names.items()]
    assert train_all(2, *configs) == [[None] * 4] * 2
    forks = {name: fork_run(tmp_path / name, tmp_path / f"{name}_again", HALF) for name in names}
    configs = [train_config(forks[name], runs / "corpus", **changes) for name, changes in names.items()]
    assert train_all(2, *configs) == [[None] * 4] * 2
    for name, run in forks.items():
        assert curve(run) == curve(tmp_path / name)
        assert_same_state(run / LAST, tmp_path / name / LAST)
        assert curve(run) == pytest.approx(curve(runs / "alone"), rel=1e-2)


def assert_same_state(checkpoint: Path, other: Path) -> None:
    """Weights, moments and Adam's step are equal to the bit."""
    meta, other_meta = read_meta(checkpoint), read_meta(other)
    assert meta.optimizer_steps == other_meta.optimizer_steps
    with CheckpointReader(checkpoint, meta) as reader, CheckpointReader(other, other_meta) as other_reader:
        for name in meta.parameters:
            for kind in ("fp32", "exp_avg", "exp_avg_sq"):
                assert torch.equal(reader.read_full(name, kind), other_reader.read_full(name, kind)), (kind, name)
