"""A corpus of any number of rows that takes no room: the files have their sizes and, but for a few rows, no blocks."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from random_corpus import tokenizer_info

from data_prep.manifest import FileInfo, Manifest, ShardInfo, SplitInfo
from data_prep.shards import PARTS, Corpus, token_dtype


def make_sparse_corpus(path: Path, *, rows: int, shards: int, sequence_length: int, vocab_size: int) -> Corpus:
    """Write and open a corpus whose rows are all zeros, and cannot be read before `fill_rows` was called for them.

    Args:
        path: a directory that is not there yet.
        rows: of the split "train", which is the only one; a multiple of `shards`.
        shards: of equal size.
        sequence_length: of a row.
        vocab_size: of the ids.
    """
    (path / "train").mkdir(parents=True)
    tokenizer = tokenizer_info(path, vocab_size)
    per_shard = rows // shards
    shapes = {"tokens": (per_shard, sequence_length + 1), "row_ptr": (per_shard + 1,), "segments": (per_shard, 2)}
    dtypes = {"tokens": token_dtype(vocab_size), "row_ptr": np.dtype(np.int64), "segments": np.dtype(np.int32)}
    tokens = per_shard * (sequence_length + 1)
    counts = {"rows": per_shard, "segments": per_shard, "tokens": tokens, "targets": tokens - per_shard, "padding": 0}
    infos = []
    for number in range(shards):
        files = {}
        for part in PARTS:
            name = f"train/{number:05d}.{part}.npy"
            files[name] = FileInfo(size=_reserve(path / name, dtypes[part], shapes[part]), sha256="0" * 64)
        infos.append(ShardInfo(name=f"{number:05d}", files=files, **counts))
    sums = {key: count * shards for key, count in counts.items()}
    Manifest(
        tokenizer=tokenizer,
        sequence_length=sequence_length,
        dtype=dtypes["tokens"].name,
        packing={"policy": "concat"},
        seed=0,
        splits={"train": SplitInfo(documents=rows, cut_documents=0, shards=infos, **sums)},
        sources=[],
        config={},
    ).save(path)
    return Corpus.open(path)


def fill_rows(corpus: Corpus, rows: Iterable[int], token: int = 0) -> None:
    """Make each of `rows` a row of one segment without a prefix, all of it `token`."""
    split = corpus.split("train")
    for row in rows:
        shard, local = split.locate(row)
        arrays = {
            part: np.load(corpus.path / "train" / f"{shard.name}.{part}.npy", mmap_mode="r+")
            for part in ("tokens", "row_ptr")
        }
        arrays["tokens"][local] = token
        arrays["row_ptr"][local : local + 2] = local, local + 1


def _reserve(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> int:
    """A .npy file of zeros without blocks; returns its size in bytes."""
    with path.open("xb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        )
        return file.truncate(file.tell() + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
