"""The two moments at which a job's script asks what to do: when a start begins, and when its processes have ended.

What comes in: the run's directory, and what Slurm says. What goes out: events in jobs.jsonl, suspect nodes, a decision
for the script. Promise: what happened is written down before anything is done about it, and a start that Slurm killed
without a word is written down by the next one.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from foreword.console import say, warn
from foreword.errors import MachineError
from pipeline.checkpoint.find import all_checkpoints, first_problem
from pipeline.watchdog.verdict import verdict_on
from slurm.events import JobEvent, append_event, read_events
from slurm.job.cluster_state import JobState, Node, Queue
from slurm.job.hostlist import expand, join
from slurm.job.policy import FAILURES, Decision, End, Limits, decide
from slurm.job.suspects import Suspect, exclusions, read_suspects, with_news, write_suspects
from slurm.preflight.report import result_path, unfit_nodes

ENDINGS = (*FAILURES, "finished", "failed", "stopped", "cancelled")


@dataclass(frozen=True)
class ThisStart:
    """A start of a training job, as its environment tells of it.

    Attributes:
        run_dir: the run's directory.
        restarts: how often the job has come back from the queue.
        nodes: where it runs.
    """

    run_dir: Path
    job_id: str
    restarts: int
    nodes: tuple[str, ...]

    @classmethod
    def of(cls, run_dir: Path, environment: Mapping[str, str] = os.environ) -> "ThisStart":
        """Read the environment of the job's script.

        Raises:
            MachineError: this is not a Slurm job.
        """
        if "SLURM_JOB_ID" not in environment:
            raise MachineError("SLURM_JOB_ID is not set", remedy="this is for the scripts of `foreword submit`")
        return cls(
            run_dir=run_dir,
            job_id=environment["SLURM_JOB_ID"],
            restarts=int(environment.get("SLURM_RESTART_COUNT") or 0),
            nodes=tuple(expand(environment.get("SLURM_JOB_NODELIST", ""))),
        )

    def history(self) -> list[JobEvent]:
        """What has happened to this job so far."""
        return [event for event in read_events(self.run_dir) if event.job_id == self.job_id]

    def note(self, event: str, *, restart: int | None = None, **facts: object) -> None:
        """Write an event down; where that cannot be done, say so and go on."""
        restart = self.restarts if restart is None else restart
        try:
            append_event(self.run_dir, self.job_id, event, restart=restart, **facts)
        except OSError as error:
            warn(f"{self.run_dir}: {event} cannot be written down: {error.strerror}")


@dataclass(frozen=True)
class Instruction:
    """What the script shall do: `decision.action`, and `settings` for `scontrol update` of the next start."""

    decision: Decision
    settings: tuple[str, ...] = field(default=())

    def line(self) -> str:
        """One line of words."""
        return " ".join((self.decision.action, *self.settings))


def begin(start: ThisStart, nodes: Mapping[str, Node], limits: Limits) -> Decision | None:
    """Write down that a start begins, and before that how the last one ended, if nobody has.

    Args:
        start: this one.
        nodes: those of the job's partition.
        limits: how often the job may fail.

    Returns:
        None; or a decision that gives up, and then the start must not go on.
    """
    history = start.history()
    lost = _lost_start(history, start.restarts)
    if lost is not None:
        dead = tuple(name for name in lost.nodes if name in nodes and nodes[name].is_dead)
        decision = decide(
            End(None, Queue.RUNNING, dead_nodes=dead), history, _checkpoint_step(start.run_dir), start.restarts, limits
        )
        _suspect(start, dict.fromkeys(dead, f"died under job {start.job_id}"))
        _note_ending(start, decision, None, dead, restart=lost.restart)
        if decision.gives_up:
            start.note("gave_up", reason=decision.words)
            return decision
    start.note("started", nodes=list(start.nodes))
    return None


def end(
    start: ThisStart,
    *,
    exit_code: int,
    preflight_failed: bool,
    job: JobState,
    nodes: Mapping[str, Node],
    limits: Limits,
) -> Instruction:
    """Write down how a start ended, and decide what becomes of the job.

    Args:
        start: this one.
        exit_code: of srun.
        preflight_failed: whether it did not come to training.
        job: what Slurm says of it now.
        nodes: those of its partition.
        limits: how often it may come back.
    """
    dead = {node: f"died under job {start.job_id}" for node in start.nodes if node in nodes and nodes[node].is_dead}
    detail: str | None = None
    guilty: dict[str, str] = {}
    if preflight_failed:
        detail, guilty = unfit_nodes(result_path(start.run_dir, start.job_id, start.restarts))
        guilty = {node: f"preflight: {reason}" for node, reason in guilty.items()}
    verdict = verdict_on(start.run_dir, start.job_id, start.restarts)
    if verdict is not None:
        detail = verdict.summary
        guilty = {one.host: f"hung: rank {one.rank} {one.reason}" for one in verdict.laggards if one.host is not None}
    guilty = {node: reason for node, reason in (guilty | dead).items() if node in start.nodes}

    history = start.history()
    runs_again = any(event.event == "started" and event.restart > start.restarts for event in history)
    queue = Queue.RUNS_AGAIN if runs_again else job.queue  # whatever Slurm tells one that was cut off from it
    decision = decide(
        End(exit_code, queue, preflight_failed, tuple(dead), verdict is not None, detail),
        history,
        _checkpoint_step(start.run_dir),
        start.restarts,
        limits,
    )
    if decision.event is None:
        return Instruction(decision)
    if decision.event in FAILURES or dead:
        _suspect(start, guilty)
    _note_ending(start, decision, exit_code, tuple(guilty))
    settings: tuple[str, ...] = ()
    if decision.action in ("requeue", "adjust"):
        before = next((event.excluded for event in reversed(history) if event.event == "requeued"), [])
        excluded = _exclude(start, job, nodes) if nodes else before  # without an answer from sinfo all stays as it is
        start.note("requeued", reason=decision.words, next_start_delay_s=decision.delay_s, excluded=excluded)
        settings = _settings(decision, job, before, excluded)
    elif decision.gives_up:
        start.note("gave_up", reason=decision.words)
    return Instruction(decision, settings)


def _lost_start(history: Sequence[JobEvent], restarts: int) -> JobEvent | None:
    """The last start before this one, when nobody has written down how it ended."""
    started = [event for event in history if event.event == "started" and event.restart < restarts]
    if not started:
        return None
    last = started[-1]
    return None if any(e.event in ENDINGS and e.restart == last.restart for e in history) else last


def _note_ending(
    start: ThisStart, decision: Decision, exit_code: int | None, nodes: Sequence[str], restart: int | None = None
) -> None:
    assert decision.event is not None
    start.note(
        decision.event,
        restart=restart,
        reason=decision.reason,
        exit_code=exit_code,
        nodes=list(nodes),
        checkpoint_step=_checkpoint_step(start.run_dir),
    )


def _suspect(start: ThisStart, reasons: Mapping[str, str]) -> None:
    if not reasons:
        return
    for node, reason in reasons.items():
        say(f"{node} is suspect from now on: {reason}")
    _write_down(start, with_news(read_suspects(start.run_dir), reasons, datetime.now(UTC)))


def _write_down(start: ThisStart, suspects: Sequence[Suspect]) -> None:
    try:
        write_suspects(start.run_dir, suspects)
    except OSError as error:
        warn(f"{start.run_dir}: suspect nodes cannot be written down: {error.strerror}")


def _exclude(start: ThisStart, job: JobState, nodes: Mapping[str, Node]) -> list[str]:
    """The suspects that the next start avoids; suspicions that leave too few nodes are dropped from the file."""
    suspects = read_suspects(start.run_dir)
    avoidable = [suspect for suspect in suspects if suspect.node not in job.required]
    excluded, dropped = exclusions(avoidable, nodes, len(start.nodes), job.features)
    for suspect in suspects:
        if suspect not in avoidable:
            say(f"{suspect.node} is suspect ({suspect.reason}), but the job asks for it by name")
    if dropped:
        for suspect in dropped:
            say(
                f"{suspect.node} is not suspect any more, because too few nodes would remain;"
                f" it was since {suspect.since}: {suspect.reason}"
            )
        _write_down(start, [suspect for suspect in suspects if suspect not in dropped])
    return excluded


def _settings(decision: Decision, job: JobState, before: Sequence[str], excluded: Sequence[str]) -> tuple[str, ...]:
    """For `scontrol update`: what the user excludes stays excluded, and what only the last start did (`before`) not."""
    wanted = (set(job.excluded) - set(before)) | set(excluded)
    settings = []
    if decision.delay_s > 0:
        settings.append(f"StartTime=now+{decision.delay_s:.0f}")
    if wanted != set(job.excluded):
        settings.append(f"ExcNodeList={join(wanted)}")
    return tuple(settings)


def _checkpoint_step(run_dir: Path) -> int | None:
    """The step of the newest complete checkpoint."""
    for step, path in reversed(all_checkpoints(run_dir)):
        if first_problem(path) is None:
            return step
    return None
