"""What Slurm says of a job and of nodes, as the job's script hands it on -> values.

Both come as text, from `scontrol show job --oneliner` and from sinfo with `SINFO_FORMAT`, because the script can ask
Slurm where Foreword, in a container, cannot.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from slurm.job.hostlist import expand

SINFO_FORMAT = "%N %T %f"
# base states in which a node works or will; what Slurm writes behind them are flags
_USABLE = {"idle", "allocated", "mixed", "completing", "planned", "reserved"}
_NOT_RESPONDING = "*"
_DEAD = {"down", "fail", "failing", "error", "unknown"}


class Queue(Enum):
    """Where the queue has this start of the job, when its processes have ended."""

    RUNNING = "running"
    """It is running: what becomes of it is for its script to say."""
    ENDING = "ending"
    """It may not come back: Slurm ends it because it was cancelled, or has been told not to queue it again."""
    OUT_OF_TIME = "out of time"
    """Slurm ends it because its time is up."""
    REQUEUED = "requeued"
    """It is in the queue again: preempted, a node failed, or somebody said `scontrol requeue`."""
    RUNS_AGAIN = "runs again"
    """A later start of it is running: this one was cut off and nobody waits for it."""
    UNKNOWN = "unknown"
    """Slurm does not answer."""


@dataclass(frozen=True)
class JobState:
    """A job as `scontrol show job` shows it.

    Attributes:
        queue: see there.
        features: what `--constraint` asks of nodes.
        required, excluded: nodes that it must, and must not run on.
    """

    queue: Queue
    features: str = ""
    required: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()

    @classmethod
    def read(cls, shown: str, restarts: int) -> "JobState":
        """Read a line of `scontrol show job --oneliner`, for the start of the job that came after `restarts` others."""
        facts = dict(word.split("=", 1) for word in shown.split() if "=" in word)
        features = facts.get("Features", "(null)")
        return cls(
            queue=_queue(facts, restarts),
            features="" if features == "(null)" else features,
            required=tuple(expand(facts.get("ReqNodeList", ""))),
            excluded=tuple(expand(facts.get("ExcNodeList", ""))),
        )


def _queue(facts: Mapping[str, str], restarts: int) -> Queue:
    state, counted = facts.get("JobState"), facts.get("Restarts", "")
    if state is None or not counted.isdecimal():
        return Queue.UNKNOWN
    if int(counted) > restarts:
        return Queue.RUNS_AGAIN if state == "RUNNING" else Queue.REQUEUED
    if facts.get("Requeue") == "0":
        return Queue.ENDING
    if state == "RUNNING":
        return Queue.RUNNING
    return Queue.OUT_OF_TIME if facts.get("Reason") == "TimeLimit" or state == "TIMEOUT" else Queue.ENDING


@dataclass(frozen=True)
class Node:
    """A node as sinfo shows it.

    Attributes:
        state: for example idle, or down*.
        features: what it has to offer to `--constraint`.
    """

    name: str
    state: str
    features: frozenset[str]

    @property
    def is_usable(self) -> bool:
        """Whether jobs run on it, now or when others have ended."""
        return self._base in _USABLE and _NOT_RESPONDING not in self.state

    @property
    def is_dead(self) -> bool:
        """Whether it has failed, rather than being kept back by somebody."""
        return self._base in _DEAD or _NOT_RESPONDING in self.state

    @property
    def _base(self) -> str:
        return re.split(r"[^a-z]", self.state)[0]

    def offers(self, constraint: str) -> bool:
        """Whether it has what `constraint` asks for, as far as that is a list of features that must all be there."""
        wanted = constraint.split("&")
        if not all(re.fullmatch(r"[\w.:-]+", feature) for feature in wanted):
            return True  # alternatives and counts are Slurm's to weigh
        return self.features.issuperset(wanted)


def read_nodes(shown: Iterable[str]) -> dict[str, Node]:
    """Name -> node, from the lines of `sinfo --noheader --Node --format=SINFO_FORMAT`."""
    nodes = {}
    for line in shown:
        words = line.split()
        if len(words) >= 2:
            features = frozenset(words[2].split(",")) if len(words) > 2 else frozenset()
            nodes[words[0]] = Node(words[0], words[1].lower(), features)
    return nodes
