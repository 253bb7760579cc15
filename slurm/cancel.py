"""Taking a run's or a corpus's jobs out of the queue, so that they save first and do not come back.

Slurm itself forgets that a job may be queued again (`Requeue=0`), so that neither the job's own script nor a failing
node brings it back, whoever edited the script. Then its processes get SIGTERM: training saves and ends, a preparation
ends between two pieces of work. A plain scancel would kill them `KillWait` seconds later, in the middle of a save.
"""

from collections.abc import Iterator
from pathlib import Path

from slurm import clients
from slurm.clients import QueuedJob
from slurm.events import append_event, read_events

AT_ONCE = 200  # jobs on a command line


def jobs_in_queue(directory: Path) -> list[QueuedJob]:
    """The jobs that work on `directory` or are to do so: those that it knows of, and those that say so themselves.

    Raises:
        MachineError: Slurm cannot be asked.
    """
    known = clients.jobs_by_id(event.job_id for event in read_events(directory))
    own = [job for job in clients.own_jobs() if job.directory is not None and _is_same(job.directory, directory)]
    by_id = {job.job_id: job for job in [*known, *own] if job.is_live}
    return list(by_id.values())


def cancel(directory: Path, at_once: bool) -> Iterator[tuple[QueuedJob, str]]:
    """Cancel all jobs of a run or a corpus; yields each with what was done to it.

    Args:
        directory: the run's or the corpus's.
        at_once: end them without waiting for a save.

    Raises:
        MachineError: Slurm cannot be asked, or refuses.
    """
    jobs = jobs_in_queue(directory)
    waiting = [job for job in jobs if job.is_waiting]
    # those that wait go first, so that none of them starts because another one ends
    for begin in range(0, len(waiting), AT_ONCE):
        clients.ask("scancel", *(job.job_id for job in waiting[begin : begin + AT_ONCE]))
    for job in [*waiting, *(job for job in jobs if not job.is_waiting)]:
        if job.is_waiting:
            done = "taken out of the queue"
        elif job.state == "COMPLETING":
            done = "ending already"
        elif at_once or not _tell_to_stop(job):
            clients.ask("scancel", job.job_id)
            done = "ended"
        else:
            done = "told to save and to end; it does not come back"
        append_event(directory, job.job_id, "cancelled", reason=f"foreword cancel: {done}")
        yield job, done


def _tell_to_stop(job: QueuedJob) -> bool:
    """Whether there were processes to tell."""
    clients.ask("scontrol", "update", f"JobId={job.job_id}", "Requeue=0")
    if not clients.has_steps(job.job_id):
        return False
    clients.ask("scancel", "--signal=TERM", job.job_id)
    return True


def _is_same(first: Path, second: Path) -> bool:
    return first.resolve() == second.resolve()
