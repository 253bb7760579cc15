"""What each task of the preflight does: the first of a node looks at the node, then all try the network together.

A task that gets stuck says at what, and ends by itself when the time is up.
"""

import os
import threading
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from pipeline.distributed.placement import find_placement
from slurm.preflight.answer import Answer
from slurm.preflight.node import look_at_node

LAST_SECONDS_S = 3.0  # to say that the time is up


def run_task(environment: Mapping[str, str], *, gpus: int, needs_bytes: int, probe: Path, timeout_s: float) -> None:
    """Look, and print what was found; see `look_at_node`."""
    node = environment["SLURMD_NODENAME"]
    placement = find_placement(environment)
    doing = ["looking at the node"]

    def give_up() -> None:
        _say(Answer(node, doing[0], False, f"rank {placement.rank} was not done in {timeout_s:g} s"))
        os._exit(0)  # what was found is said; the exit code says nothing

    timer = threading.Timer(timeout_s - LAST_SECONDS_S, give_up)
    timer.daemon = True
    timer.start()
    if placement.local_rank == 0:
        for answer in look_at_node(
            node,
            gpus=gpus,
            needs_bytes=needs_bytes,
            probe=probe,
            is_first=placement.rank == 0,
            environment=environment,
        ):
            _say(answer)
        _say(Answer(node, "done", True, ""))
    doing[0] = "all-reduce"
    from slurm.preflight.all_reduce import all_reduce

    problem, found = all_reduce(placement, timedelta(seconds=timeout_s / 2))
    if problem or placement.rank == 0:
        _say(Answer(node, "all-reduce", not problem, found))
    timer.cancel()


def _say(answer: Answer) -> None:
    print(answer.line(), flush=True)  # noqa: T201 - for the report, which reads it
