"""Slurm's clients and Foreword's, led to the tests' own cluster."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLL_INTERVAL_S = 0.2


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
