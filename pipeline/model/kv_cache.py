"""Keys and values of the tokens read so far, so that generating a token reads only that token.

Shape suffixes: B rows, H heads of this tensor-parallel rank, S tokens, D features of a head.
"""

import torch
from torch import Tensor


class KVCache:
    """Room for the keys and values of up to `max_tokens` tokens in every layer.

    Attributes:
        length: tokens held. It advances when the last layer has stored its part.
    """

    def __init__(
        self,
        num_layers: int,
        batch_size: int,
        num_heads: int,
        max_tokens: int,
        head_dim: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_layers, batch_size, num_heads, max_tokens, head_dim)
        self._keys = torch.empty(shape, dtype=dtype, device=device)
        self._values = torch.empty(shape, dtype=dtype, device=device)
        self.length = 0

    def extend(self, layer: int, k_BHSD: Tensor, v_BHSD: Tensor) -> tuple[Tensor, Tensor]:
        """Store the keys and values of new tokens; returns those of all tokens of this layer (views)."""
        end = self.length + k_BHSD.shape[2]
        keys, values = self._keys[layer, :, :, :end], self._values[layer, :, :, :end]
        keys[:, :, self.length :] = k_BHSD
        values[:, :, self.length :] = v_BHSD
        if layer == len(self._keys) - 1:
            self.length = end
        return keys, values
