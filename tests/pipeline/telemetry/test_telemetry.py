"""metrics.jsonl is the truth: what was recorded is read back."""

import errno
import os
from pathlib import Path

import pytest
from training import train_config

from foreword.errors import DataError, MachineError
from pipeline.telemetry.metrics import read_metrics
from pipeline.telemetry.record_file import RecordFile
from pipeline.telemetry.recorder import Telemetry

VALIDATION = {"prefix_loss": 2.0, "causal_loss": 2.25, "targets": 300} | {
    f"{key}/{bucket}": value
    for bucket, value in {"0-1": 2.5, "2-15": 2.25, "16-63": 1.75, "256-1023": 1.5}.items()
    for key in ("prefix_loss", "causal_loss")
}


def record(step: int, loss: float) -> dict:
    return {
        "step": step,
        "tokens_consumed": 100 * step,
        "targets_consumed": 50 * step,
        "loss": loss,
        "lr": 1e-3,
        "grad_norm": 1.0,
        "tokens_per_s": 1000.0,
        "data_wait_fraction": 0.0,
        "mfu": None,
    }


@pytest.fixture
def run(tmp_path):
    """A run that went back from step 3 to step 1."""
    config = train_config(tmp_path, tmp_path / "corpus")
    with Telemetry(config, None, 0, 8) as telemetry:
        telemetry.start(0, {}, None)
        for step in (1, 2, 3):
            telemetry.step(record(step, 5.0 - step))
    with Telemetry(config, None, 1, 8) as telemetry:
        telemetry.start(1, {}, tmp_path / "checkpoints" / "step_00000001")
        telemetry.step(record(2, 2.5))
        telemetry.validation(2, VALIDATION)
    return tmp_path


def test_of_two_records_with_one_step_the_later_counts(run):
    metrics = read_metrics(run)
    assert metrics.series("loss") == ([1, 2, 3], [4.0, 2.5, 2.0])
    assert metrics.event_series("validation", "prefix_loss") == ([2], [2.0])
    assert [event["step"] for event in metrics.events if event["event"] == "start"] == [0, 1]


def test_losses_by_prefix_length_are_read_back_in_the_buckets_order(run):
    buckets = read_metrics(run).by_prefix_len("prefix_loss")
    assert list(buckets) == ["0-1", "2-15", "16-63", "256-1023"]
    assert buckets["16-63"] == ([2], [1.75])


def test_the_console_gets_the_totals_alone(tmp_path, capfd):
    with Telemetry(train_config(tmp_path, tmp_path / "corpus"), None, 0, 8) as telemetry:
        telemetry.validation(2, VALIDATION | {"prefix_bits_per_byte": 0.75, "causal_bits_per_byte": 0.875})
    line = "validation: prefix loss 2.0000, causal 2.2500 nats/token; 0.7500, 0.8750 bits/byte\n"
    assert capfd.readouterr().err == f"step      2  {line}"


def test_an_unfinished_last_line_is_passed_over_and_another_is_named(run):
    path = run / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 4, "lo')
    assert read_metrics(run).series("loss")[0] == [1, 2, 3]
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{", *lines[1:]]))
    with pytest.raises(DataError, match=r"metrics.jsonl:2: not a metrics record"):
        read_metrics(run)


def test_a_resumed_run_removes_the_line_that_a_killed_process_left_unfinished(run):
    path = run / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 4, "lo')
    with Telemetry(train_config(run, run / "corpus"), None, 3, 8) as telemetry:
        telemetry.step(record(4, 1.5))
    assert read_metrics(run).series("loss") == ([1, 2, 3, 4], [4.0, 2.5, 2.0, 1.5])


class NearlyFullDisk:
    """Takes `room` bytes and no more, as a file does: a part of what it is given, and then an error."""

    def __init__(self, file) -> None:
        self.file, self.room = file, 0

    def write(self, content: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self.file.write(content[: self.room])
        self.room -= written
        return written

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.file.close()


@pytest.fixture
def records(tmp_path, monkeypatch) -> tuple[RecordFile, NearlyFullDisk]:
    records = RecordFile(tmp_path / "metrics.jsonl", tmp_path)
    disk = NearlyFullDisk(records._file)
    monkeypatch.setattr(records, "_file", disk)
    return records, disk


def test_on_a_full_disk_records_wait_and_are_written_whole_when_there_is_room(records, tmp_path, capsys):
    file, disk = records
    for step in (1, 2, 3):
        file.write(record(step, 4.0))
    assert capsys.readouterr().err.count("no room for records") == 1
    with pytest.raises(MachineError, match=r"metrics\.jsonl: cannot be written: No space left on device"):
        file.flush()
    disk.room = 40  # a part of a line
    file.write(record(4, 3.0))
    disk.room = 10**6
    file.write(record(5, 2.0))
    file.close()
    assert read_metrics(tmp_path).series("loss") == ([1, 2, 3, 4, 5], [4.0, 4.0, 4.0, 3.0, 2.0])


def test_records_that_never_found_room_are_counted_at_the_end(records, tmp_path, capsys):
    file, _ = records
    for step in (1, 2):
        file.write(record(step, 4.0))
    file.close()
    assert "2 records are lost" in capsys.readouterr().err


def test_what_is_no_full_disk_is_an_error_at_once(tmp_path):
    records = RecordFile(tmp_path / "metrics.jsonl", tmp_path)
    records._file.close()
    with Path(os.devnull).open("rb") as read_only:
        records._file = read_only
        with pytest.raises(MachineError, match="cannot be written"):
            records.write(record(1, 4.0))
