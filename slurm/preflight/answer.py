"""What a task of the preflight has found, as a line of text.

srun brings the lines of all tasks to the first node by Slurm's own way, so they arrive even where the file system, the
network between the nodes or torch do not work. It may cut lines longer than 1024 bytes in two; these are shorter.
"""

import json
import time
from dataclasses import asdict, dataclass, field

_MARK = '{"preflight": '
_MAX_BYTES = 900
NODE_PREFIX = "node-"  # of the names of files that nodes write for others to see


@dataclass(frozen=True)
class Answer:
    """One thing that was looked at.

    Attributes:
        node: Slurm's name of it.
        check: what was looked at; "done" is the last answer of a node.
        ok: whether training can go on with it.
        found: what is there.
        time: when it was said, in seconds since the epoch by that node's clock.
    """

    node: str
    check: str
    ok: bool
    found: str
    time: float = field(default_factory=lambda: round(time.time(), 3))

    def line(self) -> str:
        """The line, with as much of what was found as fits."""
        found = " ".join(self.found.split())
        while len(line := f"{_MARK}{json.dumps({**asdict(self), 'found': found})}}}") > _MAX_BYTES:
            found = found[: len(found) * 3 // 4]
        return line


def read(line: str) -> Answer | None:
    """What a line says; None for one that is something else."""
    if not line.startswith(_MARK):
        return None
    try:
        return Answer(**json.loads(line)["preflight"])
    except (ValueError, KeyError, TypeError):
        return None
