"""`report.html`: one self-contained page about what went in, what was left out and what came out.

It is for people and not part of the corpus: it holds the time the work took, so it is not listed in the manifest.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from rich.filesize import decimal

from data_prep.manifest import Manifest, SourceInfo
from data_prep.pack_stage import PREFIX_BINS, PackedShard
from data_prep.slices import SliceRecord
from foreword.pages import Bar, bars, write_page

REPORT_NAME = "report.html"


def write_report(
    output: Path,
    manifest: Manifest,
    slices: Sequence[SliceRecord],
    shards: Sequence[PackedShard],
    seconds: Mapping[str, float],
) -> None:
    """Write `output/report.html`.

    Args:
        seconds: stage -> seconds that it took in this run, with "total".
    """
    write_page(
        output / REPORT_NAME,
        "data_prep",
        "report.html.j2",
        name=output.resolve().name,
        manifest=manifest,
        decimal=decimal,
        facts=_facts(manifest),
        dropped=[(source, _dropped(source), _notes(source)) for source in manifest.sources],
        lengths=_lengths(shards),
        prefixes=_prefixes(shards),
        times=bars([(stage, took, f"{took:,.1f} s") for stage, took in seconds.items() if stage != "total"]),
        throughput=_throughput(manifest, slices, shards, seconds["total"]),
        config=yaml.safe_dump(manifest.config, sort_keys=False, allow_unicode=True),
    )


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    splits = manifest.splits.values()
    tokens, padding = sum(split.tokens for split in splits), sum(split.padding for split in splits)
    records = sum(source.records for source in manifest.sources)
    dropped = sum(sum(source.dropped.values()) for source in manifest.sources)
    return [
        ("tokens", f"{tokens:,}"),
        ("of them targets", f"{sum(split.targets for split in splits) / tokens:.1%}"),
        ("documents", f"{sum(split.documents for split in splits):,}"),
        ("left out, of the records", f"{dropped / max(records, 1):.2%}"),
        ("rows", f"{sum(split.rows for split in splits):,}"),
        ("padding", f"{padding / (tokens + padding):.3%}"),
        ("shards", f"{sum(len(split.shards) for split in splits):,}"),
        ("of input", decimal(_input_bytes(manifest))),
    ]


def _dropped(source: SourceInfo) -> list[Bar]:
    """The reasons, the most frequent first."""
    rows = sorted(source.dropped.items(), key=lambda item: -item[1])
    return bars([(reason, count, f"{count:,} = {count / max(source.records, 1):.2%}") for reason, count in rows])


def _notes(source: SourceInfo) -> list[str]:
    notes = []
    if source.removed:
        removed = sorted(source.removed.items(), key=lambda item: -item[1])
        notes.append("Taken out inside documents: " + ", ".join(f"{count:,} {reason}" for reason, count in removed))
    if source.prefixes_cut:
        notes.append(f"{source.prefixes_cut:,} prefixes cut from the left to fit a row")
    return notes


def _lengths(shards: Sequence[PackedShard]) -> list[Bar]:
    counts = [sum(column) for column in zip(*(shard.document_lengths for shard in shards), strict=True)]
    used = [b for b, count in enumerate(counts) if count]
    bins = range(used[0], used[-1] + 1)
    return bars([(f"{2**b:,} to {2 ** (b + 1) - 1:,}", counts[b], f"{counts[b]:,}") for b in bins])


def _prefixes(shards: Sequence[PackedShard]) -> list[Bar]:
    counts = [sum(column) for column in zip(*(shard.prefix_shares for shard in shards), strict=True)]
    step = 100 // PREFIX_BINS
    return bars([(f"{b * step} to {(b + 1) * step} %", count, f"{count:,}") for b, count in enumerate(counts)])


def _throughput(
    manifest: Manifest, slices: Sequence[SliceRecord], shards: Sequence[PackedShard], total_s: float
) -> list[str]:
    """Rates; those of the first two lines count the work of all runs and tasks, the last one's this run alone."""
    megabytes = sum(record.input_bytes for record in slices) / 1e6
    tokenize_s = max(sum(record.seconds for record in slices), 1e-9)
    pack_s = max(sum(shard.seconds for shard in shards), 1e-9)
    tokens = sum(split.tokens for split in manifest.splits.values())
    return [
        f"Reading and tokenizing: {tokenize_s:,.1f} s of process time, {megabytes / tokenize_s:,.1f} MB/s a process.",
        f"Packing: {pack_s:,.1f} s of process time, {tokens / 1e6 / pack_s:,.1f} M tokens/s a process.",
        f"The run that finished the corpus took {total_s:,.1f} s; what earlier runs and tasks had done is not in it.",
    ]


def _input_bytes(manifest: Manifest) -> int:
    return sum(file.size for source in manifest.sources for file in source.files.values())
