"""`foreword prep`: the stages in order, over many processes, continued where a killed run stopped.

    plan       input files -> slices                     (plan.json)
    tokenize   slice -> ids and content hashes           (slices/)
    dedup      hashes of all slices -> what to leave out
    pack       window of documents -> shard              (SPLIT/, shards/)
    finish     verify, report, manifest; the work directory is removed

Everything but the shards and the tokenizer lies in OUTPUT/.work until the manifest is written. Over a cluster, tasks do
the first two stages, each its share of the slices, and a finishing run does the rest.
"""

import errno
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data_prep.config import PrepConfig
from data_prep.dedup import find_duplicates
from data_prep.first_stage import Tokenized, collect, refuse_missing, run_first_stage
from data_prep.manifest import TOKENIZER_DIRECTORY, Manifest, TokenizerInfo
from data_prep.pack_stage import PackedShard, PackTask, pack_window, read_marker
from data_prep.plan import Plan, finished_corpus, make_plan, read_plan, refuse_changes, settle_plan
from data_prep.report import write_report
from data_prep.shards import size_problem, token_dtype
from data_prep.stopping import stop_on_signals
from data_prep.summarize import build_manifest
from data_prep.tokenizers import load_tokenizer, save_tokenizer
from data_prep.verify import verify_files
from data_prep.windows import SPLITS, SliceOfCorpus, plan_windows
from data_prep.work import WORK_DIRECTORY, Work, task_work, whole_work
from data_prep.workers import Workers
from foreword.console import progress, say
from foreword.errors import ConfigError, DataError, ForewordError, MachineError
from foreword.files import fsync_directory

_MACHINE_ERRORS = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of the quota",
    errno.EROFS: "choose an output that can be written",
    errno.EACCES: "choose an output that can be written",
    errno.EPERM: "choose an output that can be written",
    errno.ENOTDIR: "choose an output that is a directory",
}


@dataclass(frozen=True)
class TaskDone:
    """What a task has to its name: its slices, and their share of the input in bytes."""

    slices: int
    size_bytes: int


def prepare(config: PrepConfig) -> Manifest:
    """Prepare a corpus, or continue one, or find that it is there already.

    Raises:
        ConfigError: the configuration cannot be used, or the output belongs to another one.
        DataError: input that is refused.
        MachineError: the disk is full or cannot be written, or a worker was killed.
        StoppedOnRequest: SIGINT or SIGTERM; the same command continues.
    """
    return _whole(config, only_finish=False)


def prepare_task(config: PrepConfig, task: int, tasks: int) -> TaskDone:
    """Do one task's share of the first stage; what is there already is not done again. Other tasks may run beside.

    Args:
        task: in [0, tasks).
        tasks: into how many shares the slices are divided; it does not show in the corpus.

    Raises: as `prepare` does.
    """
    output = Path(config.output)
    with _machine_errors(output), stop_on_signals():
        if _finished(config, output):
            say(f"{output} is finished already, nothing to do")
            return TaskDone(0, 0)
        with task_work(output, task, tasks) as work:
            with work.one_at_a_time():
                plan = _begin(config, output, work)[0]
            numbers = plan.share(task, tasks)
            with Workers(config.workers) as workers:
                run_first_stage(config, plan, numbers, output / TOKENIZER_DIRECTORY, work, workers)
        return TaskDone(len(numbers), sum(plan.slices[number].size_bytes for number in numbers))


def finish(config: PrepConfig) -> Manifest:
    """Make the corpus of slices that tasks have done.

    Raises: as `prepare` does, and
        ConfigError: no task has run.
        DataError: some tasks are not done; they are named.
    """
    return _whole(config, only_finish=True)


def _whole(config: PrepConfig, only_finish: bool) -> Manifest:
    output = Path(config.output)
    with _machine_errors(output), stop_on_signals():
        finished = _finished(config, output)
        if finished is None and only_finish and read_plan(output / WORK_DIRECTORY) is None:
            raise ConfigError("no task has run on this output", where=output, remedy="run `foreword prep` with --task")
        if finished is None or (output / WORK_DIRECTORY).is_dir():
            with whole_work(output) as work:  # a run killed at its very end leaves its work directory to be removed
                return _finished(config, output) or _prepare(config, output, work, only_finish)
        say(f"{output} is finished already, nothing to do")
        return finished


def _finished(config: PrepConfig, output: Path) -> Manifest | None:
    finished = finished_corpus(output)
    if finished is not None:
        refuse_changes({"config": finished.config}, {"config": config.result_config()}, output)
    return finished


