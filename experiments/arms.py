"""The kinds of runs that are compared; `train.yaml` says all that they have in common."""

from dataclasses import dataclass
from pathlib import Path

DIRECTORY = Path("experiments-run")
RUNS = DIRECTORY / "runs"
EVALUATIONS = DIRECTORY / "evaluations"


@dataclass(frozen=True)
class Arm:
    """A kind of run.

    Attributes:
        name: of its directories.
        objective: what it is trained on.
        share: of the configuration's steps; the schedule is as long as the run.
        begins_with: the arm whose weights, of the same seed, it begins with.
    """

    name: str
    objective: str
    share: float
    begins_with: str | None = None


# an arm stands behind the one that it begins with
ARMS = (
    Arm("causal-half", "causal", 0.5),
    Arm("causal", "causal", 1.0),
    Arm("prefix", "prefix", 1.0),
    Arm("prefix-half", "prefix", 0.5),
    Arm("adapted", "prefix", 0.5, begins_with="causal-half"),
)


def run_directory(arm: str, seed: int) -> Path:
    """Where a run is."""
    return RUNS / f"{arm}-{seed}"


def evaluation_file(arm: str, seed: int) -> Path:
    """What `foreword eval --json` said of a run."""
    return EVALUATIONS / f"{arm}-{seed}.json"
