"""Stage 2: exact duplicates over the whole corpus, in bounded memory.

What comes in: the content hashes of all slices. What goes out: `Duplicates`, the global indices of the documents to
leave out. Promise: of equal documents the first in canonical order stays, whatever the number of workers or buckets.

Two passes, an external sort. Runs of at most `RUN_DOCUMENTS` documents are sorted by hash, and copies inside a run are
found; then each bucket, a range of hashes, is read out of every run and searched for copies between runs. A run hands
on each hash once, so a bucket stays small even when one document is most of the corpus. 24 bytes per document lie on
disk, and a worker holds up to 80 bytes for each document of one run or one bucket: a third of a gigabyte, whatever the
size of the corpus.

Hashes have 128 bits: among 10^12 different documents the chance that any two collide is below 10^-14.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from data_prep.shards import npy_parts
from data_prep.slices import map_documents
from data_prep.workers import Workers

RUN_DOCUMENTS = 2**22
_HASHED = np.dtype([("hash_hi", "<u8"), ("hash_lo", "<u8"), ("index", "<u8")])


@dataclass(frozen=True)
class _Run:
    """Consecutive documents that are sorted together, as ranges [begin, end) of slices; `first` is the global index."""

    slices: Path
    ranges: tuple[tuple[str, int, int], ...]
    first: int
    output: Path
    copies: Path


@dataclass(frozen=True)
class _Bucket:
    """The documents whose upper hash half lies in [low, high]."""

    runs: tuple[Path, ...]
    low: int
    high: int
    copies: Path


class Duplicates:
    """The documents to leave out, in files that are mapped at their first use.

    Args:
        paths: .npy files, each a sorted uint64 array of global indices; an index is in at most one of them.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._mapped: list[np.ndarray] | None = None

    def between(self, begin: int, end: int) -> np.ndarray:
        """uint64: the global indices to leave out in [begin, end), in no particular order."""
        if self._mapped is None:
            self._mapped = [np.load(path, mmap_mode="r") for path in self.paths]
        found = [np.empty(0, np.uint64)]
        for indices in self._mapped:
            low, high = np.searchsorted(indices, np.array([begin, end], dtype=np.uint64))
            found.append(np.asarray(indices[low:high]))
        return np.concatenate(found)

    def __getstate__(self) -> dict:
        return {"paths": self.paths, "_mapped": None}  # a worker maps the files itself


def find_duplicates(
    workers: Workers, slices: Path, names: Sequence[str], counts: Sequence[int], directory: Path
) -> Duplicates:
    """Find exact duplicates.

    Args:
        slices: where the tokenized slices lie.
        names, counts: the slices and their numbers of documents, in canonical order; the global index of a document
            counts through them.
        directory: where the results and temporary files go.
    """
    runs = [
        _Run(slices, ranges, first, directory / f"run-{at:05d}.npy", directory / f"copies-in-run-{at:05d}.npy")
        for at, (ranges, first) in enumerate(_runs(names, counts))
    ]
    for _ in workers.run(_sort_run, runs):
        pass
    sorted_runs = tuple(run.output for run in runs)
    edges = [(2**64 * number) // len(runs) for number in range(len(runs) + 1)]
    buckets = [
        _Bucket(sorted_runs, low, high - 1, directory / f"copies-between-runs-{number:05d}.npy")
        for number, (low, high) in enumerate(pairwise(edges))
        if len(runs) > 1
    ]
    for _ in workers.run(_search_bucket, buckets):
        pass
    for path in sorted_runs:
        path.unlink()
    return Duplicates([*(run.copies for run in runs), *(bucket.copies for bucket in buckets)])


def _runs(names: Sequence[str], counts: Sequence[int]) -> Iterator[tuple[tuple[tuple[str, int, int], ...], int]]:
    """The ranges of each run, `RUN_DOCUMENTS` documents but for the last one, and the global index of its first."""
    ranges: list[tuple[str, int, int]] = []
    first = in_run = 0
    for name, count in zip(names, counts, strict=True):
        begin = 0
        while count - begin > RUN_DOCUMENTS - in_run:
            end = begin + RUN_DOCUMENTS - in_run
            yield (*ranges, (name, begin, end)), first
            ranges, first, in_run, begin = [], first + RUN_DOCUMENTS, 0, end
        ranges.append((name, begin, count))
        in_run += count - begin
    yield tuple(ranges), first


def _sort_run(run: _Run) -> None:
    hashed = np.empty(sum(end - begin for _, begin, end in run.ranges), dtype=_HASHED)
    at = 0
    for name, begin, end in run.ranges:
        part = map_documents(run.slices, name, begin, end)
        hashed["hash_hi"][at : at + len(part)] = part["hash_hi"]
        hashed["hash_lo"][at : at + len(part)] = part["hash_lo"]
        at += len(part)
    hashed["index"] = np.arange(run.first, run.first + len(hashed), dtype=np.uint64)
    hashed, copies = _without_copies(hashed)
    _write(run.output, hashed)
    _write(run.copies, copies)


def _search_bucket(bucket: _Bucket) -> None:
    parts = []
    for path in bucket.runs:
        run = np.load(path, mmap_mode="r")
        low = np.searchsorted(run["hash_hi"], np.uint64(bucket.low), side="left")
        high = np.searchsorted(run["hash_hi"], np.uint64(bucket.high), side="right")
        parts.append(np.asarray(run[low:high]))
    _write(bucket.copies, _without_copies(np.concatenate(parts))[1])


def _write(path: Path, array: np.ndarray) -> None:
    """Not flushed to the disk: after a crash all of it is made again."""
    with path.open("wb") as file:
        for part in npy_parts(array):
            file.write(part)


def _without_copies(hashed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The documents sorted by `hash_hi` with the first of each kind, and the sorted indices of its copies.

    Args:
        hashed: `_HASHED` [documents] in any order.
    """
    hashed = hashed[np.argsort(hashed["hash_hi"], kind="stable")]
    equal = hashed["hash_hi"][1:] == hashed["hash_hi"][:-1]
    candidates = np.flatnonzero(np.append(equal, False) | np.append(False, equal)) if len(hashed) else np.arange(0)
    # only these few are compared by all 128 bits, and by index, so that the first one stays
    found = hashed[candidates]
    order = np.lexsort((found["index"], found["hash_lo"], found["hash_hi"]))
    ordered = found[order]
    repeated = (ordered["hash_hi"][1:] == ordered["hash_hi"][:-1]) & (ordered["hash_lo"][1:] == ordered["hash_lo"][:-1])
    copies = order[1:][repeated]
    kept = np.delete(hashed, candidates[copies]) if len(copies) else hashed
    return kept, np.sort(found["index"][copies])
