"""What a checkpoint holds, for people and programs; and whether every byte of it is still what was written."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from foreword.errors import CheckpointError
from foreword.files import sha256_of
from pipeline.checkpoint.find import all_checkpoints, find_checkpoint, is_checkpoint
from pipeline.checkpoint.meta import missing_or_resized, read_meta


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
    problems = missing_or_resized(checkpoint, meta)
    if problems:
        return problems
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter's lock
        hashes = dict(zip(meta.files, pool.map(lambda name: sha256_of(checkpoint / name), meta.files), strict=True))
    return [
        f"{checkpoint / name}: SHA-256 is {hashes[name]}, expected {entry.sha256}"
        for name, entry in meta.files.items()
        if hashes[name] != entry.sha256
    ]


def describe_checkpoint(path: Path) -> dict:
    """The facts of a checkpoint (or of a run's newest one) as plain values, for a table or as JSON."""
    checkpoint = find_checkpoint(path)
    meta = read_meta(checkpoint)
    parameters = sum(_numel(info.shape) for info in meta.parameters.values())
    return {
        "checkpoint": str(checkpoint),
        **meta.progress.model_dump(),
        "loss": meta.loss,
        "parameters": parameters,
        "objective": meta.config["objective"],
        "model": meta.config["model"],
        "topology": meta.topology.model_dump(),
        "corpus": meta.corpus.model_dump(),
        "files": len(meta.files),
        "size_bytes": sum(entry.size for entry in meta.files.values()),
        "wandb_run_id": meta.wandb_run_id,
        "versions": meta.versions,
    }


def _numel(shape: tuple[int, ...]) -> int:
    numel = 1
    for size in shape:
        numel *= size
    return numel
