"""Contenders that take turns: each in a process of its own that stands still while another one runs.

A whole process per measurement would put seconds of other people's load between two contenders; here only a step or two
lies between them, and each keeps its own caches, threads and allocator.
"""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any


@dataclass(frozen=True)
class Turn:
    """What some steps took: wall time, and processor time of all the process's threads, in seconds per step."""

    wall_s: float
    cpu_s: float


class Turns:
    """The contender's side: call `step_done` between two steps.

    The first call tells the parent that the start is over; each turn's steps are then measured from the moment that
    the parent asks for them.
    """

    def __init__(self, parent: Connection) -> None:
        self._parent = parent
        self._left = 0

    def step_done(self) -> None:
        """A step is over; stands still until the next one is wanted."""
        self._left -= 1
        if self._left > 0:
            return
        now = time.perf_counter(), time.process_time()
        if self._left < 0:
            self._parent.send(None)
        else:
            self._parent.send(Turn(*((end - start) / self._steps for start, end in zip(self._began, now, strict=True))))
        self._steps = self._left = self._parent.recv()
        self._began = time.perf_counter(), time.process_time()


class Contender:
    """The parent's side of one contender, which has done its first step when this is made.

    Args:
        run: a top-level function that trains for ever and calls `step_done` of the `Turns` it gets; a fresh interpreter
            imports its module.
        arguments: picklable.

    Attributes:
        start_s: from the start of its process to the end of its first step.
    """

    def __init__(self, run: Callable[..., Any], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_contend, args=(other, run, arguments), daemon=True)
        started = time.perf_counter()
        self._process.start()
        other.close()
        self._answer()
        self.start_s = time.perf_counter() - started

    def turn(self, steps: int) -> Turn:
        """Let it do some steps."""
        self._connection.send(steps)
        return self._answer()

    def end(self) -> None:
        """End its process."""
        self._process.kill()
        self._process.join()

    def _answer(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError:
            raise RuntimeError("a contender ended; its error stands above") from None


def _contend(connection: Connection, run: Callable[..., Any], arguments: tuple) -> None:
    run(Turns(connection), *arguments)
