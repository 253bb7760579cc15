"""Saving goes on beside training: one save at a time, never left behind, and what it cost is on record."""

import json
import threading
import time
from pathlib import Path
from unittest import mock

import pytest
from processes import run_distributed
from tiny_corpus import make_corpus
from training import records, train_config

from foreword.errors import CheckpointError, ForewordError, StoppedOnRequest
from pipeline.checkpoint.find import complete_checkpoints
from pipeline.checkpoint.inspect import verify_checkpoint

SLOW_S = 0.4  # of a write; a step takes a twentieth of it


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus")).path


def train_slowly_saved(config, slow_ranks: tuple[int, ...], until_step: int | None = None) -> dict:
    """Train with writes that take `SLOW_S`, or the first of them until a step has begun that comes later.

    Returns:
        The kind of error that was raised, and how many writes of this rank were at work at the same time.
    """
    import os

    import pipeline.checkpoint.save as save
    from pipeline.engine import Engine
    from pipeline.train import train

    rank, at_work, most, steps = int(os.environ["RANK"]), 0, 0, 0
    reached = threading.Event()
    real_write, real_step = save.write_and_hash, Engine.step

    def step(self, *args):
        nonlocal steps
        steps += 1
        if steps == until_step:
            reached.set()
        return real_step(self, *args)

    def write(path, content, cancelled: threading.Event):
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        if until_step is not None:
            assert reached.wait(60), "training did not go on"
        elif rank in slow_ranks:
            cancelled.wait(SLOW_S)
        written = real_write(path, content, cancelled)
        at_work -= 1
        return written

    with mock.patch.object(save, "write_and_hash", write), mock.patch.object(Engine, "step", step):
        error = None
        try:
            train(config)
        except ForewordError as raised:
            error = type(raised).__name__
        # by now nothing is in flight any more
        assert at_work == 0
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint")]
    return {"error": error, "most": most}


def order_of(run: Path) -> list[str]:
    """Steps and checkpoints as they are on record."""
    told = [(record.get("event", "step"), record["step"]) for record in records(run)]
    return [f"{event} {step}" for event, step in told if event in ("step", "checkpoint")]


def test_training_goes_on_while_a_checkpoint_is_written(corpus, tmp_path):
    config = train_config(tmp_path / "run", corpus, schedule__total_steps=6, checkpoint__every_steps=3)
    assert run_distributed(1, train_slowly_saved, config, (0,), 5) == [{"error": None, "most": 1}]
    order = order_of(tmp_path / "run")
    assert order.index("checkpoint 3") > order.index("step 4")
    assert order[-1] == "checkpoint 6"
    assert verify_checkpoint(tmp_path / "run") == []


def test_what_a_save_costs_is_on_record_and_little(corpus, tmp_path):
    for name, asynchronous in (("beside", True), ("apart", False)):
        config = train_config(
            tmp_path / name,
            corpus,
            schedule__total_steps=60,
            checkpoint={"every_steps": 30, "asynchronous": asynchronous},
            evaluation__every_steps=None,
        )
        assert run_distributed(1, train_slowly_saved, config, (0,)) == [{"error": None, "most": 1}]
    beside, apart = (
        next(record for record in records(tmp_path / name) if record.get("event") == "checkpoint")
        for name in ("beside", "apart")
    )
    assert beside["save_s"] >= SLOW_S
    assert beside["stall_s"] < beside["save_s"] / 2
    assert apart["stall_s"] >= SLOW_S
    assert apart["stall_s"] > 0.8 * apart["save_s"]
    order = order_of(tmp_path / "apart")
    assert order.index("checkpoint 30") == order.index("step 30") + 1


def test_one_save_is_in_flight_at_most(corpus, tmp_path):
    config = train_config(tmp_path / "run", corpus, schedule__total_steps=4, checkpoint__every_steps=1)
    started = time.monotonic()
    outcomes = run_distributed(2, train_slowly_saved, config, (0,))
    assert outcomes == [{"error": None, "most": 1}] * 2
    assert time.monotonic() - started > 4 * SLOW_S
    assert [step for step, _ in complete_checkpoints(tmp_path / "run")] == [1, 2, 3, 4]


def test_a_save_of_which_one_part_has_failed_is_given_up_by_all(corpus, tmp_path):
    config = train_config(
        tmp_path / "run", corpus, schedule__total_steps=10_000, checkpoint__every_steps=2, evaluation__every_steps=None
    )
    first, second = run_distributed(2, stop_after_a_failed_save, config, timeout_s=60)
    assert first == second == "CheckpointError"
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def stop_after_a_failed_save(config) -> str:
    """Rank 1 fails at once, rank 0 would write for an hour; a signal comes at step 5."""
    import os
    import signal

    import pipeline.checkpoint.save as save
    from pipeline.engine import Engine
    from pipeline.train import train

    steps = 0
    real_step = Engine.step

    def step(self, *args):
        nonlocal steps
        steps += 1
        if steps == 5:
            os.kill(os.getpid(), signal.SIGUSR1)
        return real_step(self, *args)

    def write(path, content, cancelled: threading.Event):
        if os.environ["RANK"] == "1":
            raise OSError(28, "No space left on device")
        assert cancelled.wait(3600)

    with mock.patch.object(save, "write_and_hash", write), mock.patch.object(Engine, "step", step):
        try:
            train(config)
        except CheckpointError as error:
            return type(error).__name__
        except StoppedOnRequest:
            return "stopped as if it had been saved"
    return "no error"


def end_with_a_save_in_flight(config) -> str:
    """The third step and all that follow have a loss that is not finite, while the save of the second is written."""
    import torch

    import pipeline.checkpoint.save as save
    from pipeline.engine import Engine
    from pipeline.train import train

    steps = 0
    real_update, real_write = Engine._update, save.write_and_hash

    def update(self, loss):
        nonlocal steps
        steps += 1
        return real_update(self, loss if steps <= 2 else torch.full_like(loss, torch.nan))

    def write(path, content, cancelled):
        time.sleep(2 * SLOW_S)
        return real_write(path, content, cancelled)

    with mock.patch.object(Engine, "_update", update), mock.patch.object(save, "write_and_hash", write):
        try:
            train(config)
        except ForewordError as error:
            return str(error)
    return "no error"


def test_an_error_of_all_ranks_waits_for_the_save_in_flight(corpus, tmp_path):
    config = train_config(
        tmp_path / "run",
        corpus,
        checkpoint__every_steps=2,
        evaluation__every_steps=None,
        guard={"max_skipped_in_a_row": 1},
    )
    for message in run_distributed(2, end_with_a_save_in_flight, config):
        assert "2 steps in a row were skipped" in message
    assert [step for step, _ in complete_checkpoints(tmp_path / "run")] == [2]
    assert verify_checkpoint(tmp_path / "run") == []
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["event"] == "checkpoint"
