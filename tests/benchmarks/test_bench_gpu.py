"""What of `make bench-gpu` needs no GPU: its batches, its clock, its verdicts, and a run of it all at a tiny size."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import run_distributed

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import bench_gpu
import gpu_budget
from gpu_attention import Correctness
from gpu_batches import make_synthetic_batch
from gpu_budget import OUT_OF_MEMORY, Budget
from gpu_models import Speed
from gpu_report import Results

SPEED = Speed("124m", "foreword, varlen", "packed", 32, 0.25, 500_000.0, 500_000.0, 0.4, 10**10, 3.0)


def test_without_a_gpu_it_says_so_and_ends_with_2(capsys) -> None:
    assert bench_gpu.main([]) == 2
    assert "needs a CUDA device, and PyTorch finds none here" in capsys.readouterr().err
    assert bench_gpu.main(["--device", "cpu"]) == 2


def dry_run(output: Path) -> int:
    torch.set_num_threads(1)
    return bench_gpu.main(["--device", "cpu", "--tiny", "--output", str(output)])


def test_a_dry_run_measures_everything_that_needs_no_kernel(tmp_path: Path) -> None:
    assert run_distributed(1, dry_run, tmp_path / "out" / "results.json") == [0]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert not results["left_out"]
    assert {c["backend"]: c["why_not"] is None for c in results["correctness"]} == {
        "varlen": False,
        "flex": False,
        "sdpa": True,
    }
    assert {(s["contender"], s["layout"]) for s in results["speeds"]} == {
        ("foreword, sdpa", "whole"),
        ("foreword, sdpa", "packed"),
        ("foreword, sdpa", "prefix"),
        ("plain PyTorch", "whole"),
    }
    assert all(s["tokens_per_s"] > 0 and np.isfinite(s["loss"]) for s in results["speeds"])
    assert [t["backend"] for t in results["attention"]] == ["plain causal", "sdpa", "sdpa"]


def test_layouts_of_one_seed_are_the_same_documents() -> None:
    def batch(layout):
        return make_synthetic_batch(16, 1024, 100, layout=layout, seed=3)

    packed, prefix, encoder, whole = map(batch, ("packed", "prefix", "encoder", "whole"))
    assert torch.equal(packed.segment_ids_BS, prefix.segment_ids_BS)
    assert torch.equal(packed.tokens_BS, prefix.tokens_BS)
    assert not packed.segments_G3[:, 2].any()
    assert np.array_equal(encoder.segments_G3[:, 2], encoder.segments_G3[:, 1])
    length_G, prefix_len_G = prefix.segments_G3[:, 1:].T
    assert 0.4 < (prefix_len_G / length_G).mean() < 0.6  # uniform boundaries
    assert len(whole.segments_G3) == 16 < len(packed.segments_G3)
    assert prefix.num_targets < packed.num_targets < whole.num_targets == 16 * 1024


def test_a_measurement_that_comes_to_nothing_is_named_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_budget, "WORTH_STARTING_S", 0.0)
    budget = Budget(total_s=60.0)

    def endless() -> None:
        while True:
            pass

    def no_memory() -> None:
        raise torch.OutOfMemoryError

    assert budget.measure("memory", 30.0, no_memory) is None
    assert budget.measure("broken", 30.0, lambda: 1 // 0) is None
    assert budget.measure("endless", 0.05, endless) is None
    assert budget.measure("kept", 30.0, lambda: 1) == 1
    assert budget.failed == ["broken"]
    assert budget.left_out == {
        "memory": OUT_OF_MEMORY,
        "broken": "failed with ZeroDivisionError: integer division or modulo by zero",
        "endless": "not done after 0 s",
    }


def test_nothing_is_started_when_the_time_is_over() -> None:
    budget = Budget(total_s=10.0, clock=iter([0.0, 7.0]).__next__)
    assert budget.measure("late", 30.0, lambda: 1) is None
    assert budget.left_out == {"late": "no time left of 10 s"}


def test_verdicts_are_about_what_was_measured_alone() -> None:
    results = Results({}, speeds=[SPEED, replace(SPEED, layout="prefix", tokens_per_s=470_000.0)])
    results.speeds.append(replace(SPEED, model="1.5b", tokens_per_s=40_000.0))
    results.correctness = [
        Correctness("flex", "packed", 0.5, 0.1),
        Correctness("varlen", "packed", None, None, "no GPU"),
    ]
    assert [(check.what, check.found, check.met) for check in results.checks()] == [
        ("flex equals the oracle, causal, packed documents", "5.0e-01 of 1.0e-01", False),
        ("124m causal, packed documents: at least 465,000 tokens/s", "500,000", True),
        ("124m prefix, packed documents: at least 465,000 tokens/s", "470,000", True),
        ("1.5b causal, packed documents: at least 47,000 tokens/s", "40,000", False),
        ("124m prefix, tokens/s over causal's: at least 0.95", "0.940", False),
    ]
