"""Nodes that a run avoids, in RUN/slurm/suspect_nodes: a file that a person may read and edit.

    # what Foreword's next start avoids; remove a line to trust its node again
    node7 2026-03-01T10:12:00+00:00 preflight: 7 of 8 GPUs are there

What comes in: nodes that failed their preflight, died or hung. What goes out: which of them the next start excludes.
Promise: never so many that the job could not run any more; then the oldest suspicion is dropped.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from foreword.files import atomic_write
from slurm.events import JOBS_DIRECTORY
from slurm.job.cluster_state import Node

FILE_NAME = "suspect_nodes"
_HEAD = "# what the next start of this run avoids; remove a line to trust its node again\n"


@dataclass(frozen=True)
class Suspect:
    """A node and why it is avoided; `since` is an ISO time."""

    node: str
    since: str
    reason: str


def read_suspects(run_dir: Path) -> list[Suspect]:
    """Those of a run, in the order of the file; lines that a person has broken count as far as they go."""
    path = run_dir / JOBS_DIRECTORY / FILE_NAME
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    parts = [line.split(maxsplit=2) for line in lines if line.strip() and not line.startswith("#")]
    return [Suspect(*[*part, "", ""][:3]) for part in parts]


def write_suspects(run_dir: Path, suspects: Iterable[Suspect]) -> None:
    """Replace the file.

    Raises:
        OSError: it cannot be written.
    """
    lines = [f"{suspect.node} {suspect.since} {' '.join(suspect.reason.split())}\n" for suspect in suspects]
    with atomic_write(run_dir / JOBS_DIRECTORY / FILE_NAME, "w") as file:
        file.writelines([_HEAD, *lines])


def with_news(suspects: Sequence[Suspect], reasons: Mapping[str, str], now: datetime) -> list[Suspect]:
    """The list with the nodes of `reasons` (name -> why) at its end; a node that was on it already moves there."""
    others = [suspect for suspect in suspects if suspect.node not in reasons]
    since = now.astimezone().isoformat(timespec="seconds")
    return [*others, *(Suspect(node, since, reason) for node, reason in reasons.items())]


def exclusions(
    suspects: Sequence[Suspect], nodes: Mapping[str, Node], needed: int, constraint: str
) -> tuple[list[str], list[Suspect]]:
    """Which nodes to exclude, and which suspicions to drop because too few nodes would remain.

    Args:
        suspects: the oldest first.
        nodes: those of the job's partition.
        needed: how many the job asks for.
        constraint: what it asks of them.
    """
    usable = {node.name for node in nodes.values() if node.is_usable and node.offers(constraint)}
    known = [suspect for suspect in suspects if suspect.node in nodes]  # Slurm refuses a list with an unknown name
    excluded = {suspect.node for suspect in known}
    dropped = []
    for suspect in known:
        if len(usable - excluded) >= needed:
            break
        if suspect.node in usable:
            excluded.discard(suspect.node)
            dropped.append(suspect)
    return sorted(excluded), dropped
