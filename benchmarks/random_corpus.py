"""A corpus of random tokens for `make bench-train`: what a step costs depends on lengths, not on what is written."""

import hashlib
from pathlib import Path

import numpy as np

from data_prep.manifest import FileInfo, Manifest, SplitInfo, TokenizerInfo
from data_prep.shards import Corpus, token_dtype, write_shard

ROWS = 1024
MEDIAN_LENGTH, SIGMA = 400, 1.0  # of documents in tokens, lognormal: what web pages look like
MOST_FREQUENT = 1.3  # exponent of the tokens' frequencies by rank


def make_corpus(path: Path, *, packed: bool, sequence_length: int, vocab_size: int) -> Corpus:
    """Write and open a corpus of `ROWS` full rows with prefixes uniform in [1, length).

    Args:
        path: a directory that is not there yet.
        packed: whether rows hold documents of usual lengths, the last one cut; otherwise one document each.
        sequence_length: of a row.
        vocab_size: of the ids.
    """
    random = np.random.default_rng(0)
    row_length = sequence_length + 1
    segments = [_segments(random, row_length, packed) for _ in range(ROWS)]
    tokens = (random.zipf(MOST_FREQUENT, size=(ROWS, row_length)) % vocab_size).astype(token_dtype(vocab_size))
    (path / "train").mkdir(parents=True)
    row_ptr = np.cumsum([0] + [len(row) for row in segments])
    info = write_shard(path, "train", "00000", tokens, row_ptr, np.concatenate(segments))
    counts = {key: getattr(info, key) for key in ("rows", "segments", "tokens", "targets", "padding")}
    Manifest(
        tokenizer=tokenizer_info(path, vocab_size),
        sequence_length=sequence_length,
        dtype=tokens.dtype.name,
        packing={"policy": "concat"},
        seed=0,
        splits={"train": SplitInfo(documents=info.segments, cut_documents=0, shards=[info], **counts)},
        sources=[],
        config={},
    ).save(path)
    return Corpus.open(path)


def _segments(random: np.random.Generator, row_length: int, packed: bool) -> np.ndarray:
    starts = [0]
    while packed and (end := starts[-1] + max(2, int(MEDIAN_LENGTH * random.lognormal(sigma=SIGMA)))) < row_length - 1:
        starts.append(end)
    lengths = np.diff([*starts, row_length])
    return np.stack([starts, random.integers(1, lengths)], axis=1).astype(np.int32)


def tokenizer_info(path: Path, vocab_size: int) -> TokenizerInfo:
    """A tokenizer that only counts bytes, four for each id; its file is written to `path`."""
    directory = path / "tokenizer"
    directory.mkdir()
    np.save(directory / "token_bytes.npy", np.full(vocab_size, 4, dtype=np.int32))
    content = (directory / "token_bytes.npy").read_bytes()
    info = FileInfo(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    return TokenizerInfo(
        kind="tokenizer_json",
        name="random",
        sha256=info.sha256,
        vocab_size=vocab_size,
        eod_id=0,
        pad_id=0,
        files={"token_bytes.npy": info},
    )
