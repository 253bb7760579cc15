"""Fragments -> the bytes of a safetensors file, in host memory that is made once and filled again at every save.

The layout is that of https://github.com/huggingface/safetensors: the header's length as a little-endian uint64, the
header as JSON padded with spaces to a multiple of 8, the tensors' bytes. The library's own writer would have the
tensors gathered and copied once more; here the copy off the device is the only one. On CUDA the memory is pinned.
"""

import json
from collections.abc import Mapping

import torch

from pipeline.checkpoint.fragments import Fragment
from pipeline.checkpoint.meta import KINDS
from pipeline.checkpoint.write import ALIGNMENT_BYTES

ELEMENT_BYTES = 4  # fragments are fp32


class HostImage:
    """The file of one rank: `fill` it, then write `content`.

    Args:
        sizes: parameter -> elements of the range of it that the file holds.
        device: where they are copied from.
    """

    def __init__(self, sizes: Mapping[str, int], device: torch.device) -> None:
        header, offset = {}, 0
        for name, numel in sizes.items():
            for kind in KINDS:
                end = offset + numel * ELEMENT_BYTES
                header[f"{kind}/{name}"] = {"dtype": "F32", "shape": [numel], "data_offsets": [offset, end]}
                offset = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        start = len(text).to_bytes(8, "little") + text
        self._device = device
        # written to now: the system hands out pages at the first touch, which takes longer than a copy
        self._bytes = _aligned(len(start) + offset, pin_memory=device.type == "cuda").fill_(0)
        self._bytes[: len(start)] = torch.frombuffer(bytearray(start), dtype=torch.uint8)
        self._tensors = {
            name: self._bytes[len(start) :][entry["data_offsets"][0] : entry["data_offsets"][1]].view(torch.float32)
            for name, entry in header.items()
        }

    @property
    def content(self) -> memoryview:
        """The bytes of the file; they change at the next `fill`."""
        return self._bytes.numpy().data

    def tensor(self, name: str, kind: str) -> torch.Tensor:
        """The part of `content` that holds one kind of a parameter's state, to be written to: fp32 [numel]."""
        return self._tensors[f"{kind}/{name}"]

    def fill(self, fragments: list[Fragment]) -> None:
        """Copy the fragments off the device; when this returns they may change again."""
        for fragment in fragments:
            for kind in KINDS:
                self.tensor(fragment.name, kind).copy_(fragment.state[kind], non_blocking=True)
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()


def _aligned(size_bytes: int, *, pin_memory: bool) -> torch.Tensor:
    """Host memory, uint8 [size_bytes], from an address that files are written from without a copy."""
    memory = torch.empty(size_bytes + ALIGNMENT_BYTES, dtype=torch.uint8, pin_memory=pin_memory)
    return memory[-memory.data_ptr() % ALIGNMENT_BYTES :][:size_bytes]
