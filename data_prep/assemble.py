"""Stages 2 and 3 over the whole corpus: tokenized slices -> shards that were read back, and their manifest.

What comes in: everything that the first stage left. What goes out: shards on disk, and a manifest that is not written
yet. Promise: shards that an earlier run finished are kept, and what is on the disk was read back and compared.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep.config import PrepConfig
from data_prep.dedup import Duplicates, find_duplicates
from data_prep.first_stage import Tokenized
from data_prep.manifest import Manifest, TokenizerInfo
from data_prep.pack_stage import PackedShard, PackTask, pack_window, read_marker
from data_prep.plan import Plan
from data_prep.shards import size_problem, token_dtype
from data_prep.summarize import build_manifest
from data_prep.verify import verify_files
from data_prep.windows import SPLITS, SliceOfCorpus, plan_windows
from data_prep.work import Work
from data_prep.workers import Workers
from foreword.console import progress
from foreword.errors import DataError


def assemble(
    config: PrepConfig,
    plan: Plan,
    tokenizer: TokenizerInfo,
    tokenized: Tokenized,
    output: Path,
    work: Work,
    workers: Workers,
    seconds: dict[str, float],
) -> tuple[Manifest, list[PackedShard]]:
    """Leave out duplicates, pack the rest into shards in `output`, and check them.

    Args:
        seconds: receives how long each stage took.

    Raises:
        DataError: no documents are left, or a shard is not on the disk as it was written.
    """
    if not sum(piece.count for piece in tokenized.slices):
        dropped = sum((record.dropped for record in tokenized.records), Counter())
        what = f"all were left out: {dict(dropped)}" if dropped else "the input is empty"
        raise DataError(f"no documents, {what}", where=output, remedy="check the sources and the text limits")
    with timed(seconds, "deduplicate"):
        duplicates = _deduplicate(config, tokenized.slices, work, workers)
    with timed(seconds, "pack"):
        shards = _pack(config, tokenizer, tokenized, duplicates, output, work, workers)
    manifest = build_manifest(config, plan, tokenizer, tokenized, duplicates, shards)
    with timed(seconds, "verify"):
        problems = verify_files(output, manifest, workers)
    if problems:
        raise DataError("what was written is not what is on the disk:\n" + "\n".join(problems), where=output)
    return manifest, shards


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Note how long the block took."""
    began = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - began


def _deduplicate(config: PrepConfig, slices: list[SliceOfCorpus], work: Work, workers: Workers) -> Duplicates:
    """Stage 2; always done anew, it takes seconds where the others take hours."""
    if not config.deduplicate:
        return Duplicates([])
    names, counts = [piece.name for piece in slices], [piece.count for piece in slices]
    return find_duplicates(workers, work.slices, names, counts, work.dedup)


def _pack(
    config: PrepConfig,
    tokenizer: TokenizerInfo,
    tokenized: Tokenized,
    duplicates: Duplicates,
    output: Path,
    work: Work,
    workers: Workers,
) -> list[PackedShard]:
    """Stage 3 for every window whose shard is not there yet; the shards in split and number order."""
    for split in SPLITS:
        (output / split).mkdir(exist_ok=True)
    finished: list[PackedShard] = []

    def missing() -> Iterator[PackTask]:
        for window in plan_windows(config, work.slices, tokenized.slices, duplicates):
            marker = work.shards / f"{window.split}-{window.name}.json"
            shard = read_marker(marker)
            if shard is not None and not any(size_problem(output / name, f) for name, f in shard.info.files.items()):
                finished.append(shard)
                continue
            yield PackTask(
                config=config,
                window=window,
                slices=work.slices,
                duplicates=duplicates,
                vocab_size=tokenizer.vocab_size,
                pad_id=tokenizer.pad_id,
                corpus=output,
                marker=marker,
            )

    itemsize = token_dtype(tokenizer.vocab_size).itemsize
    tokens = sum(record.sizes["tokens"] for record in tokenized.records) // itemsize
    with progress("pack", tokens / 1e6, "M tokens") as shown:
        finished += [shard for _, shard in workers.run(pack_window, missing(), shown, scale=1e6)]
        shown.update(tokens / 1e6)  # duplicates were in the estimate
    for split in SPLITS:
        if not any(shard.split == split for shard in finished):
            (output / split).rmdir()
    return sorted(finished, key=lambda shard: (SPLITS.index(shard.split), int(shard.info.name)))
