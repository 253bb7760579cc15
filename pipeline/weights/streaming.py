"""Tensors -> .safetensors files, one tensor at a time.

The library writes tensors that are all in memory at once. A file of this format is a header, which follows from names,
shapes and precision alone, and the tensors' bytes in its order (https://github.com/huggingface/safetensors#format): so
each tensor can be read, written and forgotten. What is written, the library reads.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from foreword.files import atomic_write

Shapes = Mapping[str, tuple[int, ...]]

_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_ALIGNMENT_BYTES = 8  # of where the tensors begin; the library's readers do not need it, memory maps like it


def write_tensors(
    path: Path, shapes: Shapes, read: Callable[[str], Tensor], *, dtype: torch.dtype = torch.float32
) -> None:
    """Write one file; holds the tensor that is being written, and a copy of it where it has to be converted.

    Args:
        path: of the file.
        shapes: name -> shape, in the order in which they are read and written.
        read: name -> that tensor, of this shape, in any precision and on the CPU.
        dtype: fp32, bf16 or fp16: what is written.

    Raises:
        OSError: it cannot be written.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + _num_bytes(shape, dtype)
        header[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [start, end]}
    described = json.dumps(header, separators=(",", ":")).encode()
    described += b" " * (-len(described) % _ALIGNMENT_BYTES)
    with atomic_write(path) as file:
        file.write(len(described).to_bytes(8, "little") + described)
        for name, shape in shapes.items():
            tensor = read(name)
            if tuple(tensor.shape) != shape:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, not {shape}")
            file.write(tensor.to(dtype).contiguous().view(-1).view(torch.uint8).numpy().data)


def write_in_parts(
    directory: Path,
    shapes: Shapes,
    read: Callable[[str], Tensor],
    *,
    part_bytes: int,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write model.safetensors, or several files and an index, as transformers does.

    Args:
        directory: where to.
        shapes, read, dtype: see `write_tensors`.
        part_bytes: of the tensors in a file, at most, but at least one tensor.
    """
    parts: list[dict[str, tuple[int, ...]]] = [{}]
    room = part_bytes
    for name, shape in shapes.items():
        size = _num_bytes(shape, dtype)
        if size > room and parts[-1]:
            parts.append({})
            room = part_bytes
        parts[-1][name] = shape
        room -= size
    if len(parts) == 1:
        write_tensors(directory / "model.safetensors", shapes, read, dtype=dtype)
        return
    weight_map: dict[str, str] = {}
    for number, part in enumerate(parts, start=1):
        file_name = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        write_tensors(directory / file_name, part, read, dtype=dtype)
        weight_map |= dict.fromkeys(part, file_name)
    total_bytes = sum(_num_bytes(shape, dtype) for shape in shapes.values())
    with atomic_write(directory / "model.safetensors.index.json", "w") as file:
        file.write(json.dumps({"metadata": {"total_size": total_bytes}, "weight_map": weight_map}, indent=2) + "\n")


def _num_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return math.prod(shape) * dtype.itemsize
