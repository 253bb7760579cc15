"""Stage 1 over all its slices: which are there, which have to be done, and what they say together.

What comes in: a plan and the work directory. What goes out: tokenized slices and hashes of the input files, and
`Tokenized`, their sum. Promise: a slice counts as done only when its bytes have the checksum that it was written with.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from data_prep.config import PrepConfig
from data_prep.plan import Plan
from data_prep.slices import SliceRecord, is_whole, read_record
from data_prep.tokenize_stage import HashTask, TokenizeTask, first_stage
from data_prep.windows import SliceOfCorpus
from data_prep.work import Work
from data_prep.workers import Workers, report_progress
from foreword.console import progress
from foreword.errors import DataError

_NAMED_SLICES = 20


@dataclass(frozen=True)
class Tokenized:
    """What the first stage left: the slices in canonical order with their records, and the hash of each input file."""

    slices: list[SliceOfCorpus]
    records: list[SliceRecord]
    hashes: dict[int, str]


def missing_slices(plan: Plan, numbers: Iterable[int], work: Work, workers: Workers) -> list[int]:
    """Which of the slices `numbers` are not there, or not whole, as after a crash of the machine."""
    records = {number: read_record(work.slices, plan.slice_name(number)) for number in numbers}
    to_check = [
        _Check(work.slices, plan.slice_name(number), number, sum(record.sizes.values()))
        for number, record in records.items()
        if record is not None
    ]
    whole = set()
    if to_check:
        with progress("check what is there", sum(check.size_bytes for check in to_check) / 1e6, "MB") as shown:
            whole = {check.number for check, is_good in workers.run(_check, to_check, shown, scale=1e6) if is_good}
    return [number for number in records if number not in whole]


def run_first_stage(
    config: PrepConfig, plan: Plan, numbers: Iterable[int], tokenizer: Path, work: Work, workers: Workers
) -> None:
    """Do the slices `numbers` that are not there yet, and hash the files that begin with one of them.

    Args:
        tokenizer: the directory that `save_tokenizer` wrote.
    """
    numbers = list(numbers)
    missing = set(missing_slices(plan, numbers, work, workers))
    tasks: list[TokenizeTask | HashTask] = []
    for number in numbers:
        piece = plan.slices[number]
        file = plan.files[piece.file]
        marker = work.hash_marker(piece.file)
        if plan.begins_file(number) and not marker.is_file():
            tasks.append(HashTask(config.sources[file.source].kind, file.path, piece.file, marker))
        if number in missing:
            tasks.append(
                TokenizeTask(
                    config=config,
                    source=file.source,
                    path=file.path,
                    begin=piece.begin,
                    end=piece.end,
                    size_bytes=piece.size_bytes,
                    tokenizer=tokenizer,
                    directory=work.slices,
                    name=plan.slice_name(number),
                    scratch=work.scratch,
                )
            )
    remaining_bytes = sum(plan.slices[number].size_bytes for number in missing)
    with progress("tokenize", remaining_bytes / 1e6, "MB") as shown:
        for _ in workers.run(first_stage, tasks, shown, scale=1e6):
            pass


def refuse_missing(plan: Plan, work: Work, workers: Workers) -> None:
    """Check that every slice and every hash is there.

    Raises:
        DataError: some are not; the message names the tasks that have to run, as far as it is known how many there
            are, and the slices.
    """
    missing = set(missing_slices(plan, range(len(plan.slices)), work, workers))
    for number, piece in enumerate(plan.slices):
        if plan.begins_file(number) and not work.hash_marker(piece.file).is_file():
            missing.add(number)
    if not missing:
        return
    lines = []
    for tasks in work.task_counts():
        late = [task for task, share in enumerate(plan.shares(tasks)) if not missing.isdisjoint(share)]
        lines.append(f"with --tasks {tasks}: {', '.join(f'--task {task}' for task in late)}")
    for number in sorted(missing)[:_NAMED_SLICES]:
        piece = plan.slices[number]
        lines.append(f"slice {number}: {plan.files[piece.file].path} [{piece.begin}, {piece.end})")
    if len(missing) > _NAMED_SLICES:
        lines.append(f"and {len(missing) - _NAMED_SLICES} more slices")
    raise DataError(
        f"{len(missing)} of {len(plan.slices)} slices are not done:\n     " + "\n     ".join(lines),
        where=work.root.parent,
        remedy="run the tasks that are missing again, or `foreword prep` without --finish, which does what is left",
    )


def collect(plan: Plan, work: Work) -> Tokenized:
    """Read what finished slices say about themselves.

    Raises:
        DataError: a slice is gone.
    """
    slices, records, first = [], [], 0
    hashes: dict[int, str] = {}
    for number, piece in enumerate(plan.slices):
        record = read_record(work.slices, plan.slice_name(number))
        if record is None:
            raise DataError("a tokenized slice is gone", where=work.slices / plan.slice_name(number))
        slices.append(SliceOfCorpus(plan.slice_name(number), plan.files[piece.file].source, first, record.documents))
        records.append(record)
        first += record.documents
        if plan.begins_file(number):
            hashes[piece.file] = work.hash_marker(piece.file).read_text()
    return Tokenized(slices, records, hashes)


@dataclass(frozen=True)
class _Check:
    directory: Path
    name: str
    number: int
    size_bytes: int


def _check(check: _Check) -> bool:
    whole = is_whole(check.directory, check.name)
    report_progress(check.size_bytes)
    return whole
