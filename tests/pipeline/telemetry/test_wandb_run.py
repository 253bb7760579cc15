"""Weights & Biases, really tried: offline on the disk, synchronised, online, without a network, and not at all."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import wandb
from training import train_config
from wandb_files import config_of, history_of, step_metrics_of
from wandb_server import wandb_server

from foreword.errors import ConfigError, MachineError
from pipeline.config.run import WandbConfig
from pipeline.telemetry import wandb_run
from pipeline.telemetry.metrics import read_metrics
from pipeline.telemetry.recorder import Telemetry
from pipeline.telemetry.wandb_run import wandb_mode

KEY = "0" * 40


def record(step: int) -> dict:
    return {"step": step, "loss": 4.0 / step, "grad_norm": 1.0, "lr": 1e-3, "tokens_per_s": 1000.0, "mfu": None}


def configured(run_dir: Path, mode: str):
    return train_config(run_dir, run_dir / "corpus", logging__wandb={"mode": mode, "project": "foreword"})


def a_start(run_dir: Path, mode: str, steps: list[int], run_id: str | None = None) -> str:
    """A start of a run that logs some steps and a validation; its id."""
    with Telemetry(configured(run_dir, mode), run_id, steps[0] - 1, 8) as telemetry:
        for step in steps:
            telemetry.step(record(step))
        telemetry.validation(steps[-1], {"prefix_loss": 2.0, "causal_loss": 2.5, "prefix_loss/16-63": 1.5})
        assert telemetry.wandb_run_id is not None
        return telemetry.wandb_run_id


@pytest.fixture(scope="module")
def offline(tmp_path_factory) -> tuple[Path, str]:
    """The directory and the id of a run that was started offline, and continued offline."""
    run_dir = tmp_path_factory.mktemp("offline")
    run_id = a_start(run_dir, "offline", [1, 2, 3])
    time.sleep(1.0)  # a segment's directory is named after the second of its start
    assert a_start(run_dir, "offline", [4, 5], run_id) == run_id
    deadline = time.monotonic() + 60
    while not all(map(history_of, segments(run_dir))) and time.monotonic() < deadline:
        time.sleep(0.1)  # wandb's own process writes them, on a busy machine after `finish` has returned
    return run_dir, run_id


def segments(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "wandb").glob("offline-run-*"))


def test_an_offline_segment_holds_every_record_with_the_step_as_its_axis_and_the_configuration(offline):
    run_dir, _ = offline
    first, second = segments(run_dir)
    rows = history_of(first)
    assert [row["step"] for row in rows] == [1, 2, 3, 3]
    assert [row["loss"] for row in rows[:3]] == [record(step)["loss"] for step in (1, 2, 3)]
    assert rows[3]["validation/prefix_loss/16-63"] == 1.5
    assert [row["step"] for row in history_of(second)] == [4, 5, 5]
    assert step_metrics_of(first)["*"] == "step"
    assert config_of(first)["optimizer"]["lr"] == 1e-2
    assert config_of(first)["model"]["num_layers"] == 2


def test_segments_of_a_resumed_run_are_synchronised_behind_one_another(offline):
    """Without `resume`, the second would overwrite the lines of the first."""
    run_dir, run_id = offline
    with wandb_server() as server:
        environment = {**os.environ, "WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url}
        words = [sys.executable, "-m", "wandb", "sync", "--yes", *map(str, segments(run_dir))]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=100.0, check=False)
        assert done.returncode == 0, done.stderr
        assert server.steps(run_id) == [1, 2, 3, 3, 4, 5, 5]


def test_disabled_makes_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # it cannot be imported
    with Telemetry(configured(tmp_path, "disabled"), None, 0, 8) as telemetry:
        telemetry.step(record(1))
        assert telemetry.wandb_run_id is None
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.fixture
def online(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb_run, "FINISH_TIMEOUT_S", 2.0)
    with wandb_server() as server, wandb_anew():
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        yield server


@contextmanager
def wandb_anew() -> Iterator[None]:
    """wandb reads the environment once in a process, and keeps its own process."""
    wandb.teardown()
    try:
        yield
    finally:
        with suppress(ConnectionError):  # it was killed
            wandb.teardown()


def test_an_online_run_that_is_continued_goes_on_where_it_was(online, tmp_path):
    run_id = a_start(tmp_path, "online", [1, 2])
    assert a_start(tmp_path, "online", [3], run_id) == run_id
    assert online.steps(run_id) == [1, 2, 2, 3, 3]


def test_an_outage_in_mid_run_neither_stops_nor_delays_it_and_nothing_is_lost(online, tmp_path):
    with Telemetry(configured(tmp_path, "online"), None, 0, 8) as telemetry:
        telemetry.step(record(1))
        online.stop()
        started = time.monotonic()
        for step in range(2, 500):
            telemetry.step(record(step))
        assert time.monotonic() - started < 20.0
        started = time.monotonic()
    assert time.monotonic() - started < 20.0  # it gives up in 2 s here
    assert read_metrics(tmp_path).series("loss")[0] == list(range(1, 500))
    wandb.teardown()  # its process ends, as at the end of Python, and has written what it has heard
    (segment,) = (tmp_path / "wandb").glob("run-*")
    assert [row["step"] for row in history_of(segment)] == list(range(1, 500))


def test_when_wandbs_own_process_dies_a_warning_says_so_once_and_records_go_on(online, tmp_path, capfd):
    with Telemetry(configured(tmp_path, "online"), None, 0, 8) as telemetry:
        telemetry.step(record(1))
        kill_wandbs_process()
        for step in range(2, 500):
            telemetry.step(record(step))
    assert read_metrics(tmp_path).series("loss")[0] == list(range(1, 500))
    assert capfd.readouterr().err.count("warning: Weights & Biases hears no more of this run") == 1


def kill_wandbs_process() -> None:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    (core,) = [int(child) for child in children if "wandb" in Path(f"/proc/{child}/comm").read_text()]
    os.kill(core, signal.SIGKILL)
    os.waitid(os.P_PID, core, os.WEXITED | os.WNOWAIT)


def test_a_start_without_a_network_is_refused_soon_with_the_way_out(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(wandb_run, "START_TIMEOUT_S", 2.0)
    started = time.monotonic()
    with wandb_anew(), pytest.raises(MachineError, match="could not be started") as caught:
        Telemetry(configured(tmp_path, "online"), None, 0, 8)
    assert time.monotonic() - started < 20.0
    assert "connection refused" in str(caught.value)
    assert "set logging.wandb.mode to offline" in str(caught.value)


def test_a_start_without_a_key_is_refused_with_the_way_out(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with wandb_anew(), pytest.raises(MachineError, match="No API key configured") as caught:
        Telemetry(configured(tmp_path, "online"), None, 0, 8)
    assert "set logging.wandb.mode to offline" in str(caught.value)


def test_it_is_online_only_where_a_key_is_set_and_wandb_mode_decides_where_the_configuration_does_not(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert wandb_mode(WandbConfig()) == "offline"
    assert wandb_mode(WandbConfig(mode="disabled")) == "disabled"
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert wandb_mode(WandbConfig()) == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode(WandbConfig()) == "disabled"
    assert wandb_mode(WandbConfig(mode="offline")) == "offline"
    monkeypatch.setenv("WANDB_MODE", "")
    assert wandb_mode(WandbConfig()) == "online"
    monkeypatch.delenv("WANDB_API_KEY")
    assert wandb_mode(WandbConfig()) == "offline"
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password x\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert wandb_mode(WandbConfig()) == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert wandb_mode(WandbConfig()) == "offline"  # this key is for another server
    monkeypatch.setenv("WANDB_MODE", "nonsense")
    with pytest.raises(ConfigError, match="WANDB_MODE: 'nonsense' is not a mode"):
        wandb_mode(WandbConfig())
