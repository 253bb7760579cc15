"""Fragments on disk -> tensors: any range of any tensor-parallel slice, or whole logical parameters.

Files are opened once, and of each no more is read than what is asked for.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import torch

from foreword.errors import CheckpointError
from pipeline.checkpoint.meta import CheckpointMeta, FragmentRange
from pipeline.checkpoint.tensor_file import TensorFile


class CheckpointReader:
    """Reads the fragments of one checkpoint. A context manager: the files are closed at its end."""

    def __init__(self, checkpoint: Path, meta: CheckpointMeta) -> None:
        self.checkpoint, self.meta = checkpoint, meta
        self._files: dict[str, TensorFile] = {}
        # (parameter, tensor-parallel rank) -> where its ranges are, in ascending order
        self._index: dict[tuple[str, int], list[tuple[FragmentRange, str]]] = defaultdict(list)
        for file_name, entry in meta.files.items():
            for name, fragment in entry.fragments.items():
                self._index[name, entry.tensor_parallel_rank].append((fragment, file_name))
        for places in self._index.values():
            places.sort(key=lambda place: place[0].start)

    def __enter__(self) -> "CheckpointReader":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def read_range(self, name: str, kind: str, tensor_parallel_rank: int, start: int, numel: int) -> torch.Tensor:
        """Elements [start, start + numel) of the flattened tensor-parallel slice `tensor_parallel_rank`: fp32 [numel].

        Raises:
            CheckpointError: the checkpoint does not hold all of them.
        """
        pieces, position = [], start
        for fragment, file_name in self._index[name, tensor_parallel_rank]:
            low, high = max(position, fragment.start), min(start + numel, fragment.start + fragment.numel)
            if low == position and low < high:
                pieces.append(self._read(file_name, f"{kind}/{name}", low - fragment.start, high - fragment.start))
                position = high
        if position != start + numel:
            missing = f"{kind} of {name}, elements from {position} of tensor-parallel slice {tensor_parallel_rank}"
            raise CheckpointError(f"lacks {missing}", where=self.checkpoint)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def read_full(self, name: str, kind: str) -> torch.Tensor:
        """The whole logical parameter: fp32, of its full shape."""
        shape = self.meta.parameters[name].shape
        return self.read_slice_range(name, kind, 0, 1, 0, math.prod(shape)).view(shape)

    def read_slice_range(
        self, name: str, kind: str, tensor_parallel_rank: int, tensor_parallel_size: int, start: int, numel: int
    ) -> torch.Tensor:
        """Elements [start, start + numel) of slice `tensor_parallel_rank` of `tensor_parallel_size`: fp32 [numel].

        The size may be another than the one the checkpoint was written with: size 1 reads the logical parameter. What
        is read besides is at most the rest of the rows that the range touches.
        """
        info = self.meta.parameters[name]
        written_size = self.meta.topology.tensor_parallel_size
        if info.partition_dim is None:
            return self.read_range(name, kind, 0, start, numel)
        if tensor_parallel_size == written_size:
            return self.read_range(name, kind, tensor_parallel_rank, start, numel)
        # the parameter as a matrix whose columns are cut: of one row where its first dimension is cut
        columns = math.prod(info.shape[info.partition_dim :])
        width, written_width = columns // tensor_parallel_size, columns // written_size
        pieces = []
        for row, row_end, column, column_end in _rectangles(start, start + numel, width):
            first, last = (tensor_parallel_rank * width + at for at in (column, column_end))
            parts = []
            for rank in range(first // written_width, -(-last // written_width)):
                low = max(first - rank * written_width, 0)
                high = min(last - rank * written_width, written_width)
                if row_end - row == 1:
                    parts.append(self.read_range(name, kind, rank, row * written_width + low, high - low)[None])
                else:
                    rows = self.read_range(name, kind, rank, row * written_width, (row_end - row) * written_width)
                    parts.append(rows.view(-1, written_width)[:, low:high])
            pieces.append(torch.cat(parts, dim=1).reshape(-1))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _read(self, file_name: str, key: str, start: int, end: int) -> torch.Tensor:
        if file_name not in self._files:
            self._files[file_name] = TensorFile(self.checkpoint / file_name)
        return self._files[file_name].read(key, start, end)


def _rectangles(start: int, end: int, width: int) -> Iterator[tuple[int, int, int, int]]:
    """A flat range of a matrix with rows of `width` as (first row, end row, first column, end column), in order.

    At most three: the end of a row, whole rows, the beginning of a row.
    """
    while start < end:
        row, column = divmod(start, width)
        if column or end - start < width:
            column_end = min(width, column + end - start)
            yield row, row + 1, column, column_end
            start += column_end - column
        else:
            yield row, end // width, 0, width
            start = end // width * width
