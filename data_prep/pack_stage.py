"""Stage 3: one window of documents -> one shard on disk.

A task is one window; tasks know nothing of each other. Memory is a small multiple of the shard.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import BaseModel

from data_prep.arrays import mask_to_arrow
from data_prep.config import PrepConfig, prefix_policy
from data_prep.dedup import Duplicates
from data_prep.documents import KEPT
from data_prep.gather import copy_runs, gather
from data_prep.manifest import ShardInfo
from data_prep.pack import Packed, pack
from data_prep.prefix import prefix_lengths
from data_prep.shards import PADDING, token_dtype, write_shard
from data_prep.slices import map_documents, map_kept, map_tokens
from data_prep.windows import SPLITS, Stretch, Window, members
from data_prep.workers import report_progress
from foreword.files import atomic_write

LENGTH_BINS = 32
"""Bin b of a length histogram counts documents of [2**b, 2**(b + 1)) tokens."""
PREFIX_BINS = 20
"""Bin b of a prefix histogram counts segments whose prefix is [b, b + 1) twentieths of them."""


class SourceCounts(BaseModel):
    """What one source gave to a shard."""

    documents: int = 0
    tokens: int = 0
    text_bytes: int = 0


class PackedShard(BaseModel):
    """A finished shard and what reports say about it.

    Attributes:
        info: for the manifest.
        documents, cut_documents: documents in it, and how many of them are in more than one piece.
        sources: number of the source -> what it gave.
        document_lengths: [LENGTH_BINS].
        prefix_shares: [PREFIX_BINS].
        seconds: how long one process worked on it.
    """

    split: str
    info: ShardInfo
    documents: int
    cut_documents: int
    sources: dict[int, SourceCounts]
    document_lengths: list[int]
    prefix_shares: list[int]
    seconds: float


@dataclass(frozen=True)
class PackTask:
    """One window to pack.

    Attributes:
        config: the preparation.
        window: which documents.
        slices: where the tokenized slices lie.
        duplicates: what to leave out.
        vocab_size, pad_id: of the tokenizer.
        corpus: where the shard goes.
        marker: written last; a shard with a marker is finished.
    """

    config: PrepConfig
    window: Window
    slices: Path
    duplicates: Duplicates
    vocab_size: int
    pad_id: int
    corpus: Path
    marker: Path


@dataclass(frozen=True)
class _Gathered:
    """The documents of a window: `DOCUMENT` records, their source and copy numbers [documents], and their flat ids,
    with a row of padding behind them.

    `kept` is what sources keep of them, [documents] in the schema `KEPT`; None when no table of documents is written.
    """

    documents: np.ndarray
    source: np.ndarray
    copy: np.ndarray
    tokens: np.ndarray
    kept: pa.Table | None


def pack_window(task: PackTask) -> PackedShard:
    """Pack one window and write its shard."""
    began = time.monotonic()
    config, row_length = task.config, task.config.sequence_length + 1
    gathered = _gather_documents(task)
    documents = gathered.documents
    lengths = documents["length"].astype(np.int64)
    packed = pack(config.packing.policy, lengths, row_length)
    prefixes = _prefixes(config, gathered, packed)
    tokens, row_ptr, segments = lay_out(gathered.tokens, lengths, packed, prefixes, row_length)
    info = write_shard(task.corpus, task.window.split, task.window.name, tokens, row_ptr, segments)
    if config.documents_are_written:
        info = _with_documents(task, info, gathered, packed)
    result = PackedShard(
        split=task.window.split,
        info=info,
        documents=len(documents),
        cut_documents=len(np.unique(packed.document[packed.number > 0])),
        sources=_source_counts(gathered),
        document_lengths=np.bincount(np.log2(lengths).astype(int), minlength=LENGTH_BINS).tolist(),
        prefix_shares=np.bincount(prefixes * PREFIX_BINS // packed.length, minlength=PREFIX_BINS).tolist(),
        seconds=time.monotonic() - began,
    )
    with atomic_write(task.marker, "w") as file:
        file.write(result.model_dump_json())
    report_progress(info.tokens)
    return result


def read_marker(marker: Path) -> PackedShard | None:
    """The shard that a marker stands for, or None."""
    try:
        return PackedShard.model_validate(json.loads(marker.read_bytes()))
    except (FileNotFoundError, ValueError):
        return None


def lay_out(
    tokens: np.ndarray,
    lengths: np.ndarray,
    packed: Packed,
    prefixes: np.ndarray,
    row_length: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pieces -> the three arrays of a shard.

    Args:
        tokens: the ids of all documents, one after the other, and then `row_length` padding ids.
        lengths: int64 [documents].
        packed: where the pieces stand.
        prefixes: int64 [pieces].

    Returns:
        tokens [rows, row_length], row_ptr int64 [rows + 1], segments int32 [segments, 2].
    """
    document_start = np.cumsum(lengths) - lengths
    pieces = np.bincount(packed.row)
    room = row_length - np.bincount(packed.row, weights=packed.length).astype(np.int64)
    padded = np.flatnonzero(room)
    row_ends = np.cumsum(pieces)[padded]
    # a row's room that is left over is one more run, taken out of the padding behind the ids
    starts = np.insert(document_start[packed.document] + packed.start, row_ends, len(tokens) - row_length)
    sizes = np.insert(packed.length, row_ends, room[padded])
    row_ptr = np.concatenate([[0], np.cumsum(pieces + (room > 0))])
    segments = np.empty((len(sizes), 2), dtype=np.int32)
    segments[:, 0] = (np.cumsum(sizes) - sizes) % row_length
    segments[:, 1] = np.insert(prefixes, row_ends, PADDING)
    return gather(tokens, starts, sizes).reshape(-1, row_length), row_ptr, segments


