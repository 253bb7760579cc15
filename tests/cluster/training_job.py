"""A training job on the tests' cluster: submitted, looked at from outside, awaited."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from cluster_of_nodes import Cluster
from tiny_corpus import make_corpus
from training import curve, records, train_config

from foreword.config import dump_config
from slurm.job.hostlist import expand

STEPS = 200
SAVE_EVERY = 25
PATIENCE_S = 400.0


def config_of(directory: Path, **changes: object) -> Any:
    """What all jobs of these tests train: the same 200 steps."""
    settled = {"schedule__total_steps": STEPS, "checkpoint__every_steps": SAVE_EVERY, "evaluation__every_steps": None}
    settled["optimizer__lr"] = 1e-3  # the losses shall not come so near to 0 that rounding counts
    return train_config(directory / "run", make_corpus(directory / "corpus").path, **settled | changes)


@dataclass
class TrainingJob:
    """A job that was submitted from `directory`."""

    slurm: Cluster
    directory: Path
    number: str

    @classmethod
    def submit(cls, slurm: Cluster, directory: Path, cluster: dict[str, Any], **changes: object) -> "TrainingJob":
        """Submit a training of `config_of`; `cluster` overrides one task on each of two nodes, without a preflight."""
        directory.mkdir(parents=True, exist_ok=True)
        train, cluster_path = directory / "train.yaml", directory / "cluster.yaml"
        train.write_text(dump_config(config_of(directory, **changes)))
        settled = {"nodes": 2, "gpus_per_node": 0, "tasks_per_node": 1, "cpus_per_task": 1, "time_limit": "20:00"}
        settled |= {"preflight_timeout_s": None, "restart_delay_s": 1, "end_together_s": 5}
        cluster_path.write_text(yaml.safe_dump(settled | cluster))
        return cls(slurm, directory, slurm.submit_training(train, cluster_path))

    @property
    def run_dir(self) -> Path:
        return self.directory / "run"

    @property
    def log(self) -> str:
        path = self.run_dir / "slurm" / f"{self.number}.log"
        return path.read_text(errors="replace") if path.exists() else "(no log)"

    @property
    def curve(self) -> dict[int, float]:
        return curve(self.run_dir)

    @property
    def events(self) -> list[dict[str, Any]]:
        """What the job wrote down of itself."""
        lines = (self.run_dir / "slurm" / "jobs.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] != "submitted"]

    @functools.cached_property
    def status(self) -> dict[str, Any]:
        """What `foreword status` says, once it has ended."""
        return self.slurm.status(self.run_dir)

    def happened(self) -> set[str]:
        """The names of the events."""
        return {event["event"] for event in self.events}

    def history(self, *keys: str) -> list[tuple[Any, ...]]:
        """Of each event its restart, its name, and the values of `keys`."""
        return [(event["restart"], event["event"], *(event.get(key) for key in keys)) for event in self.events]

    def event(self, name: str, restart: int) -> dict[str, Any]:
        (found,) = [event for event in self.events if (event["event"], event["restart"]) == (name, restart)]
        return found

    def nodes(self) -> list[str]:
        """Where it runs; rank 0 is on the first."""
        return expand(self.slurm.facts(self.number)["NodeList"])

    def steps(self, start: int) -> int:
        """How many steps the newest start has taken, if it is the `start`-th or a later one."""
        if not (self.run_dir / "metrics.jsonl").exists():
            return 0
        told = records(self.run_dir)
        starts = [at for at, record in enumerate(told) if record.get("event") == "start"]
        return sum("loss" in r and "event" not in r for r in told[starts[-1] :]) if len(starts) >= start else 0

    def wait_for_steps(self, start: int, steps: int) -> None:
        """Wait until the job's `start`-th start has taken so many steps."""
        self._wait(lambda: self.steps(start) >= steps, f"{steps} steps of start {start}")

    def wait_for_state(self, *states: str) -> dict[str, str]:
        self._wait(lambda: self.slurm.facts(self.number)["JobState"] in states, " or ".join(states))
        return self.slurm.facts(self.number)

    def _wait(self, condition: Any, what: str) -> None:
        try:
            self.slurm.wait_until(condition, PATIENCE_S)
        except AssertionError:
            raise AssertionError(f"job {self.number}: no {what} in {PATIENCE_S:g} s\n{self.log[-8000:]}") from None
