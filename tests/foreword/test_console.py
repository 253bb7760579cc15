"""What a person sees: plain lines in a log, a bar on a terminal, and nothing on standard output."""

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


def test_a_terminal_gets_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with console.progress("packing", 10, "rows") as bar:
        bar.update(10, note="done")
    captured = capsys.readouterr()
    assert "packing" in captured.err
    assert "10/10 rows" in captured.err
    assert captured.out == ""
