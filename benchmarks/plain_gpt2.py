"""The yardstick of `make bench-train`: GPT-2 and its training step in plain PyTorch, the way nanoGPT does it.

Causal attention over whole rows through `scaled_dot_product_attention(is_causal=True)`, logits and cross-entropy of
every position at once, AdamW with weight decay on matrices, clipping; no packing, no masks, no processes to agree with.
The shape is GPT-2's with biases and the tanh GELU, and no dropout.

Shape suffixes: B rows, S columns, D hidden size, H heads, K head dimension, V vocabulary.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.config.model import ModelConfig
from pipeline.config.optimization import OptimizerConfig


class Attention(nn.Module):
    """Causal self-attention: [B, S, D] -> [B, S, D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.projection = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x_BSD: Tensor) -> Tensor:  # noqa: D102
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x_BSD).chunk(3, dim=2))
        out_BHSK = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.projection(out_BHSK.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """One layer: [B, S, D] -> [B, S, D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.ln_1, self.ln_2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.attention = Attention(config)
        self.mlp = nn.Sequential(nn.Linear(size, 4 * size), nn.GELU(approximate="tanh"), nn.Linear(4 * size, size))

    def forward(self, x_BSD: Tensor) -> Tensor:  # noqa: D102
        x_BSD = x_BSD + self.attention(self.ln_1(x_BSD))
        return x_BSD + self.mlp(self.ln_2(x_BSD))


class PlainGPT2(nn.Module):
    """The model, freshly initialised."""

    def __init__(self, config: ModelConfig, padded_vocab_size: int) -> None:
        super().__init__()
        self.wte = nn.Embedding(padded_vocab_size, config.hidden_size)
        self.wpe = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.ln_f = nn.LayerNorm(config.hidden_size)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                residual = name.endswith(("projection.weight", "mlp.2.weight"))
                nn.init.normal_(parameter, 0.0, 0.02 / (2 * config.num_layers) ** (0.5 * residual))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens_BS: Tensor, labels_BS: Tensor) -> Tensor:
        """Mean loss over all positions."""
        x_BSD = self.wte(tokens_BS) + self.wpe.weight[: tokens_BS.shape[1]]
        for block in self.blocks:
            x_BSD = block(x_BSD)
        logits_BSV = F.linear(self.ln_f(x_BSD), self.wte.weight)
        return F.cross_entropy(logits_BSV.flatten(0, 1), labels_BS.flatten())


class PlainTrainer:
    """One step after another over random windows of a flat file of tokens.

    Args:
        model: the shape.
        padded_vocab_size: rows of the embedding.
        optimizer: AdamW's settings.
        tokens: uint16 [n], memory-mapped.
        rows: rows of a step.
        sequence_length: columns of a row.
    """

    def __init__(
        self,
        model: ModelConfig,
        padded_vocab_size: int,
        optimizer: OptimizerConfig,
        tokens: np.ndarray,
        rows: int,
        sequence_length: int,
    ) -> None:
        self.model = PlainGPT2(model, padded_vocab_size)
        parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": optimizer.weight_decay},
                {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
            ],
            lr=optimizer.lr,
            betas=optimizer.betas,
        )
        self.clip = optimizer.clip_grad_norm
        self.batches = _windows(tokens, rows, sequence_length)

    def step(self) -> float:
        """One optimizer step; its loss."""
        loss = self.model(*next(self.batches))
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()


def _windows(tokens: np.ndarray, rows: int, sequence_length: int) -> Iterator[tuple[Tensor, Tensor]]:
    random = np.random.default_rng(0)
    while True:
        starts = random.integers(0, len(tokens) - sequence_length, size=rows)
        windows = np.stack([tokens[start : start + sequence_length + 1] for start in starts]).astype(np.int64)
        window_BS = torch.from_numpy(windows)
        yield window_BS[:, :-1], window_BS[:, 1:]
