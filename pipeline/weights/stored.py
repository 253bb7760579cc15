"""A run, a checkpoint, weights, or a Hugging Face directory -> its logical tensors, read one at a time.

What compares or averages checkpoints sees names, shapes and tensors; who wrote them, and cut how, stays behind here.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from foreword.errors import CheckpointError
from pipeline.checkpoint.find import find_checkpoint
from pipeline.checkpoint.meta import KINDS, MASTER, damage, read_meta
from pipeline.checkpoint.read import CheckpointReader
from pipeline.weights import directory as weights
from pipeline.weights.gpt2_layout import logical_shapes
from pipeline.weights.hf_directory import is_hugging_face, open_tensors, read_config


@dataclass(frozen=True)
class StoredTensors:
    """Logical tensors on the disk.

    Attributes:
        facts: what says where a run stands, by name; empty for weights without a run.
        shapes: parameter -> full shape.
        kinds: what there is of each parameter: its weights ("fp32") and, in a checkpoint, Adam's two moments.
        read: (parameter, kind) -> the whole tensor, fp32; raises CheckpointError when it cannot be read.
    """

    facts: dict[str, int]
    shapes: dict[str, tuple[int, ...]]
    kinds: tuple[str, ...]
    read: Callable[[str, str], Tensor]


@contextmanager
def open_stored(path: Path, *, hashes: bool = False) -> Iterator[StoredTensors]:
    """Open what `path` holds; of a run its newest complete checkpoint.

    Args:
        path: a run, a checkpoint, a weights directory or a Hugging Face directory.
        hashes: read every file first and compare its hash, so that no damage is copied into something new; Hugging
            Face's directories have none.

    Raises:
        CheckpointError: nothing of that kind, or not intact.
        DataError, ConfigError: a Hugging Face directory that cannot be used, see `hf_directory`.
    """
    if weights.is_weights(path):
        weights_meta = weights.read_weights_meta(path)
        _refuse(weights.damage(path, weights_meta, hashes=hashes))
        yield _stored_weights(path / weights.WEIGHTS_NAME)
        return
    if is_hugging_face(path):
        config = read_config(path)
        read = open_tensors(path, config)
        shapes = logical_shapes(config.model, config.notes.vocab_size)
        yield StoredTensors({}, shapes, (MASTER,), lambda name, kind: read(name))
        return
    checkpoint = find_checkpoint(path)
    meta = read_meta(checkpoint)
    _refuse(damage(checkpoint, meta, hashes=hashes))
    facts = {**meta.progress.model_dump(), "optimizer_steps": meta.optimizer_steps}
    shapes = {name: info.shape for name, info in meta.parameters.items()}
    with CheckpointReader(checkpoint, meta) as reader:
        yield StoredTensors(facts, shapes, KINDS, reader.read_full)


def _stored_weights(path: Path) -> StoredTensors:
    try:
        file = safe_open(path, framework="pt")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot be read: {error}", where=path) from None
    return StoredTensors({}, shapes, (MASTER,), lambda name, kind: file.get_tensor(name).float())


def _refuse(problems: list[str]) -> None:
    if problems:
        raise CheckpointError(problems[0], remedy="use another checkpoint; `foreword verify` names every problem")
