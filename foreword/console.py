"""What a person sees while work goes on: a progress bar on a terminal, plain lines in a log.

All of it goes to standard error; standard output belongs to a command's result.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

LOG_INTERVAL_S = 10.0


def say(message: str) -> None:
    """Print one line for the person who watches; when nobody reads any more, work goes on without."""
    with suppress(OSError):  # a closed terminal, or a pager that was quit
        print(message, file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """Print one line that the person should act on."""
    say(f"warning: {message}")


class Progress(Protocol):
    """Receives how much of the work is done."""

    def update(self, done: float, note: str = "") -> None:
        """Set the amount done (in the unit of `total`) and a short note shown after it."""


@contextmanager
def progress(description: str, total: float, unit: str, done: float = 0.0) -> Iterator[Progress]:
    """Show progress towards `total` units with a rate and the remaining time.

    On a terminal this is a bar; elsewhere a line at most every 10 seconds and one at the end. What was `done` before
    does not count for the rate.
    """
    shown = (_Bar if sys.stderr.isatty() else _Lines)(description, total, unit, done)
    try:
        yield shown
    finally:
        shown.close()


class _Lines:
    def __init__(self, description: str, total: float, unit: str, done: float) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.started = self.last_said = time.monotonic()
        self.done_before = self.done = done
        self.note = ""

    def update(self, done: float, note: str = "") -> None:
        self.done, self.note = done, note
        if time.monotonic() - self.last_said >= LOG_INTERVAL_S:
            self._say()

    def close(self) -> None:
        self._say()

    def _say(self) -> None:
        self.last_said = time.monotonic()
        elapsed = max(self.last_said - self.started, 1e-9)
        rate = (self.done - self.done_before) / elapsed
        remaining = f", {(self.total - self.done) / rate:.0f} s left" if rate > 0 and self.done < self.total else ""
        note = f", {self.note}" if self.note else ""
        amount = f"{self.done:,.0f}/{self.total:,.0f} {self.unit}"
        say(f"{self.description}: {amount}, {rate:,.1f} {self.unit}/s{remaining}{note}")


class _Bar:
    def __init__(self, description: str, total: float, unit: str, done: float) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self.bar = Progress(*columns, console=Console(stderr=True))
        self.bar.start()
        self.task = self.bar.add_task(description, total=total, completed=int(done), note="")

    def update(self, done: float, note: str = "") -> None:
        self.bar.update(self.task, completed=done, note=note)

    def close(self) -> None:
        self.bar.stop()
