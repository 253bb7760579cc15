"""A small corpus on disk for the trainer's tests: learnable rows with several segments each."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_prep.manifest import FileInfo, Manifest, SplitInfo, TokenizerInfo
from data_prep.shards import PADDING, Corpus, token_dtype, write_shard

PrefixLen = Callable[[np.random.Generator, int], int]
VOCAB_SIZE = 97
SEQUENCE_LENGTH = 32


def make_corpus(
    path: Path,
    rows: int = 48,
    sequence_length: int = SEQUENCE_LENGTH,
    prefix_len: int | PrefixLen | None = None,
    seed: int = 0,
    vocab_size: int = VOCAB_SIZE,
    whole_rows: bool = False,
) -> Corpus:
    """Write a corpus of `rows` training rows and 8 validation rows, and open it.

    Each row holds two or three segments and some padding; with `whole_rows`, one segment. Each segment counts upwards
    from a random token, so that it can be learned. Prefix lengths are random, or `prefix_len` everywhere. Corpora of
    another `vocab_size` have another tokenizer.
    """
    random = np.random.default_rng(seed)
    splits = {}
    for split, size in (("train", rows), ("valid", 8)):
        (path / split).mkdir(parents=True, exist_ok=True)
        made = [_row(random, sequence_length + 1, prefix_len, vocab_size, whole_rows) for _ in range(size)]
        tokens = np.stack([row for row, _ in made]).astype(token_dtype(vocab_size))
        row_ptr = np.cumsum([0] + [len(segments) for _, segments in made])
        info = write_shard(path, split, "00000", tokens, row_ptr, np.concatenate([segments for _, segments in made]))
        counts = {key: getattr(info, key) for key in ("rows", "segments", "tokens", "targets", "padding")}
        splits[split] = SplitInfo(documents=info.segments, cut_documents=0, shards=[info], **counts)
    Manifest(
        tokenizer=_tokenizer(path, vocab_size),
        sequence_length=sequence_length,
        dtype="uint16",
        packing={"policy": "best_fit"},
        seed=seed,
        splits=splits,
        sources=[],
        config={},
    ).save(path)
    return Corpus.open(path)


def _row(
    random: np.random.Generator, length: int, prefix_len: int | PrefixLen | None, vocab_size: int, whole: bool
) -> tuple[np.ndarray, np.ndarray]:
    if whole:
        padding, starts = 0, [0]
    else:
        padding = int(random.integers(0, 4))
        cuts = np.sort(random.choice(np.arange(5, length - 9, 5), size=random.integers(1, 3), replace=False))
        starts = [0, *cuts.tolist()]
    ends = [*starts[1:], length - padding]
    row = np.zeros(length, dtype=np.int64)
    segments = []
    for start, end in zip(starts, ends, strict=True):
        row[start:end] = (random.integers(vocab_size) + np.arange(end - start)) % vocab_size
        if prefix_len is None:
            chosen = int(random.integers(0, end - start))
        else:
            chosen = prefix_len if isinstance(prefix_len, int) else prefix_len(random, end - start)
        segments.append((start, chosen))
    if padding:
        segments.append((length - padding, PADDING))
    return row, np.array(segments, dtype=np.int32)


def _tokenizer(path: Path, vocab_size: int) -> TokenizerInfo:
    directory = path / "tokenizer"
    directory.mkdir(exist_ok=True)
    np.save(directory / "token_bytes.npy", np.ones(vocab_size, dtype=np.int32))
    content = (directory / "token_bytes.npy").read_bytes()
    info = FileInfo(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    return TokenizerInfo(
        kind="sentencepiece",
        name="tiny",
        sha256=info.sha256,
        vocab_size=vocab_size,
        eod_id=0,
        pad_id=0,
        files={"token_bytes.npy": info},
    )
