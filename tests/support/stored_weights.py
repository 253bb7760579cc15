"""All weights of a run, a checkpoint, a weights directory or a Hugging Face directory, at once."""

from pathlib import Path

from torch import Tensor

from pipeline.checkpoint.meta import MASTER
from pipeline.weights.stored import open_stored


def load_weights(path: Path) -> dict[str, Tensor]:
    """Logical parameter -> fp32 tensor of full shape, whatever topology wrote it."""
    with open_stored(path) as stored:
        return {name: stored.read(name, MASTER) for name in stored.shapes}
