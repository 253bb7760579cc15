"""Names of nodes as Slurm abbreviates them: "node[1-3,07],login" <-> node1 node2 node3 node07 login.

Slurm's own `scontrol show hostnames` does the same, but is not there in a container.
"""

import re
from collections.abc import Iterable

_OUTSIDE_BRACKETS = re.compile(r",(?![^\[]*\])")
_BRACKETS = re.compile(r"\[([^\]]*)\]")


def expand(abbreviated: str) -> list[str]:
    """The names, in Slurm's order; none for "", "(null)" and "None"."""
    if abbreviated in ("", "(null)", "None"):
        return []
    return [name for part in _OUTSIDE_BRACKETS.split(abbreviated) for name in _expand_one(part)]


def join(names: Iterable[str]) -> str:
    """The names as Slurm takes them, sorted and without abbreviation."""
    return ",".join(sorted(set(names)))


def _expand_one(part: str) -> list[str]:
    match = _BRACKETS.search(part)
    if match is None:
        return [part]
    heads = [part[: match.start()] + number for number in _numbers(match[1])]
    return [head + tail for head in heads for tail in _expand_one(part[match.end() :])]


def _numbers(ranges: str) -> list[str]:
    numbers = []
    for piece in ranges.split(","):
        first, _, last = piece.partition("-")
        width = len(first)  # 08-11 keeps its zeros
        numbers += [str(number).zfill(width) for number in range(int(first), int(last or first) + 1)]
    return numbers
