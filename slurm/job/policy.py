"""How a start of a training job ended -> whether the job goes back into the queue, when, and why. Pure.

| training ended with | the job |
|---|---|
| 0, finished | ends |
| 2, 3: configuration, data | ends |
| 75, stopped with a checkpoint | is queued again at once |
| 76, hung, or the processes did not come together | is queued again after a while |
| anything else, a failed preflight, a node that died | is queued again after a while |

The while doubles with every failure in a row. When there is a new checkpoint since the last failure, the count starts
again; after `max_failures` without one the job gives up. A job that was cancelled never comes back.
"""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from foreword.errors import EXIT_DONE, EXIT_HUNG, EXIT_NOT_INTACT, EXIT_STOPPED, EXIT_USAGE
from slurm.events import JobEvent
from slurm.job.cluster_state import Queue

FAILURES = ("crashed", "hung", "preflight_failed")
MAX_DELAY_S = 3600.0

Event = Literal["finished", "failed", "stopped", "cancelled", "crashed", "hung", "preflight_failed"]
Action = Literal["end", "requeue", "adjust", "cancel"]


@dataclass(frozen=True)
class Limits:
    """How often a job comes back.

    Attributes:
        max_restarts: in all.
        max_failures: in a row without a new checkpoint.
        delay_s: before the start after the first failure.
    """

    max_restarts: int
    max_failures: int
    delay_s: float


@dataclass(frozen=True)
class End:
    """What is known of the end of a start.

    Attributes:
        exit_code: of srun, the highest of all processes; None when nobody saw the end.
        queue: where the queue has the job now.
        preflight_failed: whether it did not come to training.
        dead_nodes: those of its nodes that Slurm counts as failed.
        hung: whether a watchdog has given its verdict. One that hung is killed, so the exit code may be another.
        detail: what is known of the cause: which node failed what, or who hung.
    """

    exit_code: int | None
    queue: Queue
    preflight_failed: bool = False
    dead_nodes: tuple[str, ...] = ()
    hung: bool = False
    detail: str | None = None


@dataclass(frozen=True)
class Decision:
    """What to write down and what to do.

    Attributes:
        event, reason: what happened; no event for a start that nobody waits for any more.
        action: of the job's script: `end` it; `requeue` it; `adjust` the next start, for Slurm has queued it already;
            `cancel` it although Slurm has.
        outlook: what becomes of the job, in words.
        delay_s: before the next start.
        gives_up: whether it would have been queued again if that had not happened too often.
    """

    event: Event | None
    reason: str
    action: Action
    outlook: str
    delay_s: float = 0.0
    gives_up: bool = False

    @property
    def words(self) -> str:
        """What happened and what becomes of it."""
        return f"{self.reason}; {self.outlook}"


def decide(
    end: End, history: Sequence[JobEvent], checkpoint_step: int | None, restarts: int, limits: Limits
) -> Decision:
    """The decision.

    Args:
        end: how this start ended.
        history: what has happened to this job before, in order.
        checkpoint_step: of the newest complete checkpoint, None without one.
        restarts: how often the job has come back so far.
        limits: how often it may.
    """
    event, reason = _what_happened(end)
    if end.queue is Queue.RUNS_AGAIN:
        return Decision(None, "cut off", "end", "the job has been started again elsewhere, and goes on there")
    if end.queue is Queue.UNKNOWN:
        return Decision(event, reason, "end", "Slurm does not answer, so nothing is asked of it")
    if end.queue is Queue.ENDING and event not in ("finished", "failed"):
        outlook = "a job that was cancelled, or may not be requeued, does not come back"
        return Decision("cancelled", reason, "end", outlook)
    if event in ("finished", "failed"):
        return Decision(event, reason, "end", "not queued again")

    is_queued = end.queue is Queue.REQUEUED
    action: Action = "adjust" if is_queued else "requeue"
    too_often: Action = "cancel" if is_queued else "end"
    if restarts >= limits.max_restarts:
        outlook = f"giving up after {restarts} restarts, the most that are allowed"
        return Decision(event, reason, too_often, outlook, gives_up=True)
    if event == "stopped":
        return Decision(event, reason, action, "back into the queue")
    failures = 1 + _failures_in_a_row(history, checkpoint_step)
    if failures > limits.max_failures:
        outlook = f"giving up after {failures} failures without a new checkpoint; {limits.max_failures} are allowed"
        return Decision(event, reason, too_often, outlook, gives_up=True)
    delay_s = min(limits.delay_s * 2 ** (failures - 1), MAX_DELAY_S)
    outlook = f"failure {failures} of {limits.max_failures} without a new checkpoint; back into the queue"
    return Decision(event, reason, action, outlook, delay_s)


def _failures_in_a_row(history: Sequence[JobEvent], checkpoint_step: int | None) -> int:
    """How many failures, the last ones, found the same newest checkpoint as there is now."""
    steps = [event.checkpoint_step for event in history if event.event in FAILURES]
    in_a_row = 0
    while in_a_row < len(steps) and steps[-1 - in_a_row] == checkpoint_step:
        in_a_row += 1
    return in_a_row


def _what_happened(end: End) -> tuple[Event, str]:
    code = end.exit_code
    if code == EXIT_DONE:
        return "finished", "all steps are taken"
    if code == EXIT_USAGE:
        return "failed", "a configuration that cannot be used"
    if code == EXIT_NOT_INTACT:
        return "failed", "a corpus or a checkpoint that is not intact"
    if code == EXIT_STOPPED:
        return "stopped", "stopped on request, with everything saved"
    if end.dead_nodes:
        return "crashed", f"node failure: {', '.join(end.dead_nodes)}"
    if end.preflight_failed:
        return "preflight_failed", end.detail or "see the log"
    if end.queue is Queue.REQUEUED:
        return "stopped", "queued again from outside: preemption, or scontrol requeue"
    if end.queue is Queue.OUT_OF_TIME:
        return "crashed", "the time limit came before a checkpoint was saved"
    if end.hung or code == EXIT_HUNG:
        return "hung", end.detail or "the processes did not come together; see the log"
    if code is None:
        return "crashed", "ended without a word: its first node died, or Slurm killed its script"
    return "crashed", _words_for(code)


def _words_for(exit_code: int) -> str:
    if exit_code > 128:
        try:
            name = signal.Signals(exit_code - 128).name
        except ValueError:
            return f"exit code {exit_code}"
        out_of_memory = " (out of memory?)" if name == "SIGKILL" else ""
        return f"a process was ended by {name}{out_of_memory}"
    return f"exit code {exit_code}; what the process said is in the log"
