"""The launcher waits for its processes: for those that end by themselves longer than for those that cannot."""

import subprocess
import time
from collections.abc import Iterator

import pytest

from pipeline.distributed import launch


@pytest.fixture
def hanging() -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_after_a_watchdog_has_ended_one_process_the_others_are_not_waited_for(
    hanging: subprocess.Popen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "GRACE_AFTER_HANG_S", 0.3)
    began = time.monotonic()
    assert launch._wait([hanging, subprocess.Popen(["sh", "-c", "exit 76"])]) == 76
    assert 0.3 <= time.monotonic() - began < launch.GRACE_S


def test_after_a_crash_the_others_have_time_to_notice(
    hanging: subprocess.Popen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "GRACE_S", 1.0)
    monkeypatch.setattr(launch, "GRACE_AFTER_HANG_S", 0.0)
    began = time.monotonic()
    assert launch._wait([hanging, subprocess.Popen(["sh", "-c", "exit 1"])]) == 1
    assert time.monotonic() - began >= 1.0
