"""Where documents come from: one module per kind of source.

A source module (`data_prep.sources.KIND`, found by the `kind` of its configuration) has four functions, and nothing
outside it knows the format:

    list_files(source) -> list[InputFile]
        The files (or other units) that the configuration names, in canonical order. A missing file is a ConfigError.
    sha256(path) -> str
        Hash of a unit's bytes, for the manifest.
    cut(path, size_bytes, slice_bytes) -> list[tuple[int, int]]
        Ranges [begin, end) of about `slice_bytes` that together hold every record once; a pure function of its
        arguments that does not read the file. What can only be read from its start is one range [(0, size_bytes)].
        What the numbers count is the module's own affair.
    read(source, path, begin, end, bad) -> Iterator[Documents], or of TokenizedDocuments
        The documents of one range in file order, in batches of a few megabytes; memory must not grow with the file.
        A record that cannot be used goes to `bad.found(...)`, which raises or counts as configured. Each batch says how
        much of the file it was read from (`input_bytes`), so that progress and predictions are right.

The canonical order of the corpus is (source, file, record); it decides which of two equal documents is kept.

To add a kind: its configuration class in `data_prep.config` (and in `SourceConfig` there), its module here, its name in
`MODULES`, and a test that reads it in several slices and in one and gets the same documents.
"""

import importlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from data_prep.config import AnySource
from data_prep.documents import Documents, TokenizedDocuments
from foreword.errors import DataError

MODULES = {
    "huggingface": "data_prep.sources.huggingface",
    "jsonl": "data_prep.sources.jsonl",
    "megatron": "data_prep.sources.megatron",
    "parquet": "data_prep.sources.parquet",
    "text": "data_prep.sources.text",
    "warc": "data_prep.sources.warc",
    "wet": "data_prep.sources.wet",
}


@dataclass(frozen=True)
class InputFile:
    """One file (or other unit) of a source.

    Attributes:
        path: as configured or as the glob found it; it stands in the manifest.
        size_bytes: what the progress counts; also the end of the range for `cut`.
        fingerprint: changes when the file changes (a modification time, an etag, a revision).
    """

    path: str
    size_bytes: int
    fingerprint: str


@dataclass
class BadRecords:
    """What becomes of records that cannot be used.

    Attributes:
        refuse: stop at the first one; otherwise leave it out and count it.
        counts: reason -> records left out.
    """

    refuse: bool
    counts: Counter[str] = field(default_factory=Counter)

    def found(self, where: Callable[[], str], reason: str, detail: str, count: int = 1) -> None:
        """Refuse or count records.

        Args:
            where: says which file and record it is; called only when refusing, so it may be slow.
            reason: a short snake_case name that reports count by.
            detail: one sentence for the person who reads the error.
            count: how many records have this fault.

        Raises:
            DataError: when bad records are refused.
        """
        if self.refuse:
            remedy = "mend the record, or set on_bad_record=count to leave such records out and count them"
            raise DataError(detail, where=where(), remedy=remedy)
        self.counts[reason] += count

    def left_out(self, reason: str) -> None:
        """Count a record that is whole and yet no document; it is never refused."""
        self.counts[reason] += 1


class SourceModule(Protocol):
    """The four functions of a source module."""

    def list_files(self, source: AnySource) -> list[InputFile]:
        """Canonical list of what the source reads."""

    def sha256(self, path: str) -> str:
        """Hash of a unit's bytes."""

    def cut(self, path: str, size_bytes: int, slice_bytes: int) -> list[tuple[int, int]]:
        """Ranges that together hold every record once."""

    def read(
        self, source: AnySource, path: str, begin: int, end: int, bad: BadRecords
    ) -> Iterator[Documents | TokenizedDocuments]:
        """The documents of one range."""


def module_of(kind: str) -> SourceModule:
    """The module that reads sources of this kind."""
    return importlib.import_module(MODULES[kind])  # type: ignore[return-value]
