"""Real processes for distributed tests: `run_distributed` starts them, collects results, and ends them.

Each rank is a process of its own that sees RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT as torchrun would
set them, with one thread each. It is forked from a server that has imported the trainer once: that import takes longer
than most tests. What a rank runs must be a top-level function of an importable module, and its arguments and result
must be picklable.
"""

import faulthandler
import multiprocessing
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from typing import Any
from unittest import mock

from slurm.job.port import reserve_port

DEFAULT_TIMEOUT_S = 120.0


class RankError(AssertionError):
    """A rank raised, died or did not answer in time; the message carries the rank's own traceback."""


def run_distributed(
    world_size: int, function: Callable[..., Any], *args: Any, timeout_s: float = DEFAULT_TIMEOUT_S
) -> list[Any]:
    """Call `function(*args)` in `world_size` processes at once; returns the results in rank order.

    When one rank fails the others, which may be waiting for it in a collective, are ended at once. A rank that is still
    running shortly before the time is up prints its stack.

    Raises:
        RankError: a rank raised (its traceback is in the message), died, or was not done after `timeout_s`.
    """
    with started(world_size, function, *args, timeout_s=timeout_s) as ranks:
        return ranks.results(timeout_s)


@dataclass(frozen=True)
class Ended:
    """How a rank ended.

    Attributes:
        exit_code: of its process; negative for the signal that killed it.
        answer: what it returned, or the traceback of what it raised; None when it died.
    """

    exit_code: int
    answer: Any


def run_until_one_dies(
    world_size: int,
    function: Callable[..., Any],
    *args: Any,
    kill_all: bool = False,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> list[Ended]:
    """Call `function(*args)` in `world_size` processes of which some may be killed; returns how each of them ended.

    Args:
        world_size, function, args: as for `run_distributed`.
        kill_all: whether all others are killed too, as soon as one process has ended.
        timeout_s: after which time a rank counts as hanging.

    Raises:
        RankError: a rank hangs.
    """
    with started(world_size, function, *args, timeout_s=timeout_s) as ranks:
        deadline = time.monotonic() + timeout_s
        answers: list[Any] = [None] * world_size
        waiting = dict(enumerate(ranks.receivers))
        while waiting:
            ready = wait(list(waiting.values()), timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                raise RankError(f"ranks {sorted(waiting)} hang after others have ended: {answers}")
            for rank in [rank for rank, receiver in waiting.items() if receiver in ready]:
                with suppress(EOFError):
                    answers[rank] = pickle.loads(waiting[rank].recv_bytes())[1]
                del waiting[rank]
            if kill_all:
                for process in ranks.processes:
                    process.kill()
        for process in ranks.processes:
            process.join(timeout=10.0)
        return [Ended(process.exitcode, answer) for process, answer in zip(ranks.processes, answers, strict=True)]


@dataclass(frozen=True)
class Ranks:
    """Processes that were started, and where their answers come from."""

    processes: list[Any]
    receivers: list[Connection]

    def results(self, timeout_s: float) -> list[Any]:
        """What each rank returned; raises RankError as `run_distributed` does."""
        results = _collect(self.receivers, time.monotonic() + timeout_s)
        for process in self.processes:
            process.join(timeout=10.0)
        return results


@contextmanager
def started(
    world_size: int, function: Callable[..., Any], *args: Any, timeout_s: float = DEFAULT_TIMEOUT_S
) -> Iterator[Ranks]:
    """Processes that call `function(*args)` while the block runs; at its end they are killed."""
    context = multiprocessing.get_context("forkserver")
    _start_server()
    port = reserve_port()
    processes: list[Any] = []
    receivers: list[Connection] = []
    try:
        for rank in range(world_size):
            receiver, sender = context.Pipe(duplex=False)
            environment = rank_variables(rank, world_size, port)
            process = context.Process(
                target=_run_rank, args=(sender, environment, timeout_s, function, args), daemon=True
            )
            process.start()
            sender.close()
            processes.append(process)
            receivers.append(receiver)
        yield Ranks(processes, receivers)
    finally:
        for process in processes:
            process.kill()
            process.join()


def rank_variables(rank: int, world_size: int, port: int) -> dict[str, str]:
    """The variables torchrun would set for one rank."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def _start_server() -> None:
    multiprocessing.set_forkserver_preload(["pipeline.train"])
    with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}):
        forkserver.ensure_running()


def _run_rank(
    sender: Connection,
    environment: dict[str, str],
    timeout_s: float,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    os.environ.update(environment)
    if "torch" in sys.modules:  # read its number of threads when the server imported it
        sys.modules["torch"].set_num_threads(1)
    faulthandler.dump_traceback_later(0.9 * timeout_s)
    try:
        # plain pickle: multiprocessing's own would hand tensors over through memory that dies with this process
        answer = pickle.dumps((True, function(*args)))
    except BaseException:
        answer = pickle.dumps((False, traceback.format_exc()))
    faulthandler.cancel_dump_traceback_later()
    sender.send_bytes(answer)
    sender.close()


def _collect(receivers: list[Connection], deadline: float) -> list[Any]:
    results: dict[int, Any] = {}
    while len(results) < len(receivers):
        waiting = {receiver: rank for rank, receiver in enumerate(receivers) if rank not in results}
        ready = wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise RankError(f"no answer in time from ranks {sorted(waiting.values())}")
        for receiver in ready:
            rank = waiting[receiver]  # type: ignore[index]
            try:
                succeeded, result = pickle.loads(receiver.recv_bytes())  # type: ignore[union-attr]
            except EOFError:
                raise RankError(f"rank {rank} died without an answer") from None
            if not succeeded:
                raise RankError(f"rank {rank} raised\n{result}")
            results[rank] = result
    return [results[rank] for rank in range(len(receivers))]
