"""Several checkpoints of one model -> the mean of their weights, as a weights directory.

Averaging the last checkpoints of a run is the plainest form of stochastic weight averaging (Izmailov et al. 2018,
arXiv 1803.05407). Optimizer moments have no meaningful mean and are left behind: the result is for evaluation,
generation, export, and for new runs to start from (init_from).
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from foreword.errors import CheckpointError
from pipeline.checkpoint.meta import MASTER
from pipeline.config.objective import describe_objectives
from pipeline.weights.directory import WeightsMeta, save_weights
from pipeline.weights.pretrained import Pretrained, open_pretrained
from pipeline.weights.stored import open_stored


def average_weights(paths: Sequence[Path], out: Path) -> WeightsMeta:
    """Write the elementwise mean of the weights at `paths`, summed in fp64 and stored in fp32.

    Needs memory for a few copies of the largest tensor, however many are averaged. All files are hashed first.

    Args:
        paths: runs, checkpoints or weights directories.
        out: must not exist, or be empty.

    Raises:
        CheckpointError: one is not intact, or they are not of one model, tokenizer and objective; says the difference.
        ConfigError: `out` is taken.
    """
    pretrained = [open_pretrained(path) for path in paths]
    for other in pretrained[1:]:
        _refuse_another_model(pretrained[0], other)
    first = pretrained[0]
    tokenizer = first.load_tokenizer()
    with ExitStack() as stack:
        stored = [stack.enter_context(open_stored(each.path, hashes=True)) for each in pretrained]
        shapes = stored[0].shapes

        def mean(name: str) -> Tensor:
            total = torch.zeros(shapes[name], dtype=torch.float64)
            for tensors in stored:
                total += tensors.read(name, MASTER)
            return (total / len(stored)).float()

        return save_weights(
            out,
            shapes,
            mean,
            model=first.config,
            vocab_size=first.vocab_size,
            objective=first.objective,
            mask_token_id=first.mask_token_id,
            tokenizer=tokenizer,
            source="the mean of " + ", ".join(str(each.path) for each in pretrained),
        )


def _refuse_another_model(first: Pretrained, other: Pretrained) -> None:
    sides = [
        {
            "objective": describe_objectives(p.objective),
            "tokenizer sha256": p.tokenizer_sha256,
            "vocab_size": p.vocab_size,
            "mask token": p.mask_token_id,
        }
        | {f"model.{key}": value for key, value in p.config.model_dump(mode="json").items()}
        for p in (first, other)
    ]
    differences = [
        f"{key}: {sides[0][key]} in {first.path}, {sides[1][key]} in {other.path}"
        for key in sides[0]
        if sides[0][key] != sides[1][key]
    ]
    if differences:
        raise CheckpointError(
            "not of one model:\n  " + "\n  ".join(differences), remedy="average checkpoints of one model"
        )
