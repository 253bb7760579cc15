"""Looking at a prepared corpus in tests."""

from collections.abc import Iterator
from pathlib import Path

from data_prep.shards import PADDING, Corpus
from foreword.files import sha256_of


def bytes_of(path: Path) -> dict[str, str]:
    """Hash of every file of a corpus but its report, which holds the time it took."""
    return {str(f.relative_to(path)): sha256_of(f) for f in path.rglob("*") if f.is_file() and f.name != "report.html"}


def segments_of(path: str | Path, split: str = "train") -> Iterator[tuple[list[int], int]]:
    """(ids, prefix length) of every segment that is not padding."""
    rows = Corpus.open(path).split(split)
    for index in range(len(rows)):
        row = rows.row(index)
        ends = [*row.segments[1:, 0], len(row.tokens)]
        for (start, prefix), end in zip(row.segments.tolist(), ends, strict=True):
            if prefix != PADDING:
                yield row.tokens[start:end].tolist(), prefix
