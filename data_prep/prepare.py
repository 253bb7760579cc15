"""`foreword prep`: the stages in order, over many processes, continued where a killed run stopped.

    plan       input files -> slices                     (plan.json)
    tokenize   slice -> ids and content hashes           (slices/)
    dedup      hashes of all slices -> what to leave out
    pack       window of documents -> shard              (SPLIT/, shards/)
    finish     verify, report, manifest; the work directory is removed

Everything but the shards and the tokenizer lies in OUTPUT/.work until the manifest is written.
"""

import errno
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from data_prep.config import PrepConfig, prefix_policy
from data_prep.dedup import dropped_between, find_duplicates
from data_prep.manifest import TOKENIZER_DIRECTORY, FileInfo, Manifest, SourceInfo, SplitInfo, TokenizerInfo
from data_prep.pack_stage import PackedShard, PackTask, pack_window, read_marker
from data_prep.plan import Plan, continue_or_begin, finished_corpus, make_plan, refuse_changes, work_directory
from data_prep.report import write_report
from data_prep.shards import size_problem, token_dtype
from data_prep.slices import SliceRecord, is_whole, read_record
from data_prep.tokenize_stage import HashTask, TokenizeTask, first_stage
from data_prep.tokenizers import load_tokenizer, save_tokenizer
from data_prep.verify import verify_files
from data_prep.windows import SPLITS, SliceOfCorpus, plan_windows
from data_prep.workers import Workers
from foreword.console import progress, say
from foreword.errors import DataError, ForewordError, MachineError, StoppedOnRequest
from foreword.files import fsync_directory

_MACHINE_ERRORS = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of the quota",
    errno.EROFS: "choose an output that can be written",
    errno.EACCES: "choose an output that can be written",
}


@dataclass(frozen=True)
class _Tokenized:
    """What the first stage left: the slices, and per input file its hash."""

    slices: list[SliceOfCorpus]
    records: list[SliceRecord]
    hashes: dict[int, str]


def prepare(config: PrepConfig) -> Manifest:
    """Prepare a corpus, or continue one, or find that it is there already.

    Raises:
        ConfigError: the configuration cannot be used, or the output belongs to another one.
        DataError: input that is refused.
        MachineError: the disk is full or cannot be written, or a worker was killed.
        StoppedOnRequest: SIGINT or SIGTERM; the same command continues.
    """
    output = Path(config.output)
    try:
        with _stop_on_signals():
            finished = finished_corpus(output)
            if finished is not None:
                refuse_changes({"config": finished.config}, {"config": config.result_config()}, output)
                say(f"{output} is finished already, nothing to do")
                return finished
            with work_directory(output) as work:
                manifest = _prepare(config, output, work)
                shutil.rmtree(work)
            return manifest
    except OSError as error:
        if isinstance(error, ForewordError) or error.errno not in _MACHINE_ERRORS:
            raise
        raise MachineError(
            (error.strerror or str(error)).lower(),
            where=error.filename or output,
            remedy=f"{_MACHINE_ERRORS[error.errno]} and run the same command again, it continues",
        ) from None


def _prepare(config: PrepConfig, output: Path, work: Path) -> Manifest:
    started = time.monotonic()
    seconds: dict[str, float] = {}
    tokenizer = load_tokenizer(config.tokenizer.path, config.tokenizer.eod, config.tokenizer.pad)
    info = save_tokenizer(tokenizer, output / TOKENIZER_DIRECTORY)
    plan, continued = continue_or_begin(work, make_plan(config, info))
    for name in ("slices", "files", "dedup", "shards"):
        (work / name).mkdir(exist_ok=True)
    with Workers(min(config.workers, len(plan.slices))) as workers:  # a small input is not worth starting processes for
        with _timed(seconds, "tokenize"):
            tokenized = _tokenize(config, plan, output, work, workers, continued)
        if not sum(piece.count for piece in tokenized.slices):
            dropped = sum((record.dropped for record in tokenized.records), Counter())
            what = f"all were left out: {dict(dropped)}" if dropped else "the input is empty"
            raise DataError(f"no documents, {what}", where=output, remedy="check the sources and the text limits")
        with _timed(seconds, "deduplicate"):
            duplicates = _deduplicate(config, tokenized.slices, work, workers)
        with _timed(seconds, "pack"):
            shards = _pack(config, info, tokenized, duplicates, output, work, workers)
        manifest = _manifest(config, plan, info, tokenized, duplicates, shards)
        with _timed(seconds, "verify"):
            problems = verify_files(output, manifest, workers)
        if problems:
            raise DataError("what was written is not what is on the disk:\n" + "\n".join(problems), where=output)
    seconds["total"] = time.monotonic() - started
    write_report(output, manifest, shards, seconds)
    fsync_directory(output)
    manifest.save(output)
    return manifest


