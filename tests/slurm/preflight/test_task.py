"""A task of the preflight ends, whatever it gets stuck at."""

import multiprocessing
import time
from pathlib import Path

import pytest

from slurm.preflight import task
from slurm.preflight.answer import read

ENVIRONMENT = {"SLURMD_NODENAME": "n7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "2", "SLURM_NTASKS": "4"}
ENVIRONMENT |= {"SLURM_LOCALID": "0", "MASTER_ADDR": "n1", "MASTER_PORT": "1"}


def stuck(probe: Path) -> None:
    task.run_task(ENVIRONMENT, gpus=0, needs_bytes=0, probe=probe, timeout_s=task.LAST_SECONDS_S + 0.2)


def test_a_task_that_gets_stuck_says_at_what_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(task, "look_at_node", lambda *_, **__: iter(lambda: time.sleep(60), None))
    process = multiprocessing.get_context("fork").Process(target=stuck, args=(tmp_path,))
    process.start()
    process.join(20)
    assert process.exitcode == 0
    answer = read(capfd.readouterr().out)
    assert answer is not None
    assert (answer.node, answer.check, answer.ok) == ("n7", "looking at the node", False)
    assert answer.found == "rank 2 was not done in 3.2 s"
