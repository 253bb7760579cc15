"""Logs: the newest one is found, its end is shown, and reading along goes over restarts and new jobs."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from foreword.cli import foreword
from slurm import logs
from slurm.logs import follow, last_error, newest_log, read_log


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "train-ab.sbatch").touch()
    return tmp_path / "slurm"


def write(path: Path, text: str, modified: int) -> Path:
    path.write_text(text)
    os.utime(path, (modified, modified))
    return path


def test_the_newest_log_is_the_one_written_last(jobs: Path, tmp_path: Path) -> None:
    assert newest_log(tmp_path) is None
    write(jobs / "9.log", "", 3)
    write(jobs / "12_0.log", "", 1)
    write(jobs / "12_1.log", "", 2)
    write(jobs / "notes.log", "", 9)
    assert newest_log(tmp_path) == jobs / "9.log"
    assert newest_log(tmp_path, "12") == jobs / "12_1.log"
    assert newest_log(tmp_path, "12_0") == jobs / "12_0.log"
    assert newest_log(tmp_path, "1") is None


@given(text=st.text(alphabet="ab\n", max_size=40), lines=st.integers(1, 6), chunk=st.integers(1, 7))
@settings(max_examples=50)
def test_the_last_lines_are_those_of_tail(
    tmp_path_factory: pytest.TempPathFactory, text: str, lines: int, chunk: int
) -> None:
    log = tmp_path_factory.mktemp("log") / "1.log"
    log.write_text(text)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(logs, "CHUNK_BYTES", chunk)
        assert b"".join(read_log(log, lines)).decode() == "".join(text.splitlines(keepends=True)[-lines:])
        assert b"".join(read_log(log, None)).decode() == text


def test_the_last_error_is_found_with_its_remedy(jobs: Path) -> None:
    log = jobs / "1.log"
    log.write_text(
        "step 1\nforeword: old\n  -> do\nstep 2\nforeword: a.yaml:3: no such key\n  -> did you mean b?\nend\n"
    )
    assert last_error(log) == "foreword: a.yaml:3: no such key\n  -> did you mean b?"
    log.write_text("foreword job 1: finished\n")
    assert last_error(log) is None
    assert last_error(jobs / "2.log") is None


def test_reading_along_goes_on_in_a_newer_log(jobs: Path, tmp_path: Path) -> None:
    announced: list[Path] = []
    happens = iter(
        [
            lambda: write(jobs / "1.log", "one\ntwo\n", 1),
            lambda: (jobs / "1.log").open("a").write("restarted\n"),
            lambda: [(jobs / "1.log").open("a").write("last\n"), write(jobs / "2.log", "next job\n", 2**33)],
            lambda: write(jobs / "2.log", "anew\n", 2**33),
        ]
    )

    def wait(_: float) -> None:
        next(happens)()

    chunks = follow(tmp_path, None, 1, announced.append, wait)
    assert list(islice(chunks, 5)) == [b"two\n", b"restarted\n", b"last\n", b"next job\n", b"anew\n"]
    assert announced == [jobs / "1.log", jobs / "2.log"]


def test_logs_that_are_written_at_once_are_each_read_once(jobs: Path, tmp_path: Path) -> None:
    happens = iter(
        [
            lambda: write(jobs / "1_0.log", "a\n", 10),
            lambda: write(jobs / "1_1.log", "b\n", 20),
            lambda: write(jobs / "1_0.log", "a\nc\n", 30),
            lambda: write(jobs / "1_1.log", "b\nd\n", 40),
        ]
    )
    chunks = follow(tmp_path, None, None, lambda _: None, lambda _: next(happens)())
    assert list(islice(chunks, 4)) == [b"a\n", b"b\n", b"c\n", b"d\n"]


def test_without_a_log_it_is_said_what_to_do(jobs: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(foreword, ["logs", str(tmp_path)])
    assert "no job has written a log" in str(done.exception)
    done = CliRunner().invoke(foreword, ["logs", str(tmp_path), "--job", "7"])
    assert "job 7 has no log" in str(done.exception)


def test_a_log_is_printed_as_it_is(jobs: Path, tmp_path: Path) -> None:
    (jobs / "1.log").write_bytes(b"one\n\xff two\r\nthree\n")
    done = CliRunner().invoke(foreword, ["logs", str(tmp_path), "-n", "2"])
    assert done.stdout_bytes == b"\xff two\r\nthree\n"
    assert str(jobs / "1.log") in done.stderr


def test_following_ends_when_the_reader_has_seen_enough(
    jobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (jobs / "1.log").write_text("one\n")

    def interrupt(*_: object) -> Iterator[bytes]:
        yield b"one\n"
        raise KeyboardInterrupt

    monkeypatch.setattr(logs, "follow", interrupt)
    done = CliRunner().invoke(foreword, ["logs", str(tmp_path), "--follow"])
    assert (done.exit_code, done.stdout) == (0, "one\n")
