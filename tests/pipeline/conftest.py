"""What several tests of the pipeline need."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from foreword.cli import main
from pipeline.distributed.parallel import Parallel, initialize


@pytest.fixture
def one_process() -> Iterator[Parallel]:
    """This process as a world of its own, left again after the test."""
    parallel = initialize()
    yield parallel
    parallel.destroy()


@dataclass
class Outcome:
    """What a command ended with."""

    code: int
    errors: str


@pytest.fixture
def run_alone(monkeypatch, capfd) -> Callable[..., Outcome]:
    """Runs `foreword train` inside this process, which has imported everything already."""

    def run(config: Path, *arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["foreword", "train", str(config), *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Outcome(ended.value.code or 0, capfd.readouterr().err)

    return run
