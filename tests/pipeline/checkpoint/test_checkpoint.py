"""A checkpoint is complete or it does not exist, says what it is, and can be read without any topology."""

import shutil
from pathlib import Path

import pytest
import torch
from stored_weights import load_weights
from training import HALF, STEPS, curve, finished_run, records, train_all, train_config

from pipeline.checkpoint.find import complete_checkpoints, newest_complete
from pipeline.checkpoint.inspect import describe_checkpoint, verify_checkpoint
from pipeline.checkpoint.meta import read_meta
from pipeline.checkpoint.workspace import remove_leftovers

NEWEST, OLDER = f"step_{STEPS:08d}", f"step_{HALF:08d}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A finished run on two processes with a checkpoint in the middle and one at the end."""
    return finished_run(tmp_path_factory.mktemp("finished"), 2)


@pytest.fixture
def run(finished, tmp_path) -> Path:
    shutil.copytree(finished / "run", tmp_path / "run")
    return tmp_path / "run"


def test_a_whole_checkpoint_has_no_problems(run):
    assert verify_checkpoint(run) == []
    assert newest_complete(run) == run / "checkpoints" / NEWEST


def test_training_continues_from_the_older_checkpoint_to_the_same_end(finished, run):
    (run / "checkpoints" / NEWEST / "foreword.json").unlink()
    assert train_all(2, train_config(run, finished / "corpus")) == [[None], [None]]
    assert curve(run) == curve(finished / "run")
    assert verify_checkpoint(run / "checkpoints" / NEWEST) == []


def test_what_a_killed_save_leaves_is_removed_and_nothing_else(run):
    leftover = run / "checkpoints" / ".tmp-0123"
    leftover.mkdir()
    (leftover / "tp_00_dp_000.safetensors").write_bytes(b"half")
    assert remove_leftovers(run, number=1) == [leftover]
    assert [step for step, _ in complete_checkpoints(run)] == [HALF, STEPS]


def test_description_has_the_facts(run):
    facts = describe_checkpoint(run)
    assert (facts["step"], facts["samples_consumed"], facts["objective"]) == (STEPS, STEPS * 8, "prefix")
    assert facts["parameters"] == sum(tensor.numel() for tensor in load_weights(run / "checkpoints" / NEWEST).values())
    assert facts["topology"]["world_size"] == 2


def test_the_loss_that_decides_which_checkpoint_is_the_best_is_that_of_the_evaluation_before_it(finished):
    run = finished / "run"
    measured = {r["step"]: r["prefix_loss"] for r in records(run) if r.get("event") == "validation"}
    assert len(measured) == 2
    assert {step: read_meta(path).validation_loss for step, path in complete_checkpoints(run)} == measured


def test_weights_load_without_any_topology(finished, run):
    weights = load_weights(run / "checkpoints" / NEWEST)
    assert weights["wte.weight"].shape == (128, 32)
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
