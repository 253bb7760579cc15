"""Answers of all nodes -> which nodes are fit to train on.

What the preflight of job 12's first start leaves:

    RUN/slurm/preflight-12-0.json    its result
    RUN/slurm/.preflight-12-0/       while it goes on, the files that nodes show each other
"""

import json
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreword.files import atomic_write
from slurm.events import JOBS_DIRECTORY
from slurm.preflight.answer import NODE_PREFIX, Answer, read

MAX_CLOCK_SKEW_S = 5.0


@dataclass(frozen=True)
class Arrived:
    """An answer, and when the first node heard it, by its own clock."""

    answer: Answer
    heard: float


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        answers: of all nodes, and what came of comparing them.
        unfit: node -> what is wrong with it. Not in here: what is wrong on every node.
        took_s: from the first answer to the last, and the start before them.
    """

    answers: tuple[Answer, ...]
    unfit: dict[str, str]
    took_s: float

    @property
    def ok(self) -> bool:
        """Whether training may begin."""
        return all(answer.ok for answer in self.answers)

    def summary(self) -> str:
        """What is wrong, in one line."""
        if self.unfit:
            return "; ".join(f"{node}: {reason}" for node, reason in self.unfit.items())
        problems = dict.fromkeys(f"{answer.check}: {answer.found}" for answer in self.answers if not answer.ok)
        return "; ".join(problems) or "all nodes are fit"

    def table(self) -> str:
        """For a person: what is wrong node by node, and what is well with its nodes counted."""
        lines = []
        well = Counter((answer.check, answer.found) for answer in self.answers if answer.ok)
        for (check, found), count in well.items():
            lines.append(f"  ok      {check:<20}{found}{f' ({count} nodes)' if count > 1 else ''}")
        ill = [answer for answer in self.answers if not answer.ok]
        lines += [f"  FAILED  {answer.check:<20}{answer.node}: {answer.found}" for answer in ill]
        return "\n".join([f"preflight, {self.took_s:.1f} s: {self.summary()}", *lines])

    def as_json(self) -> dict[str, Any]:
        """For a program."""
        checks = [
            {"node": answer.node, "check": answer.check, "ok": answer.ok, "found": answer.found}
            for answer in self.answers
        ]
        return {"ok": self.ok, "summary": self.summary(), "unfit": self.unfit, "took_s": self.took_s, "checks": checks}


def judge(nodes: Sequence[str], arrived: Iterable[Arrived], seen_files: Iterable[str], took_s: float) -> Report:
    """Compare.

    Args:
        nodes: all that should have answered, the first one first.
        arrived: what they said.
        seen_files: nodes whose files the first node sees in the probe directory.
        took_s: how long it all took.
    """
    arrived = list(arrived)
    said = [one.answer for one in arrived if one.answer.check != "done"]
    done = {one.answer.node for one in arrived if one.answer.check == "done"}
    seen = set(seen_files)
    answers = _with_versions_compared(said)
    for node in nodes:
        if node not in done:
            last = [answer.check for answer in said if answer.node == node]
            found = f"no answer after {last[-1]}" if last else "no answer"
            answers.append(Answer(node, "answers", False, found))
        elif node not in seen and all(a.ok for a in said if (a.node, a.check) == (node, "shared file system")):
            answers.append(Answer(node, "shared file system", False, f"what it wrote cannot be seen on {nodes[0]}"))
    answers += [skew for node in nodes if (skew := _clock_skew(node, nodes[0], arrived)) is not None]
    if not any(answer.check == "all-reduce" for answer in answers):
        answers.append(Answer(nodes[0], "all-reduce", False, "no answer"))
    return Report(tuple(answers), _unfit(nodes, answers), took_s)


def hear(lines: Iterable[str], pass_on: Callable[[str], None]) -> Iterator[Arrived]:
    """The answers among `lines`, as they come; what else there is, is passed on."""
    for line in lines:
        answer = read(line)
        if answer is None:
            pass_on(line.rstrip("\n"))
        else:
            yield Arrived(answer, time.time())


def was_stopped(lines: Iterable[str]) -> bool:
    """Whether srun says, in what the script adds to its lines, that the tasks were told to stop."""
    codes = {f"srun ended with {128 + number}" for number in (signal.SIGTERM, signal.SIGUSR1)}
    return any(line.strip() in codes for line in lines)


def probe_directory(run_dir: Path, job_id: str, restarts: int) -> Path:
    """Where nodes show each other files."""
    return run_dir / JOBS_DIRECTORY / f".preflight-{job_id}-{restarts}"


def remove_probe(directory: Path) -> list[str]:
    """The nodes whose files are there; then they are not any more."""
    nodes = [path.name.removeprefix(NODE_PREFIX) for path in directory.glob(f"{NODE_PREFIX}*")]
    shutil.rmtree(directory, ignore_errors=True)
    return nodes


def result_path(run_dir: Path, job_id: str, restarts: int) -> Path:
    """Where the result of a start's preflight is kept."""
    return run_dir / JOBS_DIRECTORY / f"preflight-{job_id}-{restarts}.json"


