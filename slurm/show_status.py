"""A `Status` as text for a person, and as plain values for a program."""

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from rich.filesize import decimal

from slurm.logs import log_of, newest_log
from slurm.status import Status

LAST_EVENTS = 12
NAMED_JOBS = 20


def facts(status: Status) -> dict[str, Any]:
    """The status as plain values; what is not known is null."""
    values: dict[str, Any] = {
        "directory": str(status.directory),
        "kind": status.kind,
        "state": status.state,
        "reason": status.reason,
    }
    if status.run is not None:
        run = status.run
        values |= {
            "step": run.step,
            "total_steps": run.total_steps,
            "loss": run.loss,
            "validation": run.validation,
            "tokens_per_s": run.tokens_per_s,
            "remaining_s": None if run.is_finished else run.remaining_s,
            "checkpoint_step": run.checkpoint_step,
            "starts": run.starts,
            "recorded": run.recorded,
        }
    if status.kind == "corpus":
        values |= _facts_of_corpus(status)
    values["jobs"] = [
        {
            "job_id": job.job_id,
            "state": job.state,
            "reason": job.reason,
            "nodes": job.nodes,
            "running_s": job.running_s,
            "left_s": job.left_s,
            "log": str(log_of(status.directory, job.job_id)),
        }
        for job in status.jobs
    ]
    values["history"] = history(status)
    return values


def _facts_of_corpus(status: Status) -> dict[str, Any]:
    prep, manifest = status.prep, status.manifest
    splits = manifest.splits.items() if manifest else ()
    return {
        "slices_done": len(prep.done) if prep else None,
        "slices": len(prep.plan.slices) if prep else None,
        "bytes_done": prep.done_bytes if prep else None,
        "bytes": prep.size_bytes if prep else None,
        "shards_done": prep.shards if prep else None,
        "unfinished_tasks": {str(tasks): prep.unfinished_tasks(tasks) for tasks in prep.task_counts} if prep else None,
        "recorded": prep.changed if prep else None,
        "splits": {name: {"rows": split.rows, "tokens": split.tokens} for name, split in splits} or None,
    }


def history(status: Status) -> list[dict[str, Any]]:
    """What happened to the jobs and to the run itself, in the order of time; every entry has `time` and `event`."""
    own = [event.model_dump(exclude_defaults=True) for event in status.events]
    of_run = [dict(event) for event in status.run.events] if status.run else []
    return sorted([*own, *of_run], key=lambda event: event["time"])


def describe(status: Status) -> str:
    """The status in lines, the most important ones first."""
    reason = (status.reason or "").replace("\n", "\n           ")
    lines = [
        f"{status.kind:<11}{status.directory}",
        f"state      {status.state}" + (f": {reason}" if reason else ""),
    ]
    if status.run is not None:
        lines += _lines_of_run(status)
    if status.prep is not None:
        prep = status.prep
        share = len(prep.done) / max(len(prep.plan.slices), 1)
        lines.append(
            f"slices     {len(prep.done):,} of {len(prep.plan.slices):,} ({share:.0%}),"
            f" {decimal(prep.done_bytes)} of {decimal(prep.size_bytes)}"
        )
        for tasks in prep.task_counts:
            late = prep.unfinished_tasks(tasks)
            shown = ", ".join(map(str, late[:NAMED_JOBS])) + (", ..." if len(late) > NAMED_JOBS else "")
            lines.append(f"tasks      of {tasks}, not done: {shown or 'none'}")
        if prep.shards:
            lines.append(f"shards     {prep.shards:,} done")
    if status.manifest is not None:
        for name, split in status.manifest.splits.items():
            lines.append(f"{name:<11}{split.rows:,} rows, {split.tokens:,} tokens, {len(split.shards):,} shard(s)")
    for job in status.jobs[:NAMED_JOBS]:
        where = f" on {job.nodes} for {_duration(job.running_s)}" if job.nodes else ""
        left = f", {_duration(job.left_s)} left" if job.nodes and job.left_s is not None else ""
        lines.append(f"job        {job.job_id} {job.state}{where}{left}")
    if len(status.jobs) > NAMED_JOBS:
        lines.append(f"           and {len(status.jobs) - NAMED_JOBS} more")
    log = newest_log(status.directory)
    if log is not None:
        lines.append(f"log        {log}")
    happened = history(status)
    lines += [f"{'history' if at == 0 else '':<11}{_line(event)}" for at, event in enumerate(happened[-LAST_EVENTS:])]
    return "\n".join(lines)


