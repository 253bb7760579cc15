"""Which checkpoints stay, and that the newest complete one and the best always do."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_checkpoint import make_checkpoint
from training import train_config

from pipeline.checkpoint.find import CHECKPOINTS, complete_checkpoints
from pipeline.checkpoint.inspect import verify_checkpoint
from pipeline.checkpoint.retention import apply_retention, steps_to_keep
from pipeline.checkpoint.workspace import Workspace, remove_leftovers
from pipeline.config.run import CheckpointConfig


def steps_of(run_dir) -> list[int]:
    return [step for step, _ in complete_checkpoints(run_dir)]


@pytest.fixture
def run(tmp_path):
    """Seven checkpoints; the loss on the validation split was lowest after step 2."""
    config = train_config(tmp_path / "run", tmp_path)
    for step in range(1, 8):
        make_checkpoint(config.run_dir, step, config=config, validation_loss=1 + abs(step - 2) if step > 1 else None)
    return config.run_dir


@pytest.fixture
def workspace(run) -> Workspace:
    workspace = Workspace(run, 1)
    workspace.open()
    return workspace


def test_the_last_every_nth_and_the_best_stay(run, workspace):
    removed = apply_retention(run, CheckpointConfig(keep_last=2, keep_every_steps=4), workspace.discard)
    assert steps_of(run) == [2, 4, 6, 7]
    assert [path.name for path in removed] == ["step_00000001", "step_00000003", "step_00000005"]
    assert verify_checkpoint(run) == []


def test_the_best_goes_where_it_is_not_asked_for(run, workspace):
    apply_retention(run, CheckpointConfig(keep_last=1, keep_best=False), workspace.discard)
    assert steps_of(run) == [7]


def test_a_broken_checkpoint_does_not_count_and_is_left_alone(run, workspace):
    newest = complete_checkpoints(run)[-1][1]
    os.truncate(next(newest.glob("*.safetensors")), 10)
    apply_retention(run, CheckpointConfig(keep_last=1, keep_best=False), workspace.discard)
    assert steps_of(run) == [6]
    assert newest.is_dir()


def test_a_removal_that_is_killed_leaves_no_checkpoint_but_a_leftover(run, workspace, monkeypatch):
    def killed(path, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.checkpoint.workspace.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        workspace.discard(complete_checkpoints(run)[0][1])
    monkeypatch.undo()
    assert steps_of(run) == [2, 3, 4, 5, 6, 7]
    assert remove_leftovers(run, number=2) == [workspace.path]
    assert len(list((run / CHECKPOINTS).iterdir())) == 6


def test_a_checkpoint_that_cannot_be_removed_is_named_and_training_goes_on(run, capsys):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    assert apply_retention(run, CheckpointConfig(keep_last=6, keep_best=False), refuse) == []
    assert "step_00000001: an old checkpoint that could not be removed: Permission denied" in capsys.readouterr().err


@given(
    losses=st.dictionaries(st.integers(1, 50), st.none() | st.floats(0, 9), min_size=1),
    keep_last=st.integers(1, 5),
    every=st.none() | st.integers(1, 9),
)
def test_the_newest_and_the_best_always_stay(losses, keep_last, every):
    kept = steps_to_keep(losses, CheckpointConfig(keep_last=keep_last, keep_every_steps=every))
    assert max(losses) in kept
    assert len(kept & set(sorted(losses)[-keep_last:])) == min(keep_last, len(losses))
    measured = [loss for loss in losses.values() if loss is not None]
    assert not measured or min(measured) in {losses[step] for step in kept}
    assert steps_to_keep({step: losses[step] for step in kept}, CheckpointConfig(keep_last=keep_last)) <= kept
