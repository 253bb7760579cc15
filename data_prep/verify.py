"""Prove a corpus: every file's size and hash, and that the arrays say what the format promises.

What comes in: a corpus directory. What goes out: a list of problems, each naming its file; empty when all is whole.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.manifest import TOKENIZER_DIRECTORY, FileInfo, Manifest, ShardInfo
from data_prep.mapped import MappedArray
from data_prep.shards import PADDING, PARTS, size_problem
from data_prep.workers import Workers, report_progress
from foreword.console import progress
from foreword.errors import DataError
from foreword.files import sha256_of


@dataclass(frozen=True)
class _Shard:
    corpus: Path
    split: str
    info: ShardInfo
    row_length: int
    dtype: str
    vocab_size: int


def verify_corpus(path: Path, workers: int) -> list[str]:
    """Check a finished corpus.

    Args:
        path: the corpus directory.
        workers: processes.

    Returns:
        What is wrong, one line each, sorted by file; empty when the corpus is whole.
    """
    path = Path(path)
    try:
        manifest = Manifest.load(path)
    except DataError as error:
        return [str(error)]
    with Workers(workers) as pool:
        return verify_files(path, manifest, pool)


def verify_files(corpus: Path, manifest: Manifest, workers: Workers) -> list[str]:
    """Check every file that `manifest` lists; see `verify_corpus`."""
    problems = [
        problem
        for name, info in manifest.tokenizer.files.items()
        if (problem := file_problem(corpus / TOKENIZER_DIRECTORY / name, info))
    ]
    shards = [
        _Shard(corpus, split, shard, manifest.sequence_length + 1, manifest.dtype, manifest.tokenizer.vocab_size)
        for split, info in manifest.splits.items()
        for shard in info.shards
    ]
    total_bytes = sum(file.size for shard in shards for file in shard.info.files.values())
    with progress("verify", total_bytes / 1e6, "MB") as shown:
        for _, found in workers.run(_shard_problems, shards, shown, scale=1e6):
            problems += found
    return sorted(problems)


def file_problem(path: Path, info: FileInfo) -> str | None:
    """What is wrong with one file, or None."""
    problem = size_problem(path, info)
    if problem is None and sha256_of(path) != info.sha256:
        return f"{path}: its SHA-256 is not the one in the manifest, its bytes were changed"
    return problem


def _shard_problems(shard: _Shard) -> list[str]:
    problems = []
    for name, info in shard.info.files.items():
        if problem := file_problem(shard.corpus / name, info):
            problems.append(problem)
        report_progress(info.size)
    return problems or _content_problems(shard)


def _content_problems(shard: _Shard) -> list[str]:
    """Whether arrays with the right hashes also keep the format's promises."""
    where = shard.corpus / shard.split / shard.info.name
    try:
        tokens, row_ptr, segments = (MappedArray(Path(f"{where}.{part}.npy")).array for part in PARTS)
    except DataError as error:
        return [str(error)]
    info = shard.info
    if tokens.shape != (info.rows, shard.row_length) or tokens.dtype != shard.dtype:
        return [
            f"{where}.tokens.npy: {tokens.dtype} {tokens.shape} where the manifest says {shard.dtype}, {info.rows} rows"
        ]
    if row_ptr.shape != (info.rows + 1,) or segments.shape != (info.segments, 2):
        return [f"{where}.row_ptr.npy, segments.npy: shapes that do not belong together"]
    if row_ptr[0] != 0 or row_ptr[-1] != len(segments) or (np.diff(row_ptr) < 1).any():
        return [f"{where}.row_ptr.npy: not increasing from 0 to the number of segments"]
    problems = _documents_problems(shard, row_ptr, segments)
    if int(tokens.max()) >= shard.vocab_size:
        problems.append(f"{where}.tokens.npy: id {int(tokens.max())} is outside the vocabulary of {shard.vocab_size}")
    start, prefix = segments[:, 0].astype(np.int64), segments[:, 1].astype(np.int64)
    is_last = np.zeros(len(start), dtype=bool)
    is_last[row_ptr[1:] - 1] = True
    length = np.where(is_last, shard.row_length, np.append(start[1:], 0)) - start
    padding = prefix == PADDING
    faults = {
        "a row's first segment does not start at column 0": (start[row_ptr[:-1]] != 0).any(),
        "segments overlap or leave their row": (length < 1).any(),
        "padding is not at the end of a row": (padding & ~is_last).any(),
        "a segment has fewer than two tokens": (length[~padding] < 2).any(),
        "a prefix leaves no target": ((prefix < 0) & ~padding).any() or (prefix >= length)[~padding].any(),
        "the counts are not those of the manifest": (
            int(length[~padding].sum()) != info.tokens
            or int(length[padding].sum()) != info.padding
            or int((length - np.maximum(prefix, 1))[~padding].sum()) != info.targets
        ),
    }
    return problems + [f"{where}.segments.npy: {fault}" for fault, applies in faults.items() if applies]


def _documents_problems(shard: _Shard, row_ptr: np.ndarray, segments: np.ndarray) -> list[str]:
    """Whether the table of documents, when there is one, has one record per segment that is not padding."""
    from data_prep.documents_table import places, table_name  # brings what reads and writes Parquet

    name = table_name(shard.split, shard.info.name)
    if name not in shard.info.files:
        return []
    try:
        found = places(shard.corpus / name)
    except DataError as error:
        return [str(error)]
    is_text = segments[:, 1] != PADDING
    row = np.repeat(np.arange(len(row_ptr) - 1), np.diff(row_ptr))
    expected = row[is_text], (np.arange(len(segments)) - row_ptr[row])[is_text]
    if not all(map(np.array_equal, found, expected)):
        return [f"{shard.corpus / name}: its records are not the shard's segments"]
    return []
