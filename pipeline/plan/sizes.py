"""The shape of a model -> its parameters as numbers, without making any and without torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from pipeline.config.model import ModelConfig
from pipeline.vocabulary import padded_vocab_size

SAVED_BYTES = 12  # of a checkpoint, for each parameter: its fp32 value and AdamW's two moments


@dataclass(frozen=True)
class ParameterSize:
    """One logical parameter.

    Attributes:
        name: as in the state dict.
        shape: whole.
        is_cut: whether each rank of a tensor-parallel group holds its part, and not all of it.
    """

    name: str
    shape: tuple[int, ...]
    is_cut: bool = False

    def numel(self, tensor_parallel_size: int = 1) -> int:
        """Elements that one rank holds."""
        return prod(self.shape) // (tensor_parallel_size if self.is_cut else 1)


@dataclass(frozen=True)
class ParameterCounts:
    """Elements by part.

    Attributes:
        embedding: rows of ids in use; they are the output head as well.
        vocabulary_padding: the embedding's other rows.
        positions: learned position embeddings.
        blocks: all transformer layers, and the last layer norm.
    """

    embedding: int
    vocabulary_padding: int
    positions: int
    blocks: int

    @property
    def total(self) -> int:
        """Without the padding, as papers count."""
        return self.embedding + self.positions + self.blocks

    @property
    def total_with_padding(self) -> int:
        """What is stored."""
        return self.total + self.vocabulary_padding


def parameter_sizes(model: ModelConfig, vocab_size: int) -> list[ParameterSize]:
    """Every parameter of `pipeline.model.GPT2`, in its order."""
    width = model.hidden_size
    return [
        ParameterSize("wte.weight", (padded_vocab_size(vocab_size), width), is_cut=True),
        ParameterSize("wpe.weight", (model.max_position_embeddings, width)),
        *(size for layer in range(model.num_layers) for size in _block(f"blocks.{layer}", width)),
        *_layer_norm("ln_f", width),
    ]


def count_parameters(model: ModelConfig, vocab_size: int) -> ParameterCounts:
    """The parameters of a model by part."""
    width = model.hidden_size
    total = sum(size.numel() for size in parameter_sizes(model, vocab_size))
    embedding, padded = vocab_size * width, padded_vocab_size(vocab_size) * width
    positions = model.max_position_embeddings * width
    return ParameterCounts(embedding, padded - embedding, positions, blocks=total - padded - positions)


def checkpoint_bytes(model: ModelConfig, vocab_size: int) -> int:
    """Size of a checkpoint on the disk, without its small files."""
    return SAVED_BYTES * count_parameters(model, vocab_size).total_with_padding


def _block(name: str, width: int) -> Iterator[ParameterSize]:
    yield from _layer_norm(f"{name}.ln_1", width)
    yield from _column_parallel(f"{name}.attention.qkv", width, 3 * width)
    yield from _row_parallel(f"{name}.attention.projection", width, width)
    yield from _layer_norm(f"{name}.ln_2", width)
    yield from _column_parallel(f"{name}.mlp.up", width, 4 * width)
    yield from _row_parallel(f"{name}.mlp.down", 4 * width, width)


def _layer_norm(name: str, width: int) -> Iterator[ParameterSize]:
    yield ParameterSize(f"{name}.weight", (width,))
    yield ParameterSize(f"{name}.bias", (width,))


def _column_parallel(name: str, inputs: int, outputs: int) -> Iterator[ParameterSize]:
    yield ParameterSize(f"{name}.weight", (outputs, inputs), is_cut=True)
    yield ParameterSize(f"{name}.bias", (outputs,), is_cut=True)


def _row_parallel(name: str, inputs: int, outputs: int) -> Iterator[ParameterSize]:
    yield ParameterSize(f"{name}.weight", (outputs, inputs), is_cut=True)
    yield ParameterSize(f"{name}.bias", (outputs,))
