"""GPT-2's layers on a tensor-parallel group.

The matrices are megatron-core's tensor-parallel layers: which part of them a rank holds, and the marks that say so.
What changes here: the products and collectives are those of `tensor_parallel`, which says why; the weights are left
unset, because `parameters.initialize` fills them the same way for every tensor-parallel size; they are marked as cut,
so that DeepSpeed counts them once in a norm; and megatron-core's empty `_extra_state` entries stay out of the state
dict, where DeepSpeed's converters stumble over them.

Layer norms and positions are not cut. Under sequence parallelism each rank uses them on its own tokens, and the
gradients are summed over the ranks (`shared_by_tokens`).

Shape suffixes: T all tokens, R this rank's tokens (see `tensor_parallel`), I input features, O output features, D
hidden size; the cut dimension is this rank's part.
"""

from typing import Any

import torch.nn.functional as F
from megatron.core import ModelParallelConfig, tensor_parallel
from megatron.core.tensor_parallel import set_tensor_model_parallel_attributes
from torch import Tensor, nn

from pipeline.model.tensor_parallel import Ranks, column_product, row_product, shared_by_tokens, sum_over_ranks

PARALLEL_CONFIG = ModelParallelConfig(use_cpu_initialization=True, perform_initialization=False)


class TokenEmbedding(tensor_parallel.VocabParallelEmbedding):
    """ids [T] -> vectors [R, D]; the rows of the matrix are cut. The matrix is the output head as well."""

    def __init__(self, padded_vocab_size: int, hidden_size: int, ranks: Ranks) -> None:
        super().__init__(
            padded_vocab_size, hidden_size, init_method=_left_unset, config=PARALLEL_CONFIG, tp_group=ranks.group
        )
        self.ranks = ranks
        set_tensor_model_parallel_attributes(self.weight, is_parallel=True, dim=0, stride=1)

    def forward(self, ids_T: Tensor) -> Tensor:
        """See the class."""
        if self.ranks.size == 1:
            return F.embedding(ids_T, self.weight)
        row_T = ids_T - self.vocab_start_index
        elsewhere_T = (row_T < 0) | (row_T >= self.num_embeddings_per_partition)
        part_TD = F.embedding(row_T.masked_fill(elsewhere_T, 0), self.weight)
        return sum_over_ranks(part_TD.masked_fill(elsewhere_T[:, None], 0.0), self.ranks)


class PositionEmbedding(nn.Embedding):
    """positions [R] -> vectors [R, D]."""

    def __init__(self, num_positions: int, hidden_size: int, ranks: Ranks) -> None:
        super().__init__(num_positions, hidden_size)
        self.ranks = ranks

    def forward(self, positions_R: Tensor) -> Tensor:
        """See the class."""
        (weight,) = shared_by_tokens(self.ranks, self.weight)
        return F.embedding(positions_R, weight)


class LayerNorm(nn.LayerNorm):
    """[R, D] -> [R, D]."""

    def __init__(self, hidden_size: int, eps: float, ranks: Ranks) -> None:
        super().__init__(hidden_size, eps=eps)
        self.ranks = ranks

    def forward(self, x_RD: Tensor) -> Tensor:
        """See the class."""
        weight, bias = shared_by_tokens(self.ranks, self.weight, self.bias)
        return F.layer_norm(x_RD, self.normalized_shape, weight, bias, self.eps)


class ColumnParallelLinear(tensor_parallel.ColumnParallelLinear):
    """[R, I] -> [T, O] with the output features cut: each rank computes its own part of them, for all tokens."""

    get_extra_state = nn.Module.get_extra_state
    set_extra_state = nn.Module.set_extra_state

    def __init__(self, input_size: int, output_size: int, ranks: Ranks) -> None:
        super().__init__(input_size, output_size, init_method=_left_unset, config=PARALLEL_CONFIG, tp_group=ranks.group)
        self.ranks = ranks
        set_tensor_model_parallel_attributes(self.weight, is_parallel=True, dim=0, stride=1)
        self._load_state_dict_pre_hooks.clear()  # it adds the _extra_state that a strict load then refuses

    def forward(self, x_RI: Tensor) -> Tensor:
        """See the class."""
        return column_product(x_RI, self.weight, self.bias, self.ranks)


class RowParallelLinear(tensor_parallel.RowParallelLinear):
    """[T, I] -> [R, O] with the input features cut: the ranks' partial results are summed. The bias is not cut."""

    get_extra_state = nn.Module.get_extra_state
    set_extra_state = nn.Module.set_extra_state

    def __init__(self, input_size: int, output_size: int, ranks: Ranks) -> None:
        super().__init__(
            input_size,
            output_size,
            init_method=_left_unset,
            config=PARALLEL_CONFIG,
            bias=True,
            input_is_parallel=True,
            skip_bias_add=False,
            tp_group=ranks.group,
        )
        self.ranks = ranks
        set_tensor_model_parallel_attributes(self.weight, is_parallel=True, dim=1, stride=1)
        self._load_state_dict_pre_hooks.clear()

    def forward(self, x_TI: Tensor) -> Tensor:
        """See the class."""
        return row_product(x_TI, self.weight, self.bias, self.ranks)


def _left_unset(_: Any) -> None:
    raise AssertionError("megatron-core must not initialise weights; parameters.initialize does")