def write_report(path: Path, report: Report) -> None:
    """Write the result.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_write(path, "w") as file:
        json.dump(report.as_json(), file, indent=1)


def unfit_nodes(path: Path) -> tuple[str | None, dict[str, str]]:
    """The summary of a result, and its unfit nodes; nothing when there is none."""
    try:
        result = json.loads(path.read_bytes())
        return result["summary"], dict(result["unfit"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, {}


def _with_versions_compared(said: Sequence[Answer]) -> list[Answer]:
    """The versions of most nodes are the right ones; without a majority any node may have the wrong ones."""
    counts = Counter(answer.found for answer in said if answer.check == "versions" and answer.ok)
    if len(counts) < 2:
        return list(said)
    (usual, count), (other, _) = counts.most_common(2)
    has_majority = 2 * count > counts.total()
    compared = []
    for answer in said:
        if answer.check == "versions" and answer.ok and not (has_majority and answer.found == usual):
            theirs = other if answer.found == usual else usual
            found = ", ".join(f"{own}, elsewhere {there}" for own, there in _differences(answer.found, theirs))
            answer = Answer(answer.node, answer.check, False, found, answer.time)
        compared.append(answer)
    return compared


def _differences(own: str, usual: str) -> list[tuple[str, str]]:
    pairs = zip(own.split(", "), usual.split(", "), strict=False)
    return [(mine, theirs) for mine, theirs in pairs if mine != theirs]


def _clock_skew(node: str, first: str, arrived: Sequence[Arrived]) -> Answer | None:
    """How far a node's clock is from the first one's: the way of its answers takes time, so the quickest counts."""
    ways = {name: [one.heard - one.answer.time for one in arrived if one.answer.node == name] for name in (node, first)}
    if not ways[node] or not ways[first]:
        return None
    ahead_s = min(ways[first]) - min(ways[node])
    ok = abs(ahead_s) <= MAX_CLOCK_SKEW_S
    found = f"within {MAX_CLOCK_SKEW_S:g} s of {first}'s" if ok else f"{ahead_s:+.1f} s from {first}'s"
    return Answer(node, "clock", ok, found)


def _unfit(nodes: Sequence[str], answers: Iterable[Answer]) -> dict[str, str]:
    """What is wrong with single nodes. What fails on all of them alike is not their fault, nor is the network."""
    problems: dict[str, dict[str, str]] = {}
    for answer in answers:
        if not answer.ok and answer.check != "all-reduce":
            problems.setdefault(answer.check, {})[answer.node] = answer.found
    own = {
        check: by_node
        for check, by_node in problems.items()
        if len(by_node) < len(nodes) or len(nodes) == 1 or check == "versions"
    }
    reasons = {node: [f"{check}: {by[node]}" for check, by in own.items() if node in by] for node in nodes}
    return {node: "; ".join(found) for node, found in reasons.items() if found}
