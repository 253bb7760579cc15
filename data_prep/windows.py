"""Which documents go into which shard.

What comes in: the tokenized slices and the duplicates. What goes out: windows, each a run of documents of one split
that is packed into one shard. Promise: windows are a pure function of the corpus' documents in canonical order and the
configuration; how the input was sliced and who worked on it does not show.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import numpy as np

from data_prep.config import PrepConfig
from data_prep.dedup import Duplicates
from data_prep.keyed import keyed_bits, to_unit
from data_prep.slices import map_documents

SPLITS = ("train", "valid", "test")
MOST_DOCUMENTS = 2**19
"""In a window; a shard has fewer tokens than asked for when its documents have fewer than 64 on average."""
CHUNK_DOCUMENTS = 2**18
"""Looked at together."""


@dataclass(frozen=True)
class SliceOfCorpus:
    """A tokenized slice and its place in the canonical order.

    Attributes:
        name: the slice's files are directory/name.*.
        source: number of its source in the configuration.
        first: global index of its first document.
        count: its documents.
    """

    name: str
    source: int
    first: int
    count: int


@dataclass(frozen=True)
class Stretch:
    """The documents [begin, end) of a slice; of these, the ones in the window's split that appear a `copy`-th time."""

    slice: SliceOfCorpus
    begin: int
    end: int
    copy: int


@dataclass(frozen=True)
class Window:
    """One shard's documents in canonical order.

    Attributes:
        split: "train", "valid" or "test".
        number: of the shard within its split.
        stretches: where the documents are.
    """

    split: str
    number: int
    stretches: tuple[Stretch, ...]

    @property
    def name(self) -> str:
        """The shard's name."""
        return f"{self.number:05d}"


def split_of(documents: np.ndarray, config: PrepConfig) -> np.ndarray:
    """int [documents]: index into SPLITS, by content alone."""
    share = to_unit(keyed_bits(config.seed, "split", documents["hash_hi"], documents["hash_lo"]))
    held_out = np.where(share < config.splits.valid, 1, 2)
    return np.where(share < config.splits.valid + config.splits.test, held_out, 0)


def copies_of(documents: np.ndarray, split: np.ndarray, weight: float, seed: int) -> np.ndarray:
    """int [documents]: how often each document is taken; held-out ones at most once."""
    whole, rest = int(weight), weight - int(weight)
    copies = np.full(len(documents), whole)
    if rest:
        copies += to_unit(keyed_bits(seed, "weight", documents["hash_hi"], documents["hash_lo"])) < rest
    return np.where(split == 0, copies, np.minimum(copies, 1))


def members(
    documents: np.ndarray, stretch: Stretch, split: int, duplicates: Duplicates, config: PrepConfig
) -> np.ndarray:
    """bool [stretch.end - stretch.begin]: which documents of a stretch belong to the window.

    Args:
        documents: the `DOCUMENT` records of the stretch.
    """
    return _split_or_none(documents, stretch, duplicates, config) == split


def plan_windows(
    config: PrepConfig, directory: Path, slices: Sequence[SliceOfCorpus], duplicates: Duplicates
) -> Iterator[Window]:
    """Cut each split's documents into windows of about `shard_tokens` tokens; a window ends with a whole document.

    A window has at most `MOST_DOCUMENTS` documents, because packing takes memory for each.
    """
    open_windows = {split: _OpenWindow(split) for split in SPLITS}
    for copy in range(ceil(max(source.weight for source in config.sources))):
        for piece in slices:
            if piece.count == 0 or config.sources[piece.source].weight <= copy:
                continue
            for begin in range(0, piece.count, CHUNK_DOCUMENTS):  # a compressed file is one slice, however large
                chunk = Stretch(piece, begin, min(begin + CHUNK_DOCUMENTS, piece.count), copy)
                found = map_documents(directory, piece.name, chunk.begin, chunk.end)
                splits = _split_or_none(found, chunk, duplicates, config)
                for index, split in enumerate(SPLITS):
                    chosen = np.flatnonzero(splits == index)
                    if len(chosen):
                        lengths = found["length"][chosen]
                        yield from open_windows[split].add(chunk, chosen, lengths, config.shard_tokens)
    for window in open_windows.values():
        if window.stretches:
            yield window.close()


class _OpenWindow:
    """The window of a split that still takes documents."""

    def __init__(self, split: str) -> None:
        self.split = split
        self.number = 0
        self._empty()

    def _empty(self) -> None:
        self.stretches: list[Stretch] = []
        self.tokens = self.documents = 0

    def add(self, chunk: Stretch, chosen: np.ndarray, lengths: np.ndarray, shard_tokens: int) -> Iterator[Window]:
        """Take documents of a stretch; yields each window that they fill.

        Args:
            chosen: int [n], their places in the stretch.
            lengths: [n], in tokens.
        """
        total = np.cumsum(lengths, dtype=np.int64)
        begin, taken, tokens_taken = chunk.begin, 0, 0
        while taken < len(chosen):
            # the first document at which the window is full closes it
            full_of_tokens = int(np.searchsorted(total, tokens_taken + shard_tokens - self.tokens))
            last = min(full_of_tokens, taken + MOST_DOCUMENTS - self.documents - 1)
            if last >= len(chosen):
                self._append(replace(chunk, begin=begin))
                self.tokens += int(total[-1]) - tokens_taken
                self.documents += len(chosen) - taken
                return
            end = chunk.begin + int(chosen[last]) + 1
            self._append(replace(chunk, begin=begin, end=end))
            yield self.close()
            begin, taken, tokens_taken = end, last + 1, int(total[last])

    def _append(self, stretch: Stretch) -> None:
        """Add a stretch, as one with the last one when it goes on from there."""
        last = self.stretches[-1] if self.stretches else None
        if last and (last.slice, last.copy, last.end) == (stretch.slice, stretch.copy, stretch.begin):
            self.stretches[-1] = replace(last, end=stretch.end)
        else:
            self.stretches.append(stretch)

    def close(self) -> Window:
        """The window as it is; the next one begins."""
        window = Window(self.split, self.number, tuple(self.stretches))
        self.number += 1
        self._empty()
        return window


def _split_or_none(documents: np.ndarray, stretch: Stretch, duplicates: Duplicates, config: PrepConfig) -> np.ndarray:
    """int [documents]: index into SPLITS, or -1 for duplicates and documents that do not appear a `copy`-th time."""
    splits = split_of(documents, config)
    copies = copies_of(documents, splits, config.sources[stretch.slice.source].weight, config.seed)
    splits[copies <= stretch.copy] = -1
    begin, end = stretch.slice.first + stretch.begin, stretch.slice.first + stretch.end
    splits[duplicates.between(begin, end).astype(np.int64) - begin] = -1
    return splits
