"""What finished slices and shards say -> the manifest: a pure sum, in which nothing depends on time or machine."""

from collections import Counter

from data_prep.config import PrepConfig, prefix_policy
from data_prep.dedup import Duplicates
from data_prep.first_stage import Tokenized
from data_prep.manifest import FileInfo, Manifest, SourceInfo, SplitInfo, TokenizerInfo
from data_prep.pack_stage import PackedShard
from data_prep.plan import Plan
from data_prep.shards import token_dtype
from data_prep.windows import SPLITS


def build_manifest(
    config: PrepConfig,
    plan: Plan,
    tokenizer: TokenizerInfo,
    tokenized: Tokenized,
    duplicates: Duplicates,
    shards: list[PackedShard],
) -> Manifest:
    """Add up what slices and shards say.

    Args:
        duplicates: what was left out.
        shards: all of them, in split and number order.
    """
    splits = {}
    for split in SPLITS:
        mine = [shard for shard in shards if shard.split == split]
        if mine:
            sums = {
                key: sum(getattr(shard.info, key) for shard in mine)
                for key in ("rows", "segments", "tokens", "targets", "padding")
            }
            splits[split] = SplitInfo(
                documents=sum(shard.documents for shard in mine),
                cut_documents=sum(shard.cut_documents for shard in mine),
                shards=[shard.info for shard in mine],
                **sums,
            )
    return Manifest(
        tokenizer=tokenizer,
        sequence_length=config.sequence_length,
        dtype="uint16" if token_dtype(tokenizer.vocab_size).itemsize == 2 else "uint32",
        packing=config.packing.model_dump(),
        seed=config.seed,
        splits=splits,
        sources=[
            _source_info(config, plan, number, tokenized, duplicates, shards) for number in range(len(config.sources))
        ],
        config=plan.config,
    )


def _source_info(
    config: PrepConfig,
    plan: Plan,
    number: int,
    tokenized: Tokenized,
    duplicates: Duplicates,
    shards: list[PackedShard],
) -> SourceInfo:
    source = config.sources[number]
    dropped: Counter[str] = Counter()
    removed: Counter[str] = Counter()
    records = prefixes_cut = 0
    for piece, record in zip(tokenized.slices, tokenized.records, strict=True):
        if piece.source == number:
            records += record.records
            prefixes_cut += record.prefixes_cut
            dropped += record.dropped
            removed += record.removed
            dropped["duplicate"] += len(duplicates.between(piece.first, piece.first + piece.count))
    counts = [shard.sources[number] for shard in shards if number in shard.sources]
    return SourceInfo(
        name=str(source.name),
        kind=source.kind,
        weight=source.weight,
        prefix=prefix_policy(source).model_dump(),
        files={
            file.path: FileInfo(size=file.size_bytes, sha256=tokenized.hashes[index])
            for index, file in enumerate(plan.files)
            if file.source == number
        },
        records=records,
        documents=sum(count.documents for count in counts),
        tokens=sum(count.tokens for count in counts),
        text_bytes=sum(count.text_bytes for count in counts),
        dropped={reason: count for reason, count in sorted(dropped.items()) if count},
        prefixes_cut=prefixes_cut,
        removed=dict(sorted(removed.items())),
    )
