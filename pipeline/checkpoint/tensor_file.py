"""A safetensors file of fp32 tensors -> any range of one of them, read into memory of its own.

The library maps files instead. A mapped file is read page by page as it is touched, which is slower; and a page that
cannot be read ends the process without a word, where a read is an error that can be told. Headers are checked with the
library all the same, see `headers.header_problems`.
"""

import json
import os
from pathlib import Path

import torch

from foreword.errors import CheckpointError
from pipeline.checkpoint.image import ELEMENT_BYTES

_LENGTH_BYTES = 8  # of the header's length, with which the file begins
_REMEDY = "use another checkpoint; `foreword verify` names every problem"


class TensorFile:
    """An open file. `close` it.

    Raises:
        CheckpointError: it cannot be read, or is no safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._unreadable(error.strerror) from None
        try:
            header_bytes = int.from_bytes(self._bytes(0, _LENGTH_BYTES), "little")
            if header_bytes > os.fstat(self._descriptor).st_size:
                raise ValueError
            header = json.loads(self._bytes(_LENGTH_BYTES, header_bytes))
            header.pop("__metadata__", None)
            data = _LENGTH_BYTES + header_bytes
            # where a tensor's bytes lie in the file
            self._places = {key: [data + offset for offset in entry["data_offsets"]] for key, entry in header.items()}
        except (ValueError, TypeError, KeyError, AttributeError):
            self.close()
            raise self._unreadable("no header of a safetensors file") from None
        except CheckpointError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def read(self, key: str, start: int, end: int) -> torch.Tensor:
        """Elements [start, end) of the flattened tensor `key`: fp32 [end - start].

        Raises:
            CheckpointError: the file lacks some of them, or cannot be read.
        """
        if key not in self._places:
            raise self._unreadable(f"it has no tensor {key}")
        first, last = self._places[key]
        if not 0 <= start <= end <= (last - first) // ELEMENT_BYTES:
            raise self._unreadable(f"{key} has no elements {start} to {end}")
        tensor = torch.empty(end - start, dtype=torch.float32)
        self._fill(tensor.view(torch.uint8).numpy().data, first + start * ELEMENT_BYTES)
        return tensor

    def _bytes(self, position: int, length: int) -> bytes:
        content = bytearray(length)
        self._fill(memoryview(content), position)
        return bytes(content)

    def _fill(self, memory: memoryview, position: int) -> None:
        filled = 0
        while filled < len(memory):
            try:
                count = os.preadv(self._descriptor, [memory[filled:]], position + filled)
            except OSError as error:
                raise self._unreadable(error.strerror) from None
            if not count:
                raise self._unreadable("it ends too early")
            filled += count

    def _unreadable(self, why: str | None) -> CheckpointError:
        return CheckpointError(f"cannot be read: {why}", where=self._path, remedy=_REMEDY)
