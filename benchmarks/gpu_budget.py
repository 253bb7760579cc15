"""A fixed time for many measurements: each has a limit, and what finds no time left is named, not forgotten."""

import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")
WORTH_STARTING_S = 5.0
OUT_OF_MEMORY = "out of device memory"


class OutOfTimeError(Exception):
    """A measurement reached its limit."""


@dataclass
class Budget:
    """The time of a whole run.

    Attributes:
        total_s: how long it may take.
        left_out: what was not measured, and why.
        failed: what of it ended with an error.
        clock: for tests.
    """

    total_s: float
    left_out: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._started = self.clock()

    @property
    def left_s(self) -> float:
        """What is left of it."""
        return self.total_s - (self.clock() - self._started)

    def measure(self, name: str, limit_s: float, work: Callable[[], Result]) -> Result | None:
        """Do `work` for at most `limit_s` or what is left; None, and a line in `left_out`, where it came to nothing.

        An error of one measurement, on a machine that is paid by the minute, is shown and does not end the others.
        """
        limit_s = min(limit_s, self.left_s)
        if limit_s < WORTH_STARTING_S:
            self.left_out[name] = f"no time left of {self.total_s:.0f} s"
            return None
        started = self.clock()
        try:
            with _alarm_after(limit_s):
                return work()
        except OutOfTimeError:
            self.left_out[name] = f"not done after {self.clock() - started:.0f} s"
        except torch.OutOfMemoryError:
            self.left_out[name] = OUT_OF_MEMORY
        except Exception as error:
            traceback.print_exc()
            self.left_out[name] = (
                f"failed with {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            )
            self.failed.append(name)
        return None


@contextmanager
def _alarm_after(seconds: float) -> Iterator[None]:
    """Raise `OutOfTimeError` in the main thread when the time is over."""

    def ring(*_: Any) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
