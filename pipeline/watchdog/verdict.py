"""Reports of ranks that do not go on -> who holds the others up. Pure, but for reading and writing the files.

    RUN/hangs/20260301T101200-3f2a/rank_00003.txt     the Python stacks of all threads of rank 3
    RUN/hangs/20260301T101200-3f2a/rank_00003.json    where it stood
    RUN/hangs/20260301T101200-3f2a/verdict.json       who held the others up, as far as that can be told

Four signs, the first that applies: a rank does not answer at all (stopped, swapped out, killed, or its node is gone);
it is behind the others in the sequence of parts that all ranks go through; it stands at another line of code than most,
for those who wait in a collective stand at the same one; none, and then it is the network or a rank in the middle of
the same collective, which the stacks may tell. The one that is behind notices first that it does not go on, so others
may not have answered yet: when one of them was seen further on, it waits, and that it has said nothing is no sign.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from foreword.files import atomic_write
from pipeline.distributed.ranks import ranks
from pipeline.watchdog.heartbeat import Heartbeat

DIRECTORY = "hangs"
VERDICT_NAME = "verdict.json"
REPORTS = "rank_*.json"


@dataclass(frozen=True)
class Report:
    """Where a rank stood when its watchdog gave up.

    Attributes:
        heartbeat: its last one.
        where: the line of code at which its main thread stood.
    """

    heartbeat: Heartbeat
    where: str


@dataclass(frozen=True)
class Laggard:
    """A rank that holds the others up."""

    rank: int
    host: str | None
    reason: str


@dataclass(frozen=True)
class Verdict:
    """Who held a start up.

    Attributes:
        job, restart: of Slurm, where it ran there.
        summary: a sentence for a person.
        laggards: may be empty.
    """

    job: str | None
    restart: int
    summary: str
    laggards: tuple[Laggard, ...]


def find_laggards(
    world_size: int, reports: Mapping[int, Report], heartbeats: Mapping[int, Heartbeat]
) -> tuple[Laggard, ...]:
    """Who holds the others up.

    Args:
        world_size: number of ranks.
        reports: rank -> its report, of those that have made one.
        heartbeats: rank -> the last heartbeat of those that have not, where there is one.
    """
    fewest = min(report.heartbeat.place for report in reports.values())
    silent = [rank for rank in range(world_size) if rank not in reports]
    seen = [heartbeats[rank].place for rank in silent if rank in heartbeats]
    if silent and max(seen, default=fewest) <= fewest:
        return tuple(_silent(rank, heartbeats.get(rank)) for rank in silent)
    if fewest < max([*seen, *(report.heartbeat.place for report in reports.values())]):
        behind = [report.heartbeat for report in reports.values() if report.heartbeat.place == fewest]
        return tuple(
            Laggard(own.rank, own.host, f"is behind the others: step {own.step}, {own.part}") for own in behind
        )
    (most, count), *others = Counter(report.where for report in reports.values()).most_common()
    if others and count > len(reports) / 2:
        astray = [report for report in reports.values() if report.where != most]
        return tuple(
            Laggard(report.heartbeat.rank, report.heartbeat.host, f"is at {report.where}, and {count} others at {most}")
            for report in astray
        )
    return ()


def summarize(world_size: int, own: Heartbeat, limit_s: float, laggards: Sequence[Laggard], directory: Path) -> str:
    """The sentence for the log."""
    what = f"no progress for {limit_s:g} s at step {own.step} ({own.part})"
    stacks = f"stacks of all that answer are in {directory}"
    if not laggards and world_size == 1:
        return f"{what}; {stacks}"
    if not laggards:
        return f"{what}: all {world_size} ranks stand at the same place, none behind the others; {stacks}"
    if len(laggards) > world_size / 2:
        named = ranks([laggard.rank for laggard in laggards])
        return f"{what}: {named} of {world_size} hold the others up; {stacks}"
    who = "; ".join(_words(laggard) for laggard in laggards)
    return f"{what}: {who}; {stacks}"


def read_reports(directory: Path) -> dict[int, Report]:
    """Rank -> report."""
    reports = {}
    for path in directory.glob(REPORTS):
        try:
            values = json.loads(path.read_bytes())
            report = Report(Heartbeat(**values["heartbeat"]), values["where"])
        except (OSError, ValueError, TypeError, KeyError):
            continue
        reports[report.heartbeat.rank] = report
    return reports


def write_report(directory: Path, report: Report) -> None:
    """Leave a report where the others find it.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_write(directory / f"rank_{report.heartbeat.rank:05d}.json", "w") as file:
        json.dump(asdict(report), file)


def write_verdict(directory: Path, verdict: Verdict) -> None:
    """Replace the empty file that says whose verdict it will be.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_write(directory / VERDICT_NAME, "w") as file:
        json.dump(asdict(verdict), file)


def verdict_on(run_dir: Path, job: str, restart: int) -> Verdict | None:
    """The newest verdict on a start of a Slurm job, if there is one."""
    for path in sorted((run_dir / DIRECTORY).glob(f"*/{VERDICT_NAME}"), reverse=True):
        try:
            values = json.loads(path.read_bytes())
            laggards = tuple(Laggard(**laggard) for laggard in values.pop("laggards"))
            verdict = Verdict(**values, laggards=laggards)
        except (OSError, ValueError, TypeError, KeyError):
            continue
        if (verdict.job, verdict.restart) == (job, restart):
            return verdict
    return None


def _silent(rank: int, last: Heartbeat | None) -> Laggard:
    if last is None:
        return Laggard(rank, None, "does not answer, and has left no heartbeat")
    return Laggard(rank, last.host, f"does not answer; its last heartbeat was at step {last.step}, {last.part}")


def _words(laggard: Laggard) -> str:
    where = f" on {laggard.host}" if laggard.host else ""
    return f"rank {laggard.rank}{where} {laggard.reason}"
