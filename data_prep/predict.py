"""`foreword prep --dry-run`: what a preparation would give and cost, from a sample of its input.

What comes in: a configuration. What goes out: a `Prediction`. Promise: nothing of the output is made or changed; the
sample goes through the real stages, in a temporary directory that is gone afterwards.

Counts are scaled by the bytes of the stored files, source by source. Copies of documents are found inside the sample
alone, so a corpus with many copies ends up smaller than predicted.
"""

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.table import Column, Table

from data_prep.config import PrepConfig
from data_prep.dedup import Duplicates, find_duplicates
from data_prep.pack_stage import PackedShard, PackTask, pack_window
from data_prep.plan import Plan, make_plan
from data_prep.slices import SliceRecord
from data_prep.tokenize_stage import TokenizeTask, tokenize_slice
from data_prep.tokenizers import load_tokenizer, save_tokenizer
from data_prep.windows import SPLITS, SliceOfCorpus, plan_windows
from data_prep.work import Work
from data_prep.workers import Workers
from foreword.errors import DataError

SAMPLE_BYTES = 2**25
PLACE_BYTES = 2**21
"""Read at each place of the sample, at least; places are spread over the slices."""
MOST_SECONDS = 10.0


@dataclass(frozen=True)
class SourcePrediction:
    """What one source will give.

    Attributes:
        files, size_bytes: as they are stored.
        documents, tokens: about, over all splits.
        dropped: reason -> share of the records in the sample that were left out.
    """

    name: str
    kind: str
    files: int
    size_bytes: int
    documents: int
    tokens: int
    dropped: dict[str, float]


@dataclass(frozen=True)
class Prediction:
    """What a preparation will give and cost, about.

    Attributes:
        sampled_bytes: of the input that were read for it.
        shards: split -> how many.
        padding: share of the columns.
        seconds: with the configured number of workers on this machine.
        corpus_bytes: on disk in the end.
        work_bytes: on disk beside it while the work goes on.
        free_bytes: of the file system where the output will be.
    """

    sources: list[SourcePrediction]
    sampled_bytes: int
    shards: dict[str, int]
    padding: float
    seconds: float
    corpus_bytes: int
    work_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class _Sample:
    """Slices of which the beginnings were tokenized: their numbers in the plan and what came out of each."""

    numbers: list[int]
    records: list[SliceRecord]


def predict(config: PrepConfig) -> Prediction:
    """Prepare a sample and scale it up.

    Raises:
        ConfigError: the configuration cannot be used.
        DataError: no documents in the sample.
    """
    tokenizer = load_tokenizer(config.tokenizer.path, config.tokenizer.eod, config.tokenizer.pad)
    plan = make_plan(config, tokenizer)
    sampled = config.model_copy(update={"on_bad_record": "count", "workers": 1})
    with tempfile.TemporaryDirectory(prefix="foreword-dry-run-") as name:
        corpus = Path(name)
        work = Work.create(corpus / "work", "sample")
        info = save_tokenizer(tokenizer, corpus / "tokenizer")
        sample = _tokenize(sampled, plan, corpus / "tokenizer", work)
        slices = _slices_of(plan, sample)
        if not sum(piece.count for piece in slices):
            raise DataError("no documents in the sample", where=config.output, remedy="check sources and text limits")
        began = time.monotonic()
        duplicates = Duplicates([])
        if config.deduplicate:
            names, counts = [piece.name for piece in slices], [piece.count for piece in slices]
            with Workers(1) as workers:
                duplicates = find_duplicates(workers, work.slices, names, counts, work.dedup)
        for split in SPLITS:
            (corpus / split).mkdir()
        shards = [
            pack_window(
                PackTask(
                    config=sampled,
                    window=window,
                    slices=work.slices,
                    duplicates=duplicates,
                    vocab_size=info.vocab_size,
                    pad_id=info.pad_id,
                    corpus=corpus,
                    marker=work.shards / f"{window.split}-{window.name}.json",
                )
            )
            for window in plan_windows(sampled, work.slices, slices, duplicates)
        ]
        return _scale_up(config, plan, sample, shards, time.monotonic() - began)


def _tokenize(config: PrepConfig, plan: Plan, tokenizer: Path, work: Work) -> _Sample:
    """The beginnings of slices spread over each source, in proportion to its size."""
    by_source: dict[int, list[int]] = {}
    for number, piece in enumerate(plan.slices):
        by_source.setdefault(plan.files[piece.file].source, []).append(number)
    total_bytes = sum(piece.size_bytes for piece in plan.slices)
    found: dict[int, SliceRecord] = {}
    for source, numbers in by_source.items():
        share = sum(plan.slices[number].size_bytes for number in numbers) / max(total_bytes, 1)
        budget_bytes, budget_s = max(SAMPLE_BYTES * share, PLACE_BYTES), MOST_SECONDS * share
        # few slices are few places, so more is read at each
        place_bytes = max(PLACE_BYTES, ceil(budget_bytes / len(numbers)))
        read_bytes, began = 0, time.monotonic()
        for number in _spread(numbers):
            piece = plan.slices[number]
            found[number] = tokenize_slice(
                TokenizeTask(
                    config=config,
                    source=source,
                    path=plan.files[piece.file].path,
                    begin=piece.begin,
                    end=piece.end,
                    size_bytes=piece.size_bytes,
                    tokenizer=tokenizer,
                    directory=work.slices,
                    name=plan.slice_name(number),
                    scratch=work.scratch,
                    limit_bytes=place_bytes,
                )
            )
            read_bytes += found[number].input_bytes
            if read_bytes >= budget_bytes or (read_bytes and time.monotonic() - began > budget_s):
                break
    numbers = sorted(found)
    return _Sample(numbers, [found[number] for number in numbers])


