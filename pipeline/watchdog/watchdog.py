"""Watches over one process of a run: when it makes no progress for too long, it says where it stands and ends.

The ranks go through the same parts of a step at the same time, and wait for each other in collectives. So when one
hangs, all of them stop, and each of their watchdogs notices by itself: nothing is asked of the others while all is
well. A rank that has stopped writes its Python stacks and where it stands, waits a moment for the reports of the
others, and one of them says who holds them up. Then they all end with exit code 76, at once and without tidying up: a
checkpoint that was being written does not exist, and the lease is left for the next start, which takes it over as that
of a dead process.

Two threads, so that a file system that hangs keeps the heart from beating and not the watchdog from watching. A rank
whose interpreter does not run any more (stopped, swapped out, stuck in a library that holds its lock) ends by others:
by srun or by the launcher, once the rest has gone; in its last heartbeat they say who it is.
"""

import faulthandler
import os
import socket
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import FrameType

from foreword.console import say
from foreword.errors import EXIT_HUNG
from pipeline.config.run import WatchdogConfig, WatchdogTimeouts
from pipeline.run.lease import lease_directory
from pipeline.telemetry.clock import Clock
from pipeline.watchdog import heartbeat, verdict
from pipeline.watchdog.heartbeat import Heartbeat, read_heartbeats, write_heartbeat
from pipeline.watchdog.verdict import REPORTS, Report, Verdict, find_laggards, read_reports, summarize

MAX_INTERVAL_S = 10.0
LOOKS = 5  # at the clock, in the shortest time that is allowed
LAST_WORDS_S = 20.0  # for everything that is written, on a file system that may be what hangs

_LIMITS = {"start_up": "start_up", "evaluating": "evaluation", "saving": "save", "profiling": "save"}
_OWN_CODE = str(Path(__file__).parents[1])


def name_start() -> str:
    """A name for a start of a run that no other start has, and that sorts by time."""
    return f"{datetime.now():%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:4]}"


