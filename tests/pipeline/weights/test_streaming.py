"""Files that are written a tensor at a time are those that the safetensors library reads."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipeline.weights.streaming import write_in_parts, write_tensors

TENSORS = {
    "matrix": torch.randn(5, 7),
    "scalar": torch.tensor(2.5),
    "größe": torch.randn(3),
    "transposed": torch.randn(4, 6).T,
    "nothing": torch.empty(0, 3),
}
SHAPES = {name: tuple(tensor.shape) for name, tensor in TENSORS.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_library_reads_what_was_written(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "weights.safetensors"
    write_tensors(path, SHAPES, TENSORS.__getitem__, dtype=dtype)
    read = load_file(path)
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read[name].dtype == dtype and torch.equal(read[name], tensor.to(dtype))
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_it_writes_as_many_bytes_as_the_library(tmp_path: Path) -> None:
    matrices = {"b": torch.randn(5, 7), "a": torch.randn(2, 2)}
    write_tensors(tmp_path / "ours", {name: tuple(t.shape) for name, t in matrices.items()}, matrices.__getitem__)
    save_file(matrices, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "ours").stat().st_size == (tmp_path / "theirs").stat().st_size


@pytest.mark.parametrize(("part_bytes", "parts"), [(10**6, 1), (200, 2), (1, 5)])
def test_parts_are_no_larger_than_allowed_and_the_index_names_them(tmp_path: Path, part_bytes: int, parts: int) -> None:
    write_in_parts(tmp_path, SHAPES, TENSORS.__getitem__, part_bytes=part_bytes)
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(files) == parts
    if parts == 1:
        assert files == ["model.safetensors"]
        return
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == TENSORS.keys()
    assert index["metadata"]["total_size"] == sum(tensor.numel() * 4 for tensor in TENSORS.values())
    for name, file in index["weight_map"].items():
        held = load_file(tmp_path / file)
        assert torch.equal(held[name], TENSORS[name])
        assert len(held) == 1 or sum(tensor.numel() * 4 for tensor in held.values()) <= part_bytes


def test_a_tensor_of_another_shape_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"matrix has shape \(5, 7\), not \(7, 5\)"):
        write_tensors(tmp_path / "weights", {"matrix": (7, 5)}, TENSORS.__getitem__)
    assert list(tmp_path.iterdir()) == []