def _slices_of(plan: Plan, sample: _Sample) -> list[SliceOfCorpus]:
    slices, first = [], 0
    for number, record in zip(sample.numbers, sample.records, strict=True):
        source = plan.files[plan.slices[number].file].source
        slices.append(SliceOfCorpus(plan.slice_name(number), source, first, record.documents))
        first += record.documents
    return slices


def _scale_up(
    config: PrepConfig, plan: Plan, sample: _Sample, shards: Sequence[PackedShard], pack_seconds: float
) -> Prediction:
    sources = []
    tokenize_seconds = longest_seconds = slice_bytes = 0.0
    for number, source in enumerate(config.sources):
        files = [file for file in plan.files if file.source == number]
        size_bytes = sum(file.size_bytes for file in files)
        records = [
            record
            for at, record in zip(sample.numbers, sample.records, strict=True)
            if plan.files[plan.slices[at].file].source == number
        ]
        times = size_bytes / max(sum(record.input_bytes for record in records), 1)
        counts = [shard.sources[number] for shard in shards if number in shard.sources]
        dropped: Counter[str] = sum((record.dropped for record in records), Counter())
        read = max(sum(record.records for record in records), 1)
        sources.append(
            SourcePrediction(
                name=str(source.name),
                kind=source.kind,
                files=len(files),
                size_bytes=size_bytes,
                documents=round(times * sum(count.documents for count in counts)),
                tokens=round(times * sum(count.tokens for count in counts)),
                dropped={reason: count / read for reason, count in sorted(dropped.items()) if count},
            )
        )
        seconds = times * sum(record.seconds for record in records)
        tokenize_seconds += seconds
        sizes = [piece.size_bytes for piece in plan.slices if plan.files[piece.file].source == number]
        largest_bytes = max(sizes, default=0)
        longest_seconds = max(longest_seconds, seconds * largest_bytes / max(size_bytes, 1))
        slice_bytes += times * sum(sum(record.sizes.values()) for record in records)
    tokens = sum(source.tokens for source in sources)
    sampled_tokens = sum(count.tokens for shard in shards for count in shard.sources.values())
    times = tokens / max(sampled_tokens, 1)
    shares = {"train": 1 - config.splits.valid - config.splits.test, **config.splits.model_dump()}
    padding = sum(shard.info.padding for shard in shards)
    return Prediction(
        sources=sources,
        sampled_bytes=sum(record.input_bytes for record in sample.records),
        shards={split: ceil(tokens * shares[split] / config.shard_tokens) for split in SPLITS if shares[split]},
        padding=padding / max(padding + sum(shard.info.tokens for shard in shards), 1),
        seconds=max(tokenize_seconds / config.workers, longest_seconds) + times * pack_seconds / config.workers,
        corpus_bytes=round(times * sum(file.size for shard in shards for file in shard.info.files.values())),
        work_bytes=round(slice_bytes),
        free_bytes=shutil.disk_usage(_existing(Path(config.output).absolute())).free,
    )


def _spread(numbers: Sequence[int]) -> Iterator[int]:
    """The same numbers in an order of which every beginning is spread over the whole (van der Corput's, base 2)."""
    bits = max(len(numbers) - 1, 0).bit_length()
    for index in range(2**bits):
        at = int(f"{index:0{bits}b}"[::-1], 2) if bits else 0
        if at < len(numbers):
            yield numbers[at]


def _existing(path: Path) -> Path:
    """The path, or the nearest directory above it that is there."""
    return next(parent for parent in (path, *path.parents) if parent.is_dir())


def show_prediction(prediction: Prediction, config: PrepConfig, console: Console) -> None:
    """Print a prediction as a table and a few lines."""
    right = [Column(name, justify="right") for name in ("files", "size", "documents", "tokens")]
    table = Table("source", "kind", *right, "left out, of the records")
    for source in prediction.sources:
        dropped = ", ".join(f"{reason} {share:.1%}" for reason, share in source.dropped.items()) or "nothing"
        counts = (f"{source.files:,}", decimal(source.size_bytes), f"{source.documents:,}", f"{source.tokens:,}")
        table.add_row(source.name, source.kind, *counts, dropped)
    console.print(table)
    size_bytes = sum(source.size_bytes for source in prediction.sources)
    work_bytes = prediction.corpus_bytes + prediction.work_bytes
    minutes, seconds = divmod(round(prediction.seconds), 60)
    hours, minutes = divmod(minutes, 60)
    workers = f"{config.workers} worker{'s' if config.workers > 1 else ''}"
    lines = {
        "documents": f"about {sum(source.documents for source in prediction.sources):,}",
        "tokens": f"about {sum(source.tokens for source in prediction.sources):,}, padding {prediction.padding:.2%}",
        "shards": "about " + ", ".join(f"{count:,} {split}" for split, count in prediction.shards.items()),
        "time": f"about {hours}:{minutes:02}:{seconds:02} with {workers} on a machine like this one",
        "disk": f"about {decimal(prediction.corpus_bytes)}, while it runs {decimal(work_bytes)}; "
        f"{decimal(prediction.free_bytes)} are free there",
        "sample": f"{decimal(prediction.sampled_bytes)} of {decimal(size_bytes)} were read",
    }
    for name, value in lines.items():
        console.print(f"{name + ':':<11}{value}", highlight=False)
    console.print("Copies of documents were looked for inside the sample alone, so there may be less of everything.")
    if work_bytes > prediction.free_bytes:
        console.print("There is not enough space for this.", style="bold red")