def _begin(config: PrepConfig, output: Path, work: Work) -> tuple[Plan, TokenizerInfo]:
    """Settle the plan and put the tokenizer where workers find it."""
    tokenizer = load_tokenizer(config.tokenizer.path, config.tokenizer.eod, config.tokenizer.pad)
    plan = settle_plan(work.root, make_plan(config, tokenizer))
    return plan, save_tokenizer(tokenizer, output / TOKENIZER_DIRECTORY)


def _prepare(config: PrepConfig, output: Path, work: Work, only_finish: bool) -> Manifest:
    started = time.monotonic()
    seconds: dict[str, float] = {}
    plan, info = _begin(config, output, work)
    with Workers(config.workers) as workers:
        with _timed(seconds, "tokenize"):
            if only_finish:
                refuse_missing(plan, work, workers)
            else:
                every_slice = range(len(plan.slices))
                run_first_stage(config, plan, every_slice, output / TOKENIZER_DIRECTORY, work, workers)
            tokenized = collect(plan, work)
        if not sum(piece.count for piece in tokenized.slices):
            dropped = sum((record.dropped for record in tokenized.records), Counter())
            what = f"all were left out: {dict(dropped)}" if dropped else "the input is empty"
            raise DataError(f"no documents, {what}", where=output, remedy="check the sources and the text limits")
        with _timed(seconds, "deduplicate"):
            duplicates = _deduplicate(config, tokenized.slices, work, workers)
        with _timed(seconds, "pack"):
            shards = _pack(config, info, tokenized, duplicates, output, work, workers)
        manifest = build_manifest(config, plan, info, tokenized, duplicates, shards)
        with _timed(seconds, "verify"):
            problems = verify_files(output, manifest, workers)
        if problems:
            raise DataError("what was written is not what is on the disk:\n" + "\n".join(problems), where=output)
    seconds["total"] = time.monotonic() - started
    write_report(output, manifest, shards, seconds)
    fsync_directory(output)
    manifest.save(output)
    return manifest


def _deduplicate(config: PrepConfig, slices: list[SliceOfCorpus], work: Work, workers: Workers) -> tuple[Path, ...]:
    """Stage 2; always done anew, it takes seconds where the others take hours."""
    if not config.deduplicate:
        return ()
    names, counts = [piece.name for piece in slices], [piece.count for piece in slices]
    return tuple(find_duplicates(workers, work.slices, names, counts, work.dedup))


def _pack(
    config: PrepConfig,
    tokenizer: TokenizerInfo,
    tokenized: Tokenized,
    duplicates: tuple[Path, ...],
    output: Path,
    work: Work,
    workers: Workers,
) -> list[PackedShard]:
    """Stage 3 for every window whose shard is not there yet; the shards in split and number order."""
    for split in SPLITS:
        (output / split).mkdir(exist_ok=True)
    finished: list[PackedShard] = []

    def missing() -> Iterator[PackTask]:
        for window in plan_windows(config, work.slices, tokenized.slices, duplicates):
            marker = work.shards / f"{window.split}-{window.name}.json"
            shard = read_marker(marker)
            if shard is not None and not any(size_problem(output / name, f) for name, f in shard.info.files.items()):
                finished.append(shard)
                continue
            yield PackTask(
                config=config,
                window=window,
                slices=work.slices,
                duplicates=duplicates,
                vocab_size=tokenizer.vocab_size,
                pad_id=tokenizer.pad_id,
                corpus=output,
                marker=marker,
            )

    itemsize = token_dtype(tokenizer.vocab_size).itemsize
    tokens = sum(record.sizes["tokens"] for record in tokenized.records) // itemsize
    with progress("pack", tokens / 1e6, "M tokens") as shown:
        finished += [shard for _, shard in workers.run(pack_window, missing(), shown, scale=1e6)]
        shown.update(tokens / 1e6)  # duplicates were in the estimate
    for split in SPLITS:
        if not any(shard.split == split for shard in finished):
            (output / split).rmdir()
    return sorted(finished, key=lambda shard: (SPLITS.index(shard.split), int(shard.info.name)))


@contextmanager
def _machine_errors(output: Path) -> Iterator[None]:
    """Turn what the machine refuses into a `MachineError` that says what to do."""
    try:
        yield
    except OSError as error:
        if isinstance(error, ForewordError) or error.errno not in _MACHINE_ERRORS:
            raise
        raise MachineError(
            (error.strerror or str(error)).lower(),
            where=error.filename or output,
            remedy=f"{_MACHINE_ERRORS[error.errno]} and run the same command again, it continues",
        ) from None


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - began
