"""A checkpoint -> the same state cut for another tensor-parallel size, without an engine and in bounded memory.

Training needs none of this: it reads any checkpoint on any topology. But a checkpoint that is cut like the run that
reads it is read without a byte too many, and one of tensor-parallel size 1 is the easiest to read with other tools. The
data-parallel size and the ZeRO stage leave no trace in the format (files hold any ranges): there is nothing to choose.
"""

import math
import shutil
import threading
from pathlib import Path

import torch

from foreword.errors import CheckpointError, ConfigError
from pipeline.checkpoint.find import find_checkpoint
from pipeline.checkpoint.image import HostImage
from pipeline.checkpoint.meta import (
    KINDS,
    CheckpointMeta,
    FileEntry,
    FragmentRange,
    Topology,
    damage,
    read_meta,
    write_meta,
)
from pipeline.checkpoint.read import CheckpointReader
from pipeline.checkpoint.write import write_and_hash
from pipeline.weights.directory import TOKENIZER_DIRECTORY, whole_directory

ELEMENTS_PER_FILE = 2**24  # parameters, so 192 MiB with the moments: what is held in memory at a time


def reshape_checkpoint(source: Path, out: Path, tensor_parallel_size: int) -> CheckpointMeta:
    """Write the checkpoint at `source` again, cut for `tensor_parallel_size`. Every file is hashed before it is read.

    Args:
        source: a checkpoint, or a run, of which the newest complete one is taken.
        out: the new checkpoint; must not exist, or be empty. It has the tokenizer of the run with it, where there is
            one, so it can be used where it lies.
        tensor_parallel_size: must divide the attention heads and each dimension that is cut.

    Raises:
        CheckpointError: the source is not intact.
        ConfigError: a size that does not divide, or `out` is taken or cannot be written.
    """
    checkpoint = find_checkpoint(source)
    meta = read_meta(checkpoint)
    _require_divisible(meta, tensor_parallel_size)
    if problems := damage(checkpoint, meta, hashes=True):
        raise CheckpointError(problems[0], remedy="use another checkpoint; `foreword verify` names every problem")
    topology = Topology(
        world_size=tensor_parallel_size,
        tensor_parallel_size=tensor_parallel_size,
        data_parallel_size=1,
        zero_stage=meta.topology.zero_stage,
        precision=meta.topology.precision,
    )
    with whole_directory(out) as temporary, CheckpointReader(checkpoint, meta) as reader:
        files = {}
        for rank in range(tensor_parallel_size):
            for part, ranges in enumerate(_files_of_rank(meta, rank, tensor_parallel_size)):
                name = f"tp_{rank:02d}_part_{part:03d}.safetensors"
                files[name] = _write(temporary / name, reader, ranges, rank, tensor_parallel_size)
        for tokenizer in (checkpoint / TOKENIZER_DIRECTORY, checkpoint.absolute().parent.parent / TOKENIZER_DIRECTORY):
            if tokenizer.is_dir():
                shutil.copytree(tokenizer, temporary / TOKENIZER_DIRECTORY)
                break
        reshaped = meta.model_copy(update={"topology": topology, "files": files})
        write_meta(temporary, reshaped)
    return reshaped


def _require_divisible(meta: CheckpointMeta, size: int) -> None:
    heads = meta.config["model"]["num_attention_heads"]
    cut = {
        name: info.shape[info.partition_dim] for name, info in meta.parameters.items() if info.partition_dim is not None
    }
    for what, length in {"num_attention_heads": heads, **cut}.items():
        if length % size:
            raise ConfigError(f"tensor-parallel size {size} does not divide {what}, {length}", where="--tp")


def _files_of_rank(meta: CheckpointMeta, rank: int, size: int) -> list[dict[str, FragmentRange]]:
    """Parameter -> range of this rank's slice, for one file after another; what all ranks hold goes to rank 0."""
    files: list[dict[str, FragmentRange]] = [{}]
    room = ELEMENTS_PER_FILE
    for name, info in meta.parameters.items():
        if info.partition_dim is None and rank > 0:
            continue
        numel = math.prod(info.shape) // (1 if info.partition_dim is None else size)
        start = 0
        while start < numel:
            if not room:
                files.append({})
                room = ELEMENTS_PER_FILE
            taken = min(room, numel - start)
            files[-1][name] = FragmentRange(start=start, numel=taken)
            start, room = start + taken, room - taken
    return files


def _write(path: Path, reader: CheckpointReader, ranges: dict[str, FragmentRange], rank: int, size: int) -> FileEntry:
    image = HostImage({name: fragment.numel for name, fragment in ranges.items()}, torch.device("cpu"))
    for name, fragment in ranges.items():
        for kind in KINDS:
            image.tensor(name, kind).copy_(
                reader.read_slice_range(name, kind, rank, size, fragment.start, fragment.numel)
            )
    sha256 = write_and_hash(path, image.content, threading.Event())
    assert sha256 is not None  # nobody has cancelled it
    return FileEntry(size=len(image.content), sha256=sha256, tensor_parallel_rank=rank, fragments=ranges)
