"""A step whose update is refused leaves no trace but its rows, on any rank, at any ZeRO stage."""

import os
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from processes import run_distributed
from tiny_corpus import make_corpus
from training import curve, fork_run, records, train_config

from foreword.errors import ForewordError
from pipeline.checkpoint.find import complete_checkpoints
from pipeline.checkpoint.meta import read_meta
from pipeline.checkpoint.read import CheckpointReader
from slurm.job.port import reserve_port

CUTS = [("fp32", zero, tp) for zero in range(4) for tp in (1, 2)] + [("bf16", zero, 1) for zero in range(4)]
SAVE_ALWAYS = {"checkpoint__every_steps": 1, "checkpoint__keep_last": 100, "evaluation__every_steps": None}


def train_with_broken_steps(jobs: list[tuple], ports: list[int]) -> list[str | None]:
    """Train each (config, {step: factor}): at these steps rank 1 (or a rank alone) multiplies its loss by the factor.

    The backward pass then brings the factor to every gradient of that rank, as a broken device or an overflow would.
    """
    from deepspeed.accelerator import get_accelerator

    from pipeline.engine.engine import Engine
    from pipeline.model import GPT2
    from pipeline.train import train

    # a CPU without such instructions is only slow in fp16; DeepSpeed refuses it
    get_accelerator().is_fp16_supported = lambda: True
    real_step, real_forward = Engine.step, GPT2.forward
    factor: list[float | None] = [None]

    def forward(self, batch, reduction="sum"):
        loss = real_forward(self, batch, reduction)
        return loss if factor[0] is None or reduction != "sum" else loss * factor[0]

    errors: list[str | None] = []
    for (config, broken), port in zip(jobs, ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        count = [0]

        def step(self, *args, broken=broken, count=count):
            count[0] += 1
            rank, last = torch.distributed.get_rank(), torch.distributed.get_world_size() - 1
            factor[0] = broken.get(count[0]) if rank == last else None
            try:
                return real_step(self, *args)
            finally:
                factor[0] = None

        Engine.step, GPT2.forward = step, forward
        try:
            train(config)
            errors.append(None)
        except ForewordError as error:
            errors.append(str(error))
    return errors


def train_broken(world_size: int, *jobs: tuple) -> list[str | None]:
    """The error of each job, the same on all ranks."""
    errors = run_distributed(world_size, train_with_broken_steps, jobs, [reserve_port() for _ in jobs], timeout_s=300.0)
    assert all(of_rank == errors[0] for of_rank in errors)
    return errors[0]


def assert_same_training_state(checkpoint: Path, other: Path) -> None:
    meta, other_meta = read_meta(checkpoint), read_meta(other)
    assert meta.optimizer_steps == other_meta.optimizer_steps
    with CheckpointReader(checkpoint, meta) as reader, CheckpointReader(other, other_meta) as other_reader:
        for name in meta.parameters:
            for kind in ("fp32", "exp_avg", "exp_avg_sq"):
                assert torch.equal(reader.read_full(name, kind), other_reader.read_full(name, kind)), (kind, name)


def skips(run: Path) -> list[dict]:
    return [record for record in records(run) if record.get("event") == "skipped"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("skipped")
    make_corpus(root / "corpus")
    return root


@pytest.fixture(scope="module")
def runs(root) -> Path:
    """Two steps, of which the second is broken, at every stage in fp32 and bf16, with a checkpoint after each."""
    jobs = []
    for precision, zero, tp in CUTS:
        changes = {"parallel__zero_stage": zero, "parallel__tensor_parallel_size": tp, "precision": precision}
        run = root / f"{precision}_zero{zero}_tp{tp}"
        config = train_config(run, root / "corpus", schedule={"total_steps": 2}, **changes, **SAVE_ALWAYS)
        jobs.append((config, {2: float("nan")}))
    assert train_broken(2, *jobs) == [None] * len(jobs)
    return root


@pytest.mark.parametrize(("precision", "zero_stage", "tensor_parallel_size"), CUTS)
def test_a_gradient_that_is_no_number_on_one_rank_leaves_the_state_of_all_untouched(
    runs, precision, zero_stage, tensor_parallel_size
):
    run = runs / f"{precision}_zero{zero_stage}_tp{tensor_parallel_size}"
    (skip,) = skips(run)
    assert (skip["step"], len(skip["rows"]), len(set(skip["rows"]))) == (2, 8, 8)
    assert "not finite" in skip["reason"]
    (_, before), (_, after) = complete_checkpoints(run)
    progress = read_meta(after).progress
    assert (progress.step, progress.samples_consumed, progress.skipped_steps) == (2, 16, 1)
    assert read_meta(after).optimizer_steps == 1
    assert_same_training_state(before, after)
    assert list(curve(run)) == [1]  # a step without an update has no record of one


def test_training_goes_on_after_a_skipped_step_and_saves_after_a_good_one(root):
    config = train_config(root / "on", root / "corpus", **{**SAVE_ALWAYS, "checkpoint__every_steps": 4})
    assert train_broken(2, (config, {4: float("inf")})) == [None]
    run = root / "on"
    assert [step for step, _ in complete_checkpoints(run)] == [5, 8]
    assert list(curve(run)) == [1, 2, 3, 5, 6, 7, 8]
    assert curve(run)[8] < curve(run)[1]
    assert read_meta(complete_checkpoints(run)[-1][1]).progress.skipped_steps == 1


def test_too_many_skipped_steps_in_a_row_end_the_run_with_its_checkpoint_untouched(root):
    run = root / "hopeless"
    config = train_config(run, root / "corpus", **SAVE_ALWAYS, guard={"max_skipped_in_a_row": 2})
    broken = dict.fromkeys([2, 4, 5, 6], float("nan"))
    (error,) = train_broken(2, (config, broken))
    assert "3 steps in a row were skipped" in error
    assert "the last checkpoint is untouched" in error
    assert [skip["step"] for skip in skips(run)] == [2, 4, 5, 6]
    assert complete_checkpoints(run)[-1][0] == 3


def test_a_spike_is_skipped_only_where_the_guard_is_on_and_judged_alike_after_a_resume(root):
    guard = {"guard": {"spike_threshold": 8.0, "spike_window": 8}}
    changes = SAVE_ALWAYS | {"schedule__total_steps": 12, "optimizer__lr": 1e-3}
    spike = {11: 100.0}
    on = train_config(root / "on_guard", root / "corpus", **changes, **guard)
    off = train_config(root / "off_guard", root / "corpus", **changes)
    assert train_broken(2, (on, spike), (off, spike)) == [None, None]
    assert skips(root / "off_guard") == []
    (skip,) = skips(root / "on_guard")
    assert (skip["step"], "spike" in skip["reason"]) == (11, True)

    run = fork_run(root / "on_guard", root / "resumed", 9)
    again = train_config(run, root / "corpus", **changes, **guard)
    assert train_broken(2, (again, {2: 100.0})) == [None]  # its second step is the run's eleventh
    assert [record["reason"] for record in skips(run)] == [skip["reason"]]
    assert curve(run) == curve(root / "on_guard")


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_fp16_finds_its_loss_scale_and_keeps_it_over_a_resume(root, zero_stage):
    """The first steps overflow, which is no reason to give up; the scale grows again every second good step."""
    changes = SAVE_ALWAYS | {
        "precision": "fp16",
        "parallel__zero_stage": zero_stage,
        "loss_scaling": {"initial_scale_power": 20, "window": 2, "hysteresis": 1},
        "guard": {"max_skipped_in_a_row": 0},
        "schedule__total_steps": 10,
    }
    run = root / f"fp16_zero{zero_stage}"
    assert train_broken(2, (train_config(run, root / "corpus", **changes), {})) == [None]
    reasons = [skip["reason"] for skip in skips(run)]
    assert reasons[0] == "fp16 overflow at loss scale 1.04858e+06"
    assert len(reasons) < 8
    saved = [read_meta(path) for _, path in complete_checkpoints(run)]
    assert saved[-1].optimizer_steps == 10 - len(reasons)
    scales = [meta.engine.loss_scaler.cur_scale for meta in saved]
    assert min(scales) < 2**20
    assert any(later > earlier for earlier, later in pairwise(scales))

    step = saved[0].progress.step
    copy = fork_run(run, root / f"fp16_again_zero{zero_stage}", step)
    assert train_broken(2, (train_config(copy, root / "corpus", **changes), {})) == [None]
    assert curve(copy) == curve(run)
    assert_same_training_state(complete_checkpoints(copy)[-1][1], complete_checkpoints(run)[-1][1])
