"""Tasks over processes: a pool that stops cleanly, dies with its parent, and says how far it is.

Promise: results come as tasks finish; the order never matters to the caller. With one worker, or one task, the work is
done in this process. Workers ignore SIGINT and SIGTERM (the parent decides), leave their tasks when it stops, and end
when it is gone, however it went.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing import forkserver
from multiprocessing.connection import wait as wait_for_handles
from types import TracebackType
from typing import Any, TypeVar

from data_prep.stopping import stop_if_requested
from foreword.console import Progress
from foreword.errors import ProcessKilledError, StoppedOnRequest

Item = TypeVar("Item")
Result = TypeVar("Result")
PRELOADED = ["data_prep.tokenize_stage", "data_prep.pack_stage", "gigatoken", "pyarrow.compute", "tokenizers"]
POLL_S = 0.2

_shared: "_Shared | None" = None  # this process' view of it, set while it works


@dataclass(frozen=True)
class _Shared:
    """What all processes see: a counter of finished work, and whether to leave the current tasks."""

    done: Any
    stop: Any


def report_progress(amount: int) -> None:
    """Called inside a task, where it may end: `amount` more units of the current work are done.

    Raises:
        StoppedOnRequest: the whole work is to stop.
    """
    if _shared is not None:
        with _shared.done.get_lock():
            _shared.done.value += amount
        if _shared.stop.value:
            raise StoppedOnRequest("stopped by the parent process")
    stop_if_requested()


class Workers:
    """A pool of processes for the whole preparation; a context manager."""

    def __init__(self, count: int) -> None:
        self.count = count
        # started by a fork server: forking this process would be unsafe once it has threads, and a fresh interpreter
        # per worker would import everything again
        self._context = multiprocessing.get_context("forkserver")
        self._shared = _Shared(self._context.Value("q", 0), self._context.Value("b", 0))
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        if self.count > 1:
            start_fork_server()
            self._executor = ProcessPoolExecutor(
                self.count, mp_context=self._context, initializer=_begin, initargs=(self._shared,)
            )
        _share(self._shared)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _share(None)
        if self._executor is not None:
            self._shared.stop.value = int(kind is not None)
            self._executor.shutdown(wait=True, cancel_futures=True)

    def run(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        shown: Progress | None = None,
        scale: float = 1.0,
    ) -> Iterator[tuple[Item, Result]]:
        """Run `function` on every item; yields (item, result) as tasks finish.

        Args:
            function: a module-level function.
            items: taken as workers become free, never all at once.
            shown: updated with what tasks report through `report_progress`, divided by `scale`.

        Raises:
            ProcessKilledError: a worker was killed.
            StoppedOnRequest: a signal came.
            Exception: whatever a task raised; tasks not yet begun are dropped.
        """
        with self._shared.done.get_lock():
            self._shared.done.value = 0
        waiting = iter(items)
        first = list(islice(waiting, 2))
        waiting = chain(first, waiting)
        if self._executor is None or len(first) < 2:  # a single task is not worth starting a process for
            for item in waiting:
                stop_if_requested()
                result = function(item)
                self._show(shown, scale)
                yield item, result
            return
        running: dict[Future[Result], Item] = {}
        try:
            while True:
                stop_if_requested()
                for item in islice(waiting, 2 * self.count - len(running)):
                    running[self._executor.submit(function, item)] = item
                if not running:
                    return
                finished, _ = wait(running, timeout=POLL_S, return_when=FIRST_COMPLETED)
                self._show(shown, scale)
                for future in finished:
                    yield running.pop(future), future.result()
        except (BrokenProcessPool, EOFError, ConnectionError):  # the latter two: the fork server is gone
            stop_if_requested()  # a signal may have gone to all processes at once
            raise ProcessKilledError(
                "a worker process was killed, perhaps because memory ran out",
                remedy="run the same command again, it continues; with fewer workers if it happens again",
            ) from None
        finally:
            for future in running:
                future.cancel()

    def _show(self, shown: Progress | None, scale: float) -> None:
        if shown is not None:
            shown.update(self._shared.done.value / scale)


def start_fork_server() -> None:
    """Start the process that workers are forked from; it imports what they need while this process goes on.

    SIGTERM is blocked in it: schedulers send that to all processes, and nothing starts without the server.
    """
    multiprocessing.set_forkserver_preload(PRELOADED)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(shared: _Shared) -> None:
    _share(shared)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _share(shared: _Shared | None) -> None:
    global _shared
    _shared = shared


def _end_with_parent() -> None:
    """The queue's pipe has writers in every worker, so a killed parent does not close it; its sentinel does end."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_handles([parent.sentinel])
        os._exit(1)