def _gather_documents(task: PackTask) -> _Gathered:
    split = SPLITS.index(task.window.split)
    dtype = token_dtype(task.vocab_size)
    documents, sources, copies, kept = [], [], [], []
    for stretch in task.window.stretches:
        found = map_documents(task.slices, stretch.slice.name, stretch.begin, stretch.end)
        chosen = members(found, stretch, split, task.duplicates, task.config)
        documents.append(found[chosen])
        sources.append(np.full(len(documents[-1]), stretch.slice.source))
        copies.append(np.full(len(documents[-1]), stretch.copy))
        if task.config.documents_are_written:
            kept.append(_kept_of(task.slices, stretch, chosen))
    ends = np.cumsum([found["length"].sum(dtype=np.int64) for found in documents])
    tokens = np.empty(ends[-1] + task.config.sequence_length + 1, dtype)
    tokens[ends[-1] :] = task.pad_id
    for stretch, found, end in zip(task.window.stretches, documents, ends, strict=True):
        ids = map_tokens(task.slices, stretch.slice.name, dtype)
        begin = end - found["length"].sum(dtype=np.int64)
        copy_runs(ids, found["start"].astype(np.int64), found["length"].astype(np.int64), tokens[begin:end])
    return _Gathered(
        np.concatenate(documents),
        np.concatenate(sources),
        np.concatenate(copies),
        tokens,
        pa.concat_tables(kept).combine_chunks() if kept else None,
    )


def _kept_of(slices: Path, stretch: Stretch, chosen: np.ndarray) -> pa.Table:
    """What the source keeps of the documents of a stretch where `chosen` is true; nulls when it keeps nothing."""
    kept = map_kept(slices, stretch.slice.name)
    if kept is None:
        nulls = pa.nulls(int(chosen.sum()), pa.large_string())
        return pa.table([nulls, nulls], schema=KEPT)
    return kept.slice(stretch.begin, stretch.end - stretch.begin).filter(mask_to_arrow(chosen))


def _with_documents(task: PackTask, info: ShardInfo, gathered: _Gathered, packed: Packed) -> ShardInfo:
    """Write the shard's table of documents too."""
    from data_prep.documents_table import table_name, write_documents  # brings what reads and writes Parquet

    assert gathered.kept is not None
    name = table_name(task.window.split, task.window.name)
    file = write_documents(
        task.corpus / name,
        packed,
        gathered.source,
        [str(source.name) for source in task.config.sources],
        np.stack([gathered.documents["hash_hi"], gathered.documents["hash_lo"]], axis=1),
        gathered.kept,
    )
    return info.model_copy(update={"files": {**info.files, name: file}})


def _prefixes(config: PrepConfig, gathered: _Gathered, packed: Packed) -> np.ndarray:
    prefixes = np.zeros(len(packed.document), dtype=np.int64)
    source_of_piece = gathered.source[packed.document]
    for source in np.unique(gathered.source):
        mine = np.flatnonzero(source_of_piece == source)
        document = packed.document[mine]
        records = gathered.documents[document]
        prefixes[mine] = prefix_lengths(
            prefix_policy(config.sources[source]),
            config.seed,
            (records["hash_hi"], records["hash_lo"]),
            gathered.copy[document],
            packed.number[mine],
            packed.length[mine],
            records["boundary"].astype(np.int64),
        )
    return prefixes


def _source_counts(gathered: _Gathered) -> dict[int, SourceCounts]:
    counts = {}
    for source in np.unique(gathered.source):
        records = gathered.documents[gathered.source == source]
        counts[int(source)] = SourceCounts(
            documents=len(records),
            tokens=int(records["length"].sum(dtype=np.int64)),
            text_bytes=int(records["text_bytes"].sum(dtype=np.int64)),
        )
    return counts