def _tokenize(
    config: PrepConfig, plan: Plan, output: Path, work: Path, workers: Workers, continued: bool
) -> _Tokenized:
    """Stage 1 for every slice that is not there yet."""
    directory = work / "slices"
    tasks: list[TokenizeTask | HashTask] = []
    hashes: dict[int, str] = {}
    hashed_files = set()
    remaining_bytes = 0
    for number, piece in enumerate(plan.slices):
        file = plan.files[piece.file]
        if piece.file not in hashed_files:
            hashed_files.add(piece.file)
            marker = work / "files" / f"{piece.file:06d}"
            if continued and marker.is_file():
                hashes[piece.file] = marker.read_text()
            else:
                tasks.append(HashTask(config.sources[file.source].kind, file.path, piece.file, marker))
        # after a crash of the machine a slice may be torn, the checksum tells
        if continued and is_whole(directory, plan.slice_name(number)):
            continue
        remaining_bytes += piece.size_bytes
        tasks.append(
            TokenizeTask(
                config=config,
                source=file.source,
                path=file.path,
                begin=piece.begin,
                end=piece.end,
                size_bytes=piece.size_bytes,
                tokenizer=output / TOKENIZER_DIRECTORY,
                directory=directory,
                name=plan.slice_name(number),
            )
        )
    with progress("tokenize", remaining_bytes / 1e6, "MB") as shown:
        for task, result in workers.run(first_stage, tasks, shown, scale=1e6):
            if isinstance(task, HashTask):
                hashes[task.file] = str(result)
    slices, records, first = [], [], 0
    for number, piece in enumerate(plan.slices):
        record = read_record(directory, plan.slice_name(number))
        if record is None:
            raise DataError("a tokenized slice is gone", where=directory / plan.slice_name(number))
        source = plan.files[piece.file].source
        slices.append(SliceOfCorpus(plan.slice_name(number), source, first, record.documents))
        records.append(record)
        first += record.documents
    return _Tokenized(slices, records, hashes)


def _deduplicate(config: PrepConfig, slices: list[SliceOfCorpus], work: Path, workers: Workers) -> tuple[Path, ...]:
    """Stage 2; always done anew, it takes seconds where the others take hours."""
    if not config.deduplicate:
        return ()
    names, counts = [piece.name for piece in slices], [piece.count for piece in slices]
    return tuple(find_duplicates(workers, work / "slices", names, counts, work / "dedup"))


def _pack(
    config: PrepConfig,
    tokenizer: TokenizerInfo,
    tokenized: _Tokenized,
    duplicates: tuple[Path, ...],
    output: Path,
    work: Path,
    workers: Workers,
) -> list[PackedShard]:
    """Stage 3 for every window whose shard is not there yet; the shards in split and number order."""
    for split in SPLITS:
        (output / split).mkdir(exist_ok=True)
    finished: list[PackedShard] = []

    def missing() -> Iterator[PackTask]:
        for window in plan_windows(config, work / "slices", tokenized.slices, duplicates):
            marker = work / "shards" / f"{window.split}-{window.name}.json"
            shard = read_marker(marker)
            if shard is not None and not any(size_problem(output / name, f) for name, f in shard.info.files.items()):
                finished.append(shard)
                continue
            yield PackTask(
                config=config,
                window=window,
                slices=work / "slices",
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


def _manifest(
    config: PrepConfig,
    plan: Plan,
    tokenizer: TokenizerInfo,
    tokenized: _Tokenized,
    duplicates: tuple[Path, ...],
    shards: list[PackedShard],
) -> Manifest:
    splits = {}
    for split in SPLITS:
        mine = [shard for shard in shards if shard.split == split]
        if mine:
            sums = {
                key: sum(getattr(shard.info, key) for shard in mine)
                for key in ("rows", "segments", "tokens", "targets", "padding")
            }
            splits[split] = SplitInfo(
                documents=sum(shard.documents for shard in mine),
                cut_documents=sum(shard.cut_documents for shard in mine),
                shards=[shard.info for shard in mine],
                **sums,
            )
    return Manifest(
        tokenizer=tokenizer,
        sequence_length=config.sequence_length,
        dtype="uint16" if token_dtype(tokenizer.vocab_size).itemsize == 2 else "uint32",
        packing=config.packing.model_dump(),
        seed=config.seed,
        splits=splits,
        sources=[
            _source_info(config, plan, number, tokenized, duplicates, shards) for number in range(len(config.sources))
        ],
        config=plan.config,
    )


def _source_info(
    config: PrepConfig,
    plan: Plan,
    number: int,
    tokenized: _Tokenized,
    duplicates: tuple[Path, ...],
    shards: list[PackedShard],
) -> SourceInfo:
    source = config.sources[number]
    dropped: Counter[str] = Counter()
    records = 0
    for piece, record in zip(tokenized.slices, tokenized.records, strict=True):
        if piece.source == number:
            records += record.records
            dropped += record.dropped
            dropped["duplicate"] += len(dropped_between(duplicates, piece.first, piece.first + piece.count))
    counts = [shard.sources[number] for shard in shards if number in shard.sources]
    return SourceInfo(
        name=str(source.name),
        kind=source.kind,
        weight=source.weight,
        prefix=prefix_policy(source).model_dump(),
        files={
            file.path: FileInfo(size=file.size_bytes, sha256=tokenized.hashes[index])
            for index, file in enumerate(plan.files)
            if file.source == number
        },
        records=records,
        documents=sum(count.documents for count in counts),
        tokens=sum(count.tokens for count in counts),
        text_bytes=sum(count.text_bytes for count in counts),
        dropped={reason: count for reason, count in sorted(dropped.items()) if count},
    )


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - began


@contextmanager
def _stop_on_signals() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into `StoppedOnRequest`, once; a second one has its usual effect."""

    def stop(number: int, _: FrameType | None) -> None:
        for name, handler in before.items():
            signal.signal(name, handler)
        raise StoppedOnRequest(
            f"stopped on {signal.Signals(number).name}",
            remedy="run the same command again, it continues with what is not done yet",
        )

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
