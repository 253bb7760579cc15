"""What a run's records say is what it did, counted here by hand from the rows that it read."""

from pathlib import Path

import numpy as np
import pytest
from tiny_corpus import SEQUENCE_LENGTH, make_corpus
from training import HALF, STEPS, fork_run, records, train_all, train_config
from wandb_files import history_of

from data_prep.shards import PADDING, Corpus, Row
from pipeline.checkpoint.meta import read_meta
from pipeline.data.order import DataOrder
from pipeline.schedule import Schedule

ROWS = 8  # of a step
KEYS = {
    *("step", "time", "samples_consumed", "tokens_consumed", "targets_consumed", "skipped_steps"),
    *("loss", "lr", "grad_norm", "targets"),
    *("tokens_per_s", "targets_per_s", "flops_per_s", "mfu", "data_wait_fraction", "memory_bytes"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A run of two ranks, and what became of it when it was interrupted in the middle and continued by one."""
    root = tmp_path_factory.mktemp("records")
    changes = {"logging": {"every_steps": 2, "wandb": {"mode": "offline"}}}
    corpus = make_corpus(root / "corpus").path
    assert train_all(2, train_config(root / "whole", corpus, **changes)) == [[None], [None]]
    again = fork_run(root / "whole", root / "again", HALF)
    assert train_all(1, train_config(again, corpus, **changes)) == [[None]]
    return root


def test_the_guide_explains_every_key_and_event(runs):
    guide = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    written = records(runs / "whole") + records(runs / "again")
    keys = {key for record in written for key in record if "/" not in key}
    events = {record["event"] for record in written if "event" in record}
    missing = {word for word in keys | events | {"skipped", "failed_save", "stop"} if f"`{word}`" not in guide}
    assert missing == set()


def rows_of_step(corpus: Corpus, step: int) -> list[Row]:
    split = corpus.split("train")
    order = DataOrder(len(split), corpus.manifest_sha256, seed=7)
    return [split.row(int(row)) for row in order.rows_at(np.arange(ROWS * (step - 1), ROWS * step))]


def targets_and_pairs(row: Row) -> tuple[int, int]:
    """Scored positions of a row, and query-key pairs among its inputs, one by one."""
    targets = pairs = 0
    ends = [*row.segments[1:, 0].tolist(), SEQUENCE_LENGTH + 1]
    for (start, prefix_len), end in zip(row.segments.tolist(), ends, strict=True):
        prefix_end = start if prefix_len == PADDING else start + prefix_len
        for query in range(start, min(end, SEQUENCE_LENGTH)):
            targets += prefix_len != PADDING and query + 1 < end and query + 1 >= prefix_end
            pairs += sum(key <= query or key < prefix_end for key in range(start, min(end, SEQUENCE_LENGTH)))
    return targets, pairs


def test_a_record_says_what_the_step_and_those_since_the_last_record_were_made_of(runs):
    corpus = Corpus.open(runs / "corpus")
    config = train_config(runs / "whole", corpus.path)
    schedule = Schedule(config.schedule, config.optimizer.lr, config.batch, SEQUENCE_LENGTH)
    counted = {step: [targets_and_pairs(row) for row in rows_of_step(corpus, step)] for step in range(1, STEPS + 1)}
    written = [record for record in records(runs / "whole") if "event" not in record]
    assert [record["step"] for record in written] == [2, 4, 6, 8]
    for record in written:
        step = record["step"]
        assert set(record) == KEYS
        assert record["samples_consumed"] == ROWS * step
        assert record["tokens_consumed"] == ROWS * step * SEQUENCE_LENGTH
        assert record["targets"] == sum(targets for targets, _ in counted[step])
        assert record["targets_consumed"] == sum(sum(t for t, _ in counted[s]) for s in range(1, step + 1))
        assert record["lr"] == schedule.learning_rate(step - 1, ROWS * (step - 1))
        assert record["memory_bytes"] > 10**7
        assert 0.0 <= record["data_wait_fraction"] <= 1.0
        assert record["mfu"] is None  # of a processor

        tokens = 2 * ROWS * SEQUENCE_LENGTH  # since the last record
        targets, pairs = np.sum([*counted[step - 1], *counted[step]], axis=0)
        forward = 2 * (tokens * 2 * 12 * 32**2 + pairs * 2 * 2 * 32 + targets * 32 * 128)
        assert record["flops_per_s"] / record["tokens_per_s"] == pytest.approx(3 * forward / tokens, rel=1e-9)
        assert record["targets_per_s"] / record["tokens_per_s"] == pytest.approx(targets / tokens, rel=1e-9)


@pytest.mark.parametrize(("name", "steps"), [("whole", STEPS), ("again", STEPS - HALF)])
def test_the_summary_of_a_start_is_its_last_record_and_adds_up(runs, name, steps):
    last = records(runs / name)[-1]
    assert (last["event"], last["step"], last["steps"]) == ("summary", STEPS, steps)
    assert last["tokens"] == steps * ROWS * SEQUENCE_LENGTH
    parts = ("start_up_s", "training_s", "data_wait_s", "evaluating_s", "saving_s", "profiling_s")
    assert last["total_s"] == pytest.approx(sum(last[part] for part in parts), abs=1e-9)
    assert last["tokens_per_s"] == pytest.approx(last["tokens"] / (last["training_s"] + last["data_wait_s"]))
    saved = [record for record in records(runs / name) if record.get("event") == "checkpoint"]
    stall_s = sum(record["stall_s"] for record in saved if record["step"] > STEPS - steps)
    assert stall_s - 0.001 <= last["saving_s"] <= stall_s + 0.5  # measured around it


def test_a_continued_run_is_the_same_run_at_weights_and_biases(runs):
    first = read_meta(runs / "whole" / "checkpoints" / f"step_{HALF:08d}").wandb_run_id
    assert read_meta(runs / "again" / "checkpoints" / f"step_{STEPS:08d}").wandb_run_id == first
    (whole,) = (runs / "whole" / "wandb").glob(f"offline-run-*-{first}")
    _, continued = sorted((runs / "again" / "wandb").glob(f"offline-run-*-{first}"))
    losses = [
        {row["step"]: row["loss"] for row in history_of(segment) if "loss" in row} for segment in (whole, continued)
    ]
    assert list(losses[0]) == [2, 4, 6, 8]
    assert losses[1] == pytest.approx({step: losses[0][step] for step in (6, 8)}, rel=1e-5)
