"""Logical parameters and the slices of them that a tensor-parallel rank holds.

A logical parameter is the whole fp32 tensor, however the model is cut: it has a name, a full shape and, unless every
rank holds a copy, the dimension along which the ranks hold equal slices in rank order. Initialisation, loading,
checkpoints and export all speak of logical parameters, so none of them depends on the tensor-parallel size.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foreword.errors import CheckpointError
from pipeline.config.model import ModelConfig


@dataclass(frozen=True)
class ParameterLayout:
    """How one logical parameter is stored.

    Attributes:
        full_shape: of the logical parameter.
        partition_dim: the dimension that is cut over the tensor-parallel group; None where every rank holds all of it.
    """

    full_shape: tuple[int, ...]
    partition_dim: int | None

    def cut(self, full: Tensor, tensor_parallel_rank: int, tensor_parallel_size: int) -> Tensor:
        """The slice of the logical tensor `full` that one rank holds (a view)."""
        if self.partition_dim is None:
            return full
        return full.chunk(tensor_parallel_size, dim=self.partition_dim)[tensor_parallel_rank]

    def join(self, slices: Sequence[Tensor]) -> Tensor:
        """The logical tensor from the slices of all ranks in rank order."""
        return slices[0] if self.partition_dim is None else torch.cat(list(slices), dim=self.partition_dim)


def layout_of(module: nn.Module, tensor_parallel_size: int) -> dict[str, ParameterLayout]:
    """The layout of every parameter of a module that is not yet partitioned further (by ZeRO-3)."""
    layout = {}
    for name, parameter in module.named_parameters():
        shape = list(parameter.shape)
        dim: int | None = getattr(parameter, "partition_dim", None)  # megatron-core's mark
        if dim is not None:
            shape[dim] *= tensor_parallel_size
        layout[name] = ParameterLayout(tuple(shape), dim)
    return layout


@torch.no_grad()
def initialize(
    module: nn.Module,
    layout: Mapping[str, ParameterLayout],
    config: ModelConfig,
    seed: int,
    tensor_parallel_rank: int,
    tensor_parallel_size: int,
) -> None:
    """Draw GPT-2's initial weights, the same logical tensors for every tensor-parallel size.

    Matrices and embeddings are normal with `initializer_range`; the projections that write into the residual stream
    have it divided by sqrt(2 * num_layers); biases are 0 and layer norms the identity. Each tensor is drawn whole from
    a generator of its own, keyed by (seed, name), and then cut. So a rank draws what it does not keep: about one second
    per 100M parameters, and memory for one logical tensor (0.3 GB for the largest of the 1.5B model).
    """
    residual_scale = (2 * config.num_layers) ** -0.5
    for name, parameter in module.named_parameters():
        if parameter.dim() == 1:
            parameter.fill_(1.0 if _is_layer_norm_weight(name) else 0.0)
            continue
        scale = residual_scale if name.endswith(("attention.projection.weight", "mlp.down.weight")) else 1.0
        generator = torch.Generator().manual_seed(_key(seed, name))
        full = torch.empty(layout[name].full_shape).normal_(0.0, config.initializer_range * scale, generator=generator)
        parameter.copy_(layout[name].cut(full, tensor_parallel_rank, tensor_parallel_size))


@torch.no_grad()
def load(
    module: nn.Module,
    layout: Mapping[str, ParameterLayout],
    full_state: Mapping[str, Tensor],
    tensor_parallel_rank: int,
    tensor_parallel_size: int,
) -> None:
    """Copy this rank's slices of logical tensors (name -> full tensor) into the parameters.

    Raises:
        CheckpointError: a parameter is missing, unknown, or of another shape; nothing is copied then.
    """
    missing = sorted(layout.keys() - full_state.keys())
    unknown = sorted(full_state.keys() - layout.keys())
    if missing or unknown:
        parts = [f"lacks {', '.join(missing[:3])}"] * bool(missing) + [f"has {', '.join(unknown[:3])}"] * bool(unknown)
        raise CheckpointError(f"not the weights of this model: it {' and '.join(parts)}", remedy=_OTHER_MODEL)
    for name, full in full_state.items():
        if tuple(full.shape) != layout[name].full_shape:
            message = f"{name} has shape {tuple(full.shape)}, this model's has {layout[name].full_shape}"
            raise CheckpointError(message, remedy=_OTHER_MODEL)
    for name, parameter in module.named_parameters():
        parameter.copy_(layout[name].cut(full_state[name], tensor_parallel_rank, tensor_parallel_size))


_OTHER_MODEL = "use the model configuration and the vocabulary that the weights were made with"


def _is_layer_norm_weight(name: str) -> bool:
    return name.endswith((".ln_1.weight", ".ln_2.weight")) or name == "ln_f.weight"


def _key(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little") >> 1
