"""What a person sees: plain lines in a log, a bar on a terminal, and nothing on standard output."""

import os
import subprocess
import sys

import pytest

from foreword import console


def test_messages_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("hello")
    console.warn("careful")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "hello\nwarning: careful\n"


def test_a_log_gets_one_line_at_the_end_when_the_work_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress("packing", 1000, "rows") as bar:
        for done in range(1000):
            bar.update(done + 1, note="shard 3")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("packing: 1,000/1,000 rows")
    assert lines[0].endswith("shard 3")


def test_a_log_gets_a_line_with_the_remaining_time_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "LOG_INTERVAL_S", 0.0)
    with console.progress("packing", 10, "rows") as bar:
        bar.update(5)
        assert "5/10 rows" in (line := capsys.readouterr().err)
        assert "s left" in line


def test_what_was_done_before_does_not_count_for_the_rate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 10.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.progress("train", 1000, "steps", done=900) as bar:
        bar.done = 950.0  # as `update` does, without asking the clock
    assert "950/1,000 steps, 5.0 steps/s, 10 s left" in capsys.readouterr().err


def test_work_goes_on_when_nobody_reads_any_more() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    work = "from foreword.console import say; say('hello'); say('again'); print('done')"
    worker = subprocess.run([sys.executable, "-c", work], stdout=subprocess.PIPE, stderr=writing, check=False)
    os.close(writing)
    assert (worker.returncode, worker.stdout) == (0, b"done\n")


def test_a_terminal_gets_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with console.progress("packing", 10, "rows") as bar:
        bar.update(10, note="done")
    captured = capsys.readouterr()
    assert "packing" in captured.err
    assert "10/10 rows" in captured.err
    assert captured.out == ""
