"""Fragments on disk -> tensors: any range of any tensor-parallel slice, or whole logical parameters.

Files are opened once and read through memory maps, so reading takes the memory of what is asked for.
"""

from collections import defaultdict
from pathlib import Path
from types import TracebackType

import torch
from safetensors import SafetensorError, safe_open

from foreword.errors import CheckpointError
from pipeline.checkpoint.meta import MASTER, CheckpointMeta, FragmentRange, read_meta


class CheckpointReader:
    """Reads the fragments of one checkpoint. A context manager: the files are closed at its end."""

    def __init__(self, checkpoint: Path, meta: CheckpointMeta) -> None:
        self.checkpoint, self.meta = checkpoint, meta
        self._files: dict[str, safe_open] = {}
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
                stored = self._open(file_name).get_slice(f"{kind}/{name}")
                pieces.append(stored[low - fragment.start : high - fragment.start])
                position = high
        if position != start + numel:
            missing = f"{kind} of {name}, elements from {position} of tensor-parallel slice {tensor_parallel_rank}"
            raise CheckpointError(f"lacks {missing}", where=self.checkpoint)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def read_full(self, name: str, kind: str) -> torch.Tensor:
        """The whole logical parameter: fp32, of its full shape."""
        info = self.meta.parameters[name]
        size = 1 if info.partition_dim is None else self.meta.topology.tensor_parallel_size
        slice_shape = list(info.shape)
        if info.partition_dim is not None:
            slice_shape[info.partition_dim] //= size
        numel = torch.Size(slice_shape).numel()
        slices = [self.read_range(name, kind, rank, 0, numel).view(slice_shape) for rank in range(size)]
        return slices[0] if info.partition_dim is None else torch.cat(slices, dim=info.partition_dim)

    def read_slice_range(
        self, name: str, kind: str, tensor_parallel_rank: int, tensor_parallel_size: int, start: int, numel: int
    ) -> torch.Tensor:
        """Elements [start, start + numel) of slice `tensor_parallel_rank` of `tensor_parallel_size`: fp32 [numel].

        The size may be another than the one the checkpoint was written with.
        """
        partition_dim = self.meta.parameters[name].partition_dim
        if partition_dim is None:
            return self.read_range(name, kind, 0, start, numel)
        if tensor_parallel_size == self.meta.topology.tensor_parallel_size:
            return self.read_range(name, kind, tensor_parallel_rank, start, numel)
        wanted = self.read_full(name, kind).chunk(tensor_parallel_size, dim=partition_dim)[tensor_parallel_rank]
        return wanted.reshape(-1)[start : start + numel]

    def _open(self, file_name: str) -> safe_open:
        if file_name not in self._files:
            path = self.checkpoint / file_name
            try:
                self._files[file_name] = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"cannot be read: {error}", where=path) from None
        return self._files[file_name]


def load_full_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Every logical parameter of a checkpoint (fp32, full shape), whatever topology wrote it."""
    meta = read_meta(checkpoint)
    with CheckpointReader(checkpoint, meta) as reader:
        return {name: reader.read_full(name, MASTER) for name in meta.parameters}
