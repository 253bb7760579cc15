"""What takes part in `make bench-checkpoint` does what it claims, at a tiny size."""

import sys
from pathlib import Path

import pytest
from processes import run_distributed
from training import train_config

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import bench_checkpoint
import checkpoint_contenders as contenders

VOCAB_SIZE = 97


@pytest.mark.parametrize("name", bench_checkpoint.CONTENDERS)
def test_a_contender_saves_and_loads_all_of_the_state(tmp_path: Path, name: str) -> None:
    config = train_config(tmp_path / "run", tmp_path, parallel__zero_stage=0)
    _, contender = bench_checkpoint.CONTENDERS[name]
    (figures,) = run_distributed(1, contenders.take_turn, contender, tmp_path / "turn", config, VOCAB_SIZE)
    state_bytes = 3 * 4 * 30_592  # what `foreword inspect` counts of this model
    assert state_bytes < figures.size_bytes < 1.6 * state_bytes
    assert 0 < figures.stall_s <= figures.save_s
    assert figures.load_s > 0
    assert not (tmp_path / "turn").exists()


def test_rates_are_measured(tmp_path: Path) -> None:
    rates = contenders.take_turn(contenders.measure_rates, tmp_path / "turn", 2**20)
    assert min(rates.copy, rates.sha256, rates.write_through_cache, rates.write, rates.read) > 0
