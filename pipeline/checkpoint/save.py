"""An engine's state -> a checkpoint directory that is whole or does not exist.

Every rank writes its fragments into a temporary directory beside the checkpoints; when all have succeeded, rank 0
writes foreword.json and renames the directory. A killed save leaves a temporary directory; the next start removes it.
"""

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from foreword.errors import CheckpointError, ForewordError
from foreword.files import TEMPORARY_PREFIX, fsync_directory, sha256_of
from pipeline.checkpoint.find import CHECKPOINTS, step_directory
from pipeline.checkpoint.fragments import Fragment, fragments_of
from pipeline.checkpoint.meta import KINDS, CheckpointMeta, FileEntry, FragmentRange, write_meta
from pipeline.checkpoint.retention import remove_checkpoint
from pipeline.distributed.agreement import gather, main_rank
from pipeline.engine import Engine

NamedFiles = dict[str, FileEntry]


def save_checkpoint(run_dir: Path, engine: Engine, describe: Callable[[NamedFiles], CheckpointMeta]) -> Path:
    """Write a checkpoint of `engine`; every rank must call this.

    Args:
        run_dir: the run's directory, on a file system that all ranks see.
        engine: what is saved.
        describe: turns the written files into the contents of foreword.json (called on rank 0).

    Returns:
        The checkpoint's directory.

    Raises:
        CheckpointError: a rank could not write; on all ranks, and earlier checkpoints are untouched.
    """
    temporary = main_rank(lambda: _make_temporary(run_dir))
    try:
        files: NamedFiles = {}
        for written in gather(lambda: _write_fragments(temporary, engine)):
            files |= written
        return main_rank(lambda: _publish(run_dir, temporary, describe(files)))
    except ForewordError:
        main_rank(lambda: shutil.rmtree(temporary, ignore_errors=True))
        raise


def remove_leftovers(run_dir: Path) -> list[Path]:
    """Remove what killed saves left behind; returns the removed directories."""
    leftovers = sorted((run_dir / CHECKPOINTS).glob(f"{TEMPORARY_PREFIX}*"))
    for path in leftovers:
        shutil.rmtree(path, ignore_errors=True)
    return leftovers


def _make_temporary(run_dir: Path) -> Path:
    temporary = run_dir / CHECKPOINTS / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise CheckpointError(f"cannot be created: {error.strerror}", where=temporary) from None
    return temporary


def _write_fragments(directory: Path, engine: Engine) -> NamedFiles:
    fragments = [fragment for fragment in fragments_of(engine) if _is_written_here(engine, fragment)]
    if not fragments:
        return {}
    parallel = engine.parallel
    name = f"tp_{parallel.tensor_parallel_rank:02d}_dp_{parallel.data_parallel_rank:03d}.safetensors"
    path = directory / name
    tensors = {f"{kind}/{f.name}": _on_host(f.state[kind]) for f in fragments for kind in KINDS}
    try:
        save_file(tensors, path)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        entry = FileEntry(
            size=path.stat().st_size,
            sha256=sha256_of(path),
            tensor_parallel_rank=parallel.tensor_parallel_rank,
            fragments={f.name: FragmentRange(start=f.start, numel=f.numel) for f in fragments},
        )
    except Exception as error:
        raise CheckpointError(
            f"could not be written: {error}",
            where=path,
            remedy="earlier checkpoints are untouched; make room and resume",
        ) from None
    return {name: entry}


def _is_written_here(engine: Engine, fragment: Fragment) -> bool:
    """What several ranks hold alike is written by one of them."""
    parallel = engine.parallel
    if engine.layout[fragment.name].partition_dim is None and parallel.tensor_parallel_rank != 0:
        return False
    if engine.zero_stage == 0:
        writer = list(engine.layout).index(fragment.name) % parallel.data_parallel_size
        return writer == parallel.data_parallel_rank
    return True


def _on_host(view: torch.Tensor) -> torch.Tensor:
    """A copy of its own: safetensors refuses tensors that share memory."""
    return view.detach().to("cpu", copy=True).contiguous()


def _publish(run_dir: Path, temporary: Path, meta: CheckpointMeta) -> Path:
    final = step_directory(run_dir, meta.progress.step)
    try:
        write_meta(temporary, meta)
        if final.exists():  # a broken checkpoint of the same step, or one that this run has passed again
            remove_checkpoint(final)
        temporary.replace(final)
        fsync_directory(final.parent)
    except OSError as error:
        raise CheckpointError(f"could not be published: {error}", where=final) from None
    return final
