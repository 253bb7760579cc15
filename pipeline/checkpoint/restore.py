"""A checkpoint -> a live engine, whatever topology wrote it and whatever topology reads it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from foreword.errors import CheckpointError
from pipeline.checkpoint.fragments import finish_restore, fragments_of
from pipeline.checkpoint.meta import KINDS, CheckpointMeta, CorpusIdentity, read_meta
from pipeline.checkpoint.read import CheckpointReader
from pipeline.config.train import TrainConfig
from pipeline.distributed.agreement import all_ranks
from pipeline.engine import Engine

ELEMENTS_AT_A_TIME = 2**23  # 32 MiB: what loading needs besides the engine


def restore(checkpoint: Path, engine: Engine) -> CheckpointMeta:
    """Write a checkpoint's master weights, moments and step count into `engine`; every rank must call this.

    Raises:
        CheckpointError: a file is unreadable or lacks something; on all ranks.
    """
    meta = all_ranks(lambda: read_into(engine, checkpoint, KINDS))
    finish_restore(engine, steps=meta.optimizer_steps)
    engine.restore_state(meta.engine)
    return meta


def read_into(engine: Engine, checkpoint: Path, kinds: Sequence[str]) -> CheckpointMeta:
    """Write what a checkpoint holds of `kinds` (of KINDS) into this rank's fragments; `finish_restore` comes after it.

    Raises:
        CheckpointError: a file is unreadable or lacks something.
    """
    meta = read_meta(checkpoint)
    place = engine.parallel.tensor_parallel_rank, engine.parallel.tensor_parallel_size
    with CheckpointReader(checkpoint, meta) as reader:
        for fragment in fragments_of(engine):
            for kind in kinds:
                for part in fragment.state[kind].split(ELEMENTS_AT_A_TIME):
                    at = part.storage_offset() - fragment.state[kind].storage_offset()
                    part.copy_(reader.read_slice_range(fragment.name, kind, *place, fragment.start + at, part.numel()))
    return meta


def refuse_other_run(checkpoint: Path, meta: CheckpointMeta, config: TrainConfig, corpus: CorpusIdentity) -> None:
    """Check that a checkpoint belongs to this model and this data.

    Raises:
        CheckpointError: the corpora, their weights, tokenizer or sequence length, or the model's shape differ.
    """
    differences = meta.corpus.differences(corpus)
    saved_model, model = meta.config["model"], config.model.model_dump(mode="json")
    differences += [
        f"model.{key}: {saved_model.get(key)} in the checkpoint, {model.get(key)} now"
        for key in sorted(saved_model.keys() | model.keys())
        if saved_model.get(key) != model.get(key)
    ]
    if differences:
        raise CheckpointError(
            "this checkpoint belongs to another run:\n  " + "\n  ".join(differences),
            where=checkpoint,
            remedy="use another run_dir, or the data and model that the run was started with",
        )


def changed_settings(meta: CheckpointMeta, config: TrainConfig) -> list[str]:
    """What a run may change when it continues, and whoever compares its curves should know: a line for each change."""
    before, now = dict(_settings(meta.config)), dict(_settings(config.model_dump(mode="json")))
    known = sorted(before.keys() & now.keys())
    return [f"{key}: {before[key]} in the checkpoint, {now[key]} now" for key in known if before[key] != now[key]]


def _settings(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of what has an effect and may change: not where things lie, model, data and origin."""
    for key, value in config.items():
        if above + key in ("run_dir", "data.corpus", "data.corpora", "model", "init_from"):
            continue
        if isinstance(value, dict) and key != "objective":  # that one is a name or a mapping
            yield from _settings(value, f"{above}{key}.")
        else:
            yield above + key, value