class Watchdog:
    """Watches this process. A context manager.

    Args:
        config: the times that are allowed; without them nothing is watched.
        run_dir: the run's directory.
        start: a name of this start of the run, the same on all ranks; see `name_start`.
        rank, world_size: of this process, and of how many.
        clock: tells which part of a step the process is in.
        environment: where Slurm's names of the node and the job are looked up.
    """

    def __init__(
        self,
        config: WatchdogConfig,
        run_dir: Path,
        start: str,
        rank: int,
        world_size: int,
        clock: Clock,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._number: int | None = None
        self._timeouts, self._run_dir, self._start, self._clock = config.timeout_s, run_dir, start, clock
        self._rank, self._world_size = rank, world_size
        self._host = environment.get("SLURMD_NODENAME") or socket.gethostname()
        self._job, self._restart = environment.get("SLURM_JOB_ID"), int(environment.get("SLURM_RESTART_COUNT") or 0)
        self._main = threading.main_thread()
        self._step, self._moves_before, self._is_warm, self._is_closing = 0, 0, False, False
        self._stuck_s, self._beats = 0.0, 0
        self._ended, self._hurry = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "Watchdog":
        if self._timeouts is not None:
            self._interval_s = min(MAX_INTERVAL_S, *(limit_s / LOOKS for limit_s in _all(self._timeouts)))
            for name, work in (("heart", self._beat_until_end), ("watchdog", self._watch)):
                self._threads.append(threading.Thread(target=work, args=(self._timeouts,), name=name, daemon=True))
                self._threads[-1].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._hurry.set()
        for thread in self._threads:
            thread.join()

    def begin_heartbeats(self, number: int) -> None:
        """Say that the run is held, and under which fencing number; see `lease`."""
        self._number = number
        self._hurry.set()  # who is lost in the next moment shall have left one

    def step(self, step: int) -> None:
        """Say that step `step` was taken: from the first one on, later ones must not take as long as start-up may."""
        self._step, self._moves_before, self._is_warm = step, self._clock.moves, True

    def close(self) -> None:
        """Say that the run is over: uploading what was recorded may take as long as start-up."""
        self._is_closing = True

    def _limit_s(self, timeouts: WatchdogTimeouts) -> float:
        part = _LIMITS.get(self._clock.part, "step")
        if self._is_closing or (part == "step" and not self._is_warm):
            part = "start_up"
        return getattr(timeouts, part)

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(
            rank=self._rank,
            host=self._host,
            process=os.getpid(),
            step=self._step,
            part=self._clock.part,
            moves=self._clock.moves - self._moves_before,
            stuck_s=round(self._stuck_s, 1),
            beats=self._beats,
            time=round(time.time(), 3),
        )

    def _beat_until_end(self, _: WatchdogTimeouts) -> None:
        while not self._ended.is_set():
            with suppress(OSError):  # a file system may be away for a while, and a start that was cut off has no place
                self._beat()
            self._hurry.wait(self._interval_s)
            self._hurry.clear()
        if self._number is not None:
            with suppress(OSError):
                (self._heartbeats(self._number) / f"{self._rank:05d}").unlink()

    def _beat(self) -> None:
        if self._number is not None:
            directory = self._heartbeats(self._number)
            directory.mkdir(exist_ok=True)  # not its parents: they go when another start takes over
            write_heartbeat(directory, self._heartbeat())
            self._beats += 1

    def _heartbeats(self, number: int) -> Path:
        return lease_directory(self._run_dir, number) / heartbeat.DIRECTORY

    def _watch(self, timeouts: WatchdogTimeouts) -> None:
        moves, looked = self._clock.moves, time.monotonic()
        while not self._ended.wait(self._interval_s):
            now = time.monotonic()
            if self._clock.moves != moves:
                moves, self._stuck_s = self._clock.moves, 0.0
            else:
                # a look counts as one, however long this process was kept from looking: a suspended job is not stuck
                self._stuck_s += min(now - looked, 2 * self._interval_s)
            looked = now
            limit_s = self._limit_s(timeouts)
            if self._stuck_s >= limit_s:
                self._end_with_last_words(limit_s)

    def _end_with_last_words(self, limit_s: float) -> None:
        patience_s = 2 * self._interval_s + 1
        gone = threading.Timer(patience_s + LAST_WORDS_S, os._exit, [EXIT_HUNG])
        gone.daemon = True
        gone.start()
        try:
            self._say_last_words(limit_s, patience_s)
        except Exception:  # whatever it is, the process shall end
            traceback.print_exc()
            faulthandler.dump_traceback(sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(EXIT_HUNG)

    def _say_last_words(self, limit_s: float, patience_s: float) -> None:
        own = self._heartbeat()
        directory = self._run_dir / verdict.DIRECTORY / self._start
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / f"rank_{self._rank:05d}.txt").open("w") as file:
            file.write(
                f"{own}\n\nThe main thread, what it does last:\n{self._stack()}\nAll threads, what they do first:\n\n"
            )
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        verdict.write_report(directory, Report(own, self._where()))

        deadline = time.monotonic() + patience_s
        while len(list(directory.glob(REPORTS))) < self._world_size and time.monotonic() < deadline:
            time.sleep(self._interval_s / LOOKS)
        try:
            (directory / verdict.VERDICT_NAME).open("x").close()
        except FileExistsError:  # another rank was faster, and speaks for all
            return
        heartbeats = {} if self._number is None else read_heartbeats(self._heartbeats(self._number))
        laggards = find_laggards(self._world_size, read_reports(directory), heartbeats)
        summary = summarize(self._world_size, own, limit_s, laggards, directory)
        verdict.write_verdict(directory, Verdict(self._job, self._restart, summary, laggards))
        say(f"watchdog: {summary}; ending with exit code {EXIT_HUNG}")

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._main.ident or 0)
        return "".join(traceback.format_stack(frame)) if frame is not None else "no Python code\n"

    def _where(self) -> str:
        """Where the main thread is: its innermost frame, and the innermost that is this package's."""
        frame = sys._current_frames().get(self._main.ident or 0)
        innermost = None if frame is None else _words(frame)
        while frame is not None and not frame.f_code.co_filename.startswith(_OWN_CODE):
            frame = frame.f_back
        own = None if frame is None else _words(frame)
        return " in ".join(dict.fromkeys(words for words in (innermost, own) if words)) or "no Python code"


def _all(timeouts: WatchdogTimeouts) -> list[float]:
    return list(timeouts.model_dump().values())


def _words(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    return f"{frame.f_code.co_name} ({path.parent.name}/{path.name}:{frame.f_lineno})"
