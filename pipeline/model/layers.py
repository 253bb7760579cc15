"""megatron-core's tensor-parallel layers, with the few settings that Foreword always uses.

What changes here: in a group of one, a product and its bias are one operation; the weights are left unset, because
`parameters.initialize` fills them the same way for every tensor-parallel size; they are marked as cut, so that
DeepSpeed counts them once in a norm; and megatron-core's empty `_extra_state` entries stay out of the state dict, where
DeepSpeed's converters stumble over them.

Shape suffixes: T tokens, I input features, O output features; the cut dimension is this rank's part.
"""

from typing import Any

import torch.nn.functional as F
from megatron.core import ModelParallelConfig, tensor_parallel
from megatron.core.tensor_parallel import set_tensor_model_parallel_attributes
from torch import Tensor, nn
from torch.distributed import ProcessGroup

PARALLEL_CONFIG = ModelParallelConfig(use_cpu_initialization=True, perform_initialization=False)


class TokenEmbedding(tensor_parallel.VocabParallelEmbedding):
    """ids [T] -> vectors [T, hidden_size]; the rows of the matrix are cut. The matrix is the output head as well."""

    def __init__(self, padded_vocab_size: int, hidden_size: int, group: ProcessGroup) -> None:
        super().__init__(
            padded_vocab_size, hidden_size, init_method=_left_unset, config=PARALLEL_CONFIG, tp_group=group
        )
        set_tensor_model_parallel_attributes(self.weight, is_parallel=True, dim=0, stride=1)


class ColumnParallelLinear(tensor_parallel.ColumnParallelLinear):
    """[T, I] -> [T, O] with the output features cut: each rank computes its own part of them."""

    get_extra_state = nn.Module.get_extra_state
    set_extra_state = nn.Module.set_extra_state

    def __init__(self, input_size: int, output_size: int, group: ProcessGroup) -> None:
        super().__init__(input_size, output_size, init_method=_left_unset, config=PARALLEL_CONFIG, tp_group=group)
        set_tensor_model_parallel_attributes(self.weight, is_parallel=True, dim=0, stride=1)
        self._load_state_dict_pre_hooks.clear()  # it adds the _extra_state that a strict load then refuses

    def forward(self, x_TI: Tensor) -> Tensor:
        """See the class."""
        return F.linear(x_TI, self.weight, self.bias) if self.tp_group.size() == 1 else super().forward(x_TI)[0]


class RowParallelLinear(tensor_parallel.RowParallelLinear):
    """[T, I] -> [T, O] with the input features cut: the ranks' partial results are summed. The bias is not cut."""

    get_extra_state = nn.Module.get_extra_state
    set_extra_state = nn.Module.set_extra_state

    def __init__(self, input_size: int, output_size: int, group: ProcessGroup) -> None:
        super().__init__(
            input_size,
            output_size,
            init_method=_left_unset,
            config=PARALLEL_CONFIG,
            bias=True,
            input_is_parallel=True,
            skip_bias_add=False,
            tp_group=group,
        )
        set_tensor_model_parallel_attributes(self.weight, is_parallel=True, dim=1, stride=1)
        self._load_state_dict_pre_hooks.clear()

    def forward(self, x_TI: Tensor) -> Tensor:
        """See the class."""
        return F.linear(x_TI, self.weight, self.bias) if self.tp_group.size() == 1 else super().forward(x_TI)[0]


def _left_unset(_: Any) -> None:
    raise AssertionError("megatron-core must not initialise weights; parameters.initialize does")
