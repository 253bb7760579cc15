"""Stage 2: exact duplicates over the whole corpus, in bounded memory.

What comes in: the content hashes of all slices. What goes out: sorted global indices of the documents to leave out.
Promise: of equal documents the first in canonical order stays, whatever the number of workers or buckets.

Two passes, an external sort: runs of at most `RUN_DOCUMENTS` documents are sorted by hash; then each bucket, a range
of hashes, is read out of every run and searched. 24 bytes per document lie on disk, and a worker holds about 64 bytes
for each document of one run or one bucket: half a gigabyte, whatever the size of the corpus.

Hashes have 128 bits: among 10^12 different documents the chance that any two collide is below 10^-14.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from data_prep.slices import map_documents
from data_prep.workers import Workers

RUN_DOCUMENTS = 2**23
_HASHED = np.dtype([("hash_hi", "<u8"), ("hash_lo", "<u8"), ("index", "<u8")])


@dataclass(frozen=True)
class _Run:
    """Consecutive slices that are sorted together; `first` is the global index of their first document."""

    slices: Path
    names: tuple[str, ...]
    first: int
    output: Path


@dataclass(frozen=True)
class _Bucket:
    """The documents whose upper hash half lies in [low, high]."""

    runs: tuple[Path, ...]
    low: int
    high: int
    output: Path


def find_duplicates(
    workers: Workers, slices: Path, names: Sequence[str], counts: Sequence[int], directory: Path
) -> list[Path]:
    """Find exact duplicates.

    Args:
        slices: where the tokenized slices lie.
        names, counts: the slices and their numbers of documents, in canonical order; the global index of a document
            counts through them.
        directory: where the results and temporary files go.

    Returns:
        One .npy file per bucket, each a sorted uint64 array of global indices to leave out.
    """
    groups: list[_Run] = []
    first = index = 0
    pending: list[str] = []
    for name, count in zip(names, counts, strict=True):
        if pending and index + count - first > RUN_DOCUMENTS:
            groups.append(_Run(slices, tuple(pending), first, directory / f"run-{len(groups):05d}.npy"))
            pending, first = [], index
        pending.append(name)
        index += count
    groups.append(_Run(slices, tuple(pending), first, directory / f"run-{len(groups):05d}.npy"))
    for _ in workers.run(_sort_run, groups):
        pass
    runs = tuple(group.output for group in groups)
    edges = [(2**64 * number) // len(groups) for number in range(len(groups) + 1)]
    buckets = [
        _Bucket(runs, low, high - 1, directory / f"duplicates-{number:05d}.npy")
        for number, (low, high) in enumerate(pairwise(edges))
    ]
    for _ in workers.run(_search_bucket, buckets):
        pass
    for run in runs:
        run.unlink()
    return [bucket.output for bucket in buckets]


def dropped_between(duplicates: Sequence[Path], begin: int, end: int) -> np.ndarray:
    """uint64: the global indices to leave out in [begin, end), from the files of `find_duplicates`."""
    found = []
    for path in duplicates:
        indices = np.load(path, mmap_mode="r")
        low, high = np.searchsorted(indices, np.array([begin, end], dtype=np.uint64))
        found.append(np.asarray(indices[low:high]))
    return np.concatenate([np.empty(0, np.uint64), *found])


def _sort_run(run: _Run) -> None:
    parts = [map_documents(run.slices, name) for name in run.names]
    hashed = np.empty(sum(map(len, parts)), dtype=_HASHED)
    at = 0
    for part in parts:
        hashed["hash_hi"][at : at + len(part)] = part["hash_hi"]
        hashed["hash_lo"][at : at + len(part)] = part["hash_lo"]
        at += len(part)
    hashed["index"] = np.arange(run.first, run.first + len(hashed), dtype=np.uint64)
    np.save(run.output, hashed[np.argsort(hashed["hash_hi"], kind="stable")])


def _search_bucket(bucket: _Bucket) -> None:
    parts = []
    for path in bucket.runs:
        run = np.load(path, mmap_mode="r")
        low = np.searchsorted(run["hash_hi"], np.uint64(bucket.low), side="left")
        high = np.searchsorted(run["hash_hi"], np.uint64(bucket.high), side="right")
        parts.append(np.asarray(run[low:high]))
    hashed = np.concatenate(parts)
    hashed = hashed[np.argsort(hashed["hash_hi"], kind="stable")]
    equal = hashed["hash_hi"][1:] == hashed["hash_hi"][:-1]
    candidates = hashed[np.append(equal, False) | np.append(False, equal)] if len(hashed) else hashed
    order = np.lexsort((candidates["index"], candidates["hash_lo"], candidates["hash_hi"]))
    candidates = candidates[order]
    repeated = (candidates["hash_hi"][1:] == candidates["hash_hi"][:-1]) & (
        candidates["hash_lo"][1:] == candidates["hash_lo"][:-1]
    )
    np.save(bucket.output, np.sort(candidates["index"][1:][repeated]))
