"""Two checkpoints -> which of their tensors differ, and by how much. Holds two tensors at a time."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.weights.stored import StoredTensors, open_stored


@dataclass(frozen=True)
class TensorDifference:
    """One tensor that is not the same on both sides.

    Attributes:
        name, kind: which one.
        elements: how many elements differ.
        of: how many there are.
        max_abs: the largest |a - b|; infinite where one side is no number.
        max_rel: the largest |a - b| / max(|a|, |b|).
    """

    name: str
    kind: str
    elements: int
    of: int
    max_abs: float
    max_rel: float


@dataclass(frozen=True)
class Comparison:
    """What two checkpoints have in common, and what not.

    Attributes:
        compared: tensors that both sides have in the same shape.
        differences: those of them that differ, the largest difference first.
        structure: a line for everything that only one side has, or has in another shape.
        facts: what says where a run stands -> its two values, where they differ.
    """

    compared: int
    differences: list[TensorDifference]
    structure: list[str]
    facts: dict[str, tuple[int, int]]

    @property
    def same(self) -> bool:
        """Whether a run would go on in the same way from either side."""
        return not (self.differences or self.structure or self.facts)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"same": self.same, **asdict(self)}


def compare(path: Path, other: Path) -> Comparison:
    """Compare the weights, and between checkpoints the moments, step counts and positions in the data.

    Args:
        path, other: runs, checkpoints or weights directories.

    Raises:
        CheckpointError: one of them is none of these, or not intact.
    """
    with open_stored(path) as a, open_stored(other) as b:
        structure = list(_structure(a, b, path, other))
        common = [name for name in a.shapes if a.shapes[name] == b.shapes.get(name)]
        kinds = [kind for kind in a.kinds if kind in b.kinds]
        found = [_difference(name, kind, a.read(name, kind), b.read(name, kind)) for name in common for kind in kinds]
        differences = sorted((d for d in found if d is not None), key=lambda d: (-d.max_abs, d.name, d.kind))
        facts = {
            key: (a.facts[key], b.facts[key]) for key in a.facts if key in b.facts and a.facts[key] != b.facts[key]
        }
    return Comparison(len(common) * len(kinds), differences, structure, facts)


def _structure(a: StoredTensors, b: StoredTensors, path: Path, other: Path) -> Iterator[str]:
    for name in sorted(a.shapes.keys() | b.shapes.keys()):
        if name not in b.shapes:
            yield f"{name}: only in {path}"
        elif name not in a.shapes:
            yield f"{name}: only in {other}"
        elif a.shapes[name] != b.shapes[name]:
            yield f"{name}: shape {a.shapes[name]} in {path}, {b.shapes[name]} in {other}"


def _difference(name: str, kind: str, a: Tensor, b: Tensor) -> TensorDifference | None:
    differ = (a != b) & ~(a.isnan() & b.isnan())
    elements = int(differ.sum())
    if not elements:
        return None
    a, b = a[differ].double(), b[differ].double()
    absolute = (a - b).abs().nan_to_num(nan=torch.inf, posinf=torch.inf)
    largest = torch.maximum(a.abs(), b.abs())
    relative = torch.where(absolute.isinf(), torch.inf, absolute / largest)
    return TensorDifference(name, kind, elements, differ.numel(), float(absolute.max()), float(relative.max()))
