"""What a checkpoint holds, for people and programs; and whether every byte of it is still what was written."""

import math
from pathlib import Path

from foreword.errors import CheckpointError
from pipeline.checkpoint.find import all_checkpoints, find_checkpoint, is_checkpoint, name_problems
from pipeline.checkpoint.meta import damage, read_meta


def verify_checkpoint(path: Path) -> list[str]:
    """Re-hash every file of a checkpoint, or of all checkpoints of a run directory.

    Returns:
        One line per problem, naming the file; empty when everything is whole.

    Raises:
        CheckpointError: `path` is neither a checkpoint nor a run that has any.
    """
    checkpoints = [path] if is_checkpoint(path) else [checkpoint for _, checkpoint in all_checkpoints(path)]
    if not checkpoints:
        raise CheckpointError("neither a checkpoint nor a run that has any", where=path, remedy="check the path")
    return [problem for checkpoint in checkpoints for problem in _problems(checkpoint)]


def _problems(checkpoint: Path) -> list[str]:
    try:
        meta = read_meta(checkpoint)
    except CheckpointError as error:
        return [str(error).splitlines()[0]]
    return name_problems(checkpoint, meta) + damage(checkpoint, meta, hashes=True)


def describe_checkpoint(path: Path) -> dict:
    """The facts of a checkpoint (or of a run's newest one) as plain values, for a table or as JSON."""
    checkpoint = find_checkpoint(path)
    meta = read_meta(checkpoint)
    parameters = sum(math.prod(info.shape) for info in meta.parameters.values())
    return {
        "checkpoint": str(checkpoint),
        **meta.progress.model_dump(),
        "loss": meta.loss,
        "parameters": parameters,
        "objective": meta.config["objective"],
        "origin": meta.origin and meta.origin.model_dump(mode="json"),
        "model": meta.config["model"],
        "topology": meta.topology.model_dump(),
        "corpus": meta.corpus.model_dump(),
        "files": len(meta.files),
        "size_bytes": sum(entry.size for entry in meta.files.values()),
        "wandb_run_id": meta.wandb_run_id,
        "versions": meta.versions,
    }
