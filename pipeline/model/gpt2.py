"""GPT-2 on megatron-core's tensor-parallel layers: a batch -> the sum of its negative log-likelihoods, or logits.

Exactly GPT-2: learned positions, layer norm before each sublayer, tanh GELU, biases, and one matrix for embedding and
head. What a token sees is the attention plan's business alone (`pipeline.attention`); here everything else acts on
single tokens, so hidden states are kept as one flat list of tokens.

Each rank of a tensor-parallel group has a part of the heads, of the MLP's features and of the vocabulary. Between these
hidden states are the same on all of them, or with sequence parallelism each has its part of the tokens.

Shape suffixes
    B rows   S sequence length   T = B * S tokens   R this rank's tokens: all, or T / tensor-parallel size
    N scored tokens   D hidden size   H this rank's heads   K head dimension   V the vocabulary without padding
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from torch import Tensor, nn

from foreword.errors import ConfigError
from pipeline.attention import AttentionBackend, AttentionPlan
from pipeline.attention.sdpa import SdpaBackend
from pipeline.config.model import ModelConfig
from pipeline.data.batch import Batch
from pipeline.model import loss, parameters
from pipeline.model.kv_cache import KVCache
from pipeline.model.layers import ColumnParallelLinear, LayerNorm, PositionEmbedding, RowParallelLinear, TokenEmbedding
from pipeline.model.tensor_parallel import Ranks, gather_for_parts
from pipeline.vocabulary import padded_vocab_size


class Attention(nn.Module):
    """Multi-head self-attention.

    The rows of `qkv` are ordered (head, q | k | v, feature): a cut between heads is a cut of one block.
    """

    def __init__(self, config: ModelConfig, ranks: Ranks) -> None:
        super().__init__()
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.qkv = ColumnParallelLinear(config.hidden_size, 3 * config.hidden_size, ranks)
        self.projection = RowParallelLinear(config.hidden_size, config.hidden_size, ranks)

    def forward(self, x_RD: Tensor, batch_size: int, plan: AttentionPlan, cache: KVCache | None, layer: int) -> Tensor:
        """[R, D] -> [R, D]."""
        qkv_TO = self.qkv(x_RD)
        num_tokens = qkv_TO.shape[0]
        qkv_BSH3K = qkv_TO.view(batch_size, num_tokens // batch_size, -1, 3, self.head_dim)
        q_BHSK, k_BHSK, v_BHSK = qkv_BSH3K.permute(3, 0, 2, 1, 4)
        if cache is not None:
            k_BHSK, v_BHSK = cache.extend(layer, k_BHSK, v_BHSK)
        out_BHSK = plan.attend(q_BHSK, k_BHSK, v_BHSK)
        return self.projection(out_BHSK.transpose(1, 2).reshape(num_tokens, -1))


class MLP(nn.Module):
    """Two linear layers with a tanh GELU between them."""

    def __init__(self, config: ModelConfig, ranks: Ranks) -> None:
        super().__init__()
        self.up = ColumnParallelLinear(config.hidden_size, 4 * config.hidden_size, ranks)
        self.down = RowParallelLinear(4 * config.hidden_size, config.hidden_size, ranks)

    def forward(self, x_RD: Tensor) -> Tensor:
        """[R, D] -> [R, D]."""
        return self.down(F.gelu(self.up(x_RD), approximate="tanh"))


class Block(nn.Module):
    """One transformer layer."""

    def __init__(self, config: ModelConfig, ranks: Ranks) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.hidden_size, config.layer_norm_eps, ranks)
        self.attention = Attention(config, ranks)
        self.ln_2 = LayerNorm(config.hidden_size, config.layer_norm_eps, ranks)
        self.mlp = MLP(config, ranks)

    def forward(self, x_RD: Tensor, batch_size: int, plan: AttentionPlan, cache: KVCache | None, layer: int) -> Tensor:
        """[R, D] -> [R, D]."""
        x_RD = x_RD + self.attention(self.ln_1(x_RD), batch_size, plan, cache, layer)
        return x_RD + self.mlp(self.ln_2(x_RD))


class GPT2(nn.Module):
    """The model; make one with `build_model`.

    Attributes:
        vocab_size: ids in use; the embedding has `padded_vocab_size(vocab_size)` rows.
        layout: name -> `ParameterLayout` of every parameter.
        ranks: the tensor-parallel group, and whether it cuts the tokens.
        z_loss: weight of the squared log normaliser in the gradient, see `loss`.
        chunk_loss: what the loss is computed by; `loss.chunk_loss`, or it compiled.
        whole: brings a parameter together for use outside of a module's forward pass, where the engine cuts parameters.
    """

    def __init__(
        self, config: ModelConfig, vocab_size: int, backend: AttentionBackend, ranks: Ranks, z_loss: float = 0.0
    ) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.backend = backend
        self.ranks = ranks
        self.z_loss = z_loss
        self.chunk_loss: loss.ChunkLoss = loss.chunk_loss
        self.whole: Callable[[nn.Parameter], AbstractContextManager] = nullcontext
        self.wte = TokenEmbedding(padded_vocab_size(vocab_size), config.hidden_size, ranks)
        self.wpe = PositionEmbedding(config.max_position_embeddings, config.hidden_size, ranks)
        self.blocks = nn.ModuleList(Block(config, ranks) for _ in range(config.num_layers))
        self.ln_f = LayerNorm(config.hidden_size, config.layer_norm_eps, ranks)
        self.layout = parameters.layout_of(self, ranks.size)

    def forward(self, batch: Batch, reduction: Literal["sum", "none", "scores"] = "sum") -> Tensor:
        """Negative log-likelihood of the batch's scored labels, in nats, fp32, the same on every tensor-parallel rank.

        Args:
            batch: the rows, on the model's device.
            reduction: "sum" gives a scalar with gradients (and z-loss in these), also when nothing is scored; "none"
                gives [N] in the order of `batch.scored_N`, without gradients; "scores" gives [2, N], these and below
                them 1 where the label is the likeliest id, else 0.

        Raises:
            ConfigError: rows longer than the model has positions, or with sequence parallelism a number of tokens that
                the ranks cannot share equally.
        """
        if batch.tokens_BS.shape[1] > self.config.max_position_embeddings:
            raise ConfigError(
                f"rows of {batch.tokens_BS.shape[1]} tokens, but the model has "
                f"{self.config.max_position_embeddings} positions",
                where="model.max_position_embeddings",
                remedy="use a corpus with a smaller sequence_length or a model with more positions",
            )
        if self.ranks.sequence_parallel and batch.tokens_BS.numel() % self.ranks.size:
            raise ConfigError(
                f"micro-batches of {batch.tokens_BS.numel()} tokens are not {self.ranks.size} equal parts",
                where="parallel.sequence_parallel",
                remedy=f"use a batch.micro_batch_size that is a multiple of {self.ranks.size}, or turn it off",
                on_all_ranks=True,
            )
        hidden_TD = self.hidden(batch.tokens_BS, batch.position_ids_BS, self.backend.prepare(batch))
        hidden_ND = hidden_TD.index_select(0, batch.scored_N)
        labels_N = batch.labels_BS.flatten().index_select(0, batch.scored_N)
        scored = (hidden_ND, self.wte.weight, labels_N, self.vocab_size, self.ranks)
        if reduction == "none":
            return loss.scored_nll(*scored)
        if reduction == "scores":
            return loss.scored_nll_and_hits(*scored)
        return loss.scored_nll_sum(*scored, z_loss=self.z_loss, compute=self.chunk_loss)

    def hidden(
        self, tokens_BS: Tensor, position_ids_BS: Tensor, plan: AttentionPlan, cache: KVCache | None = None
    ) -> Tensor:
        """Final hidden states [T, D] of all tokens, after the last layer norm; the same on every tensor-parallel rank.

        With sequence parallelism their gradient is the sum of what the ranks hand in; see `loss`.

        Args:
            tokens_BS: int64; with a cache, only the tokens that are not in it yet.
            position_ids_BS: int64, below `max_position_embeddings`.
            plan: which keys each token sees; with a cache, the keys are those of the cached tokens and then the new.
            cache: keys and values of earlier tokens; it receives the new ones.
        """
        batch_size = tokens_BS.shape[0]
        x_RD = self.wte(tokens_BS.flatten()) + self.wpe(self.ranks.own_tokens(position_ids_BS.flatten()))
        for layer, block in enumerate(self.blocks):
            x_RD = block(x_RD, batch_size, plan, cache, layer)
        return gather_for_parts(self.ln_f(x_RD), self.ranks)

    @torch.no_grad()
    def logits(self, hidden_TD: Tensor) -> Tensor:
        """Logits over the whole vocabulary for final hidden states, [T, V] in their dtype, on every rank."""
        with self.whole(self.wte.weight):
            part = hidden_TD @ self.wte.weight.T
        parts = [torch.empty_like(part) for _ in range(self.ranks.size)]
        torch.distributed.all_gather(parts, part, group=self.ranks.group)
        return torch.cat(parts, dim=-1)[:, : self.vocab_size]

    @contextmanager
    def keeping_all_tokens(self) -> Iterator[None]:
        """Without sequence parallelism inside of the block: a few tokens cannot be shared equally."""
        layers: list[Any] = [layer for layer in self.modules() if isinstance(getattr(layer, "ranks", None), Ranks)]
        before = [layer.ranks for layer in layers]
        try:
            for layer in layers:
                layer.ranks = replace(layer.ranks, sequence_parallel=False)
            yield
        finally:
            for layer, ranks in zip(layers, before, strict=True):
                layer.ranks = ranks

    def new_cache(self, batch_size: int, max_tokens: int) -> KVCache:
        """An empty cache for `batch_size` rows of up to `max_tokens` tokens."""
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        heads = self.config.num_attention_heads // self.ranks.size
        weight = self.ln_f.weight
        return KVCache(
            self.config.num_layers, batch_size, heads, max_tokens, head_dim, dtype=weight.dtype, device=weight.device
        )


def build_model(
    config: ModelConfig,
    vocab_size: int,
    *,
    backend: AttentionBackend | None = None,
    seed: int | None,
    sequence_parallel: bool = False,
    z_loss: float = 0.0,
) -> GPT2:
    """A freshly initialised model in fp32 on the CPU: this tensor-parallel rank's part of it.

    The logical weights depend on (config, vocab_size, seed) alone, not on the tensor-parallel size; without a seed they
    are left unset, for who will load all of them. Needs `pipeline.distributed.parallel.initialize` before it. Without a
    `backend` attention is `sdpa`, which runs anywhere.

    Raises:
        ConfigError: the tensor-parallel size does not divide the heads or the vocabulary.
    """
    group = parallel_state.get_tensor_model_parallel_group()
    for what, number in (
        ("the number of attention heads", config.num_attention_heads),
        ("the padded vocabulary", padded_vocab_size(vocab_size)),
    ):
        if number % group.size():
            raise ConfigError(
                f"{group.size()} does not divide {what}, {number}",
                where="parallel.tensor_parallel_size",
                remedy="use a tensor-parallel size that divides both the heads and 128",
            )
    ranks = Ranks.of(group, sequence_parallel=sequence_parallel)
    model = GPT2(config, vocab_size, backend or SdpaBackend(), ranks, z_loss)
    if seed is not None:
        parameters.initialize(model, model.layout, config, seed, group.rank(), group.size())
    return model


def parameter_layout(model: GPT2) -> dict[str, parameters.ParameterLayout]:
    """Name -> full shape and cut dimension of every parameter; the names are those of the state dict."""
    return dict(model.layout)


def load_full_state(model: GPT2, full_state: dict[str, Tensor]) -> None:
    """Load logical fp32 tensors (name -> full tensor) into this rank's part of a model, before ZeRO cuts it further.

    Raises:
        CheckpointError: the names or shapes are not those of this model.
    """
    parameters.load(model, model.layout, full_state, model.ranks.rank, model.ranks.size)