def overview(statuses: Iterable[Status]) -> str:
    """One line for each of several runs and corpora, under a line of titles; the directory is last and never cut."""
    rows = [("STATE", "DONE", "LOSS", "LEFT", "JOBS", "DIRECTORY")]
    for status in statuses:
        jobs = ", ".join(job.job_id for job in status.jobs[:3]) + (", ..." if len(status.jobs) > 3 else "")
        loss = f"{status.run.loss:.4f}" if status.run and status.run.loss is not None else ""
        left = _duration(status.run.remaining_s) if status.run and status.state == "running" else ""
        rows.append((status.state, _done(status), loss, left, jobs, str(status.directory)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    )


def as_json(values: Any) -> str:
    """Plain values as JSON."""
    return json.dumps(values, indent=2, ensure_ascii=False)


def _lines_of_run(status: Status) -> list[str]:
    run = status.run
    assert run is not None
    of = f" of {run.total_steps:,} ({run.step / run.total_steps:.1%})" if run.total_steps else ""
    lines = [f"step       {run.step:,}{of}" + (f", loss {run.loss:.4f}" if run.loss is not None else "")]
    if run.validation is not None:
        losses = [f"{key} {value:.4f}" for key, value in run.validation.items() if key.endswith("_loss")]
        lines.append(f"validation {', '.join(losses)} after step {run.validation['step']:,}")
    if run.tokens_per_s is not None:
        lines.append(
            f"speed      {run.tokens_per_s:,.0f} tokens/s" + (f", {run.step_s:.2f} s a step" if run.step_s else "")
        )
    if run.remaining_s is not None and not run.is_finished:
        when = datetime.now().astimezone() + timedelta(seconds=run.remaining_s)
        at = f", at {when:%Y-%m-%d %H:%M} if nothing interrupts it" if status.state == "running" else " of training"
        lines.append(f"left       {_duration(run.remaining_s)}{at}")
    if run.checkpoint_step is not None:
        lines.append(f"checkpoint of step {run.checkpoint_step:,}")
    if run.starts:
        lines.append(f"starts     {run.starts}")
    return lines


def _done(status: Status) -> str:
    if status.run is not None:
        return f"step {status.run.step:,}" + (f"/{status.run.total_steps:,}" if status.run.total_steps else "")
    if status.prep is not None:
        return f"slice {len(status.prep.done):,}/{len(status.prep.plan.slices):,}"
    return ""


def _line(event: dict[str, Any]) -> str:
    when = datetime.fromtimestamp(event["time"]).astimezone()
    who = f"job {event['job_id']}" if "job_id" in event else "submission" if event["event"] == "refused" else "training"
    words = [f"{when:%Y-%m-%d %H:%M:%S}  {who:<10}  {event['event'].replace('_', ' ')}"]
    if event.get("kind"):
        words.append(f"({event['kind']})")
    if "step" in event:
        words.append(f"at step {event['step']:,}")
    if event.get("after"):
        words.append(f"after job {event['after']}")
    if event.get("nodes"):
        words.append(f"on {', '.join(event['nodes'])}")
    reason = event.get("reason") or event.get("error")
    if reason:
        words.append(f"- {reason}")
    if event.get("excluded"):
        words.append(f"- without {', '.join(event['excluded'])}")
    if event.get("next_start_delay_s"):
        words.append(f"- next start in {event['next_start_delay_s']:g} s")
    return " ".join(words)


def _duration(seconds: float | None) -> str:
    return "?" if seconds is None else str(timedelta(seconds=round(seconds)))
