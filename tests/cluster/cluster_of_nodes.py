"""Slurm's clients and Foreword's, led to the tests' own cluster; its nodes, to be harmed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLL_INTERVAL_S = 0.2
SLURM_LOCAL = Path(__file__).parent / "slurm_local.sh"


@dataclass(frozen=True)
class Cluster:
    """A running cluster; `environment` leads Slurm's clients to it."""

    environment: dict[str, str]

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """Run a client and return its standard output; its errors fail the test with its own words."""
        done = subprocess.run(command, env=self.environment, cwd=cwd, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def submit_training(self, config: Path, cluster: Path, *overrides: str) -> str:
        """`foreword submit train`, from the configuration's directory; returns the job's number."""
        return self.foreword("submit", "train", config, "--cluster", cluster, *overrides, cwd=config.parent)

    def foreword(self, *words: object, cwd: Path | None = None) -> str:
        """Run one of Foreword's commands; returns its standard output."""
        return self.run(sys.executable, "-m", "foreword", *map(str, words), cwd=cwd)

    def status(self, directory: Path) -> dict[str, Any]:
        """What `foreword status --json` says of a run or a corpus."""
        return json.loads(self.foreword("status", directory, "--json"))

    def facts(self, job: str) -> dict[str, str]:
        """What `scontrol show job` knows, by name."""
        shown = self.run("scontrol", "show", "job", "--oneliner", job)
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)

    def crash(self, node: str) -> None:
        """Power loss: everything on the node is gone, and Slurm is told so, as a cluster's monitoring would."""
        self.run(str(SLURM_LOCAL), "crash", node)
        self.fail(node)

    def cut(self, node: str) -> None:
        """Unplug the node's network; everything on it runs on, and Slurm is told that the node is gone."""
        self.run(str(SLURM_LOCAL), "cut", node)
        self.fail(node)

    def join(self, node: str) -> None:
        """Plug it in again."""
        self.run(str(SLURM_LOCAL), "join", node)

    def fail(self, node: str) -> None:
        """Tell Slurm that a node has failed, instead of waiting until it notices."""
        self.run("scontrol", "update", f"NodeName={node}", "State=down", "Reason=test")

    def inside(self, node: str, *command: str) -> str:
        """Run a command in the namespaces of a node."""
        init = (Path(self.environment["SL_DIR"]) / "run" / f"init.{node}.pid").read_text().strip()
        return self.run("nsenter", "--target", init, "--all", "--", *command)

    def trainer(self, job: str, rank: int) -> int | None:
        """The process that trains as `rank` of a job, by its number on this machine; None when there is none."""
        wanted = {f"SLURM_JOB_ID={job}", f"SLURM_PROCID={rank}"}
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                words = (path / "cmdline").read_bytes().split(b"\0")
                variables = (path / "environ").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if b"train" in words and b"srun" not in words and wanted <= set(variables):
                found.append(int(path.name))
        return min(found, default=None)  # its own helpers are younger

    def signal_trainer(self, job: str, rank: int, number: signal.Signals) -> int:
        """Send a signal to one process of a job; returns the process."""
        process = self.trainer(job, rank)
        assert process is not None, f"rank {rank} of job {job} is not running"
        os.kill(process, number)
        return process

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Wait until `condition()` holds."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(POLL_INTERVAL_S)

    def wait_for(self, job: str, *states: str, timeout_s: float = 60.0) -> dict[str, str]:
        """Wait until the job is in one of `states`; returns its facts."""
        deadline = time.monotonic() + timeout_s
        while (facts := self.facts(job))["JobState"] not in states:
            assert time.monotonic() < deadline, f"job {job} is still {facts['JobState']}"
            time.sleep(POLL_INTERVAL_S)
        return facts
