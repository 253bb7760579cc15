"""GPT-2 on megatron-core's tensor-parallel layers: a batch -> the sum of its negative log-likelihoods, or logits.

Exactly GPT-2: learned positions, layer norm before each sublayer, tanh GELU, biases, and one matrix for embedding and
head. What a token sees is the attention plan's business alone (`pipeline.attention`); here everything else acts on
single tokens, so hidden states are kept as one flat list of tokens.

Each rank of a tensor-parallel group has a part of the heads, of the MLP's features and of the vocabulary; hidden states
are the same on all of them.

Shape suffixes
    B rows   S sequence length   T = B * S tokens   N scored tokens   D hidden size
    H this rank's heads   K head dimension   F this rank's MLP features   V the vocabulary without padding
"""

from typing import Literal

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from foreword.errors import ConfigError
from pipeline.attention import AttentionBackend, AttentionPlan
from pipeline.attention.sdpa import SdpaBackend
from pipeline.config import ModelConfig
from pipeline.data.batch import Batch
from pipeline.model import loss, parameters
from pipeline.model.kv_cache import KVCache
from pipeline.model.layers import ColumnParallelLinear, RowParallelLinear, TokenEmbedding
from pipeline.vocabulary import padded_vocab_size


class Attention(nn.Module):
    """Multi-head self-attention.

    The rows of `qkv` are ordered (head, q | k | v, feature): a cut between heads is a cut of one block.
    """

    def __init__(self, config: ModelConfig, group: ProcessGroup) -> None:
        super().__init__()
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.qkv = ColumnParallelLinear(config.hidden_size, 3 * config.hidden_size, group)
        self.projection = RowParallelLinear(config.hidden_size, config.hidden_size, group)

    def forward(self, x_TD: Tensor, batch_size: int, plan: AttentionPlan, cache: KVCache | None, layer: int) -> Tensor:
        """[T, D] -> [T, D]."""
        qkv_BSH3K = self.qkv(x_TD).view(batch_size, x_TD.shape[0] // batch_size, -1, 3, self.head_dim)
        q_BHSK, k_BHSK, v_BHSK = qkv_BSH3K.permute(3, 0, 2, 1, 4)
        if cache is not None:
            k_BHSK, v_BHSK = cache.extend(layer, k_BHSK, v_BHSK)
        out_BHSK = plan.attend(q_BHSK, k_BHSK, v_BHSK)
        return self.projection(out_BHSK.transpose(1, 2).reshape(x_TD.shape[0], -1))


class MLP(nn.Module):
    """Two linear layers with a tanh GELU between them."""

    def __init__(self, config: ModelConfig, group: ProcessGroup) -> None:
        super().__init__()
        self.up = ColumnParallelLinear(config.hidden_size, 4 * config.hidden_size, group)
        self.down = RowParallelLinear(4 * config.hidden_size, config.hidden_size, group)

    def forward(self, x_TD: Tensor) -> Tensor:
        """[T, D] -> [T, D]."""
        return self.down(F.gelu(self.up(x_TD), approximate="tanh"))


class Block(nn.Module):
    """One transformer layer."""

    def __init__(self, config: ModelConfig, group: ProcessGroup) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = Attention(config, group)
        self.ln_2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config, group)

    def forward(self, x_TD: Tensor, batch_size: int, plan: AttentionPlan, cache: KVCache | None, layer: int) -> Tensor:
        """[T, D] -> [T, D]."""
        x_TD = x_TD + self.attention(self.ln_1(x_TD), batch_size, plan, cache, layer)
        return x_TD + self.mlp(self.ln_2(x_TD))


class GPT2(nn.Module):
    """The model; make one with `build_model`.

    Attributes:
        vocab_size: ids in use; the embedding has `padded_vocab_size(vocab_size)` rows.
        layout: name -> `ParameterLayout` of every parameter.
        group: the tensor-parallel group.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, backend: AttentionBackend, group: ProcessGroup) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.backend = backend
        self.group = group
        self.wte = TokenEmbedding(padded_vocab_size(vocab_size), config.hidden_size, group)
        self.wpe = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config, group) for _ in range(config.num_layers))
        self.ln_f = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layout = parameters.layout_of(self, group.size())

    def forward(self, batch: Batch, reduction: Literal["sum", "none"] = "sum") -> Tensor:
        """Negative log-likelihood of the batch's scored labels, in nats, fp32, the same on every tensor-parallel rank.

        Args:
            batch: the rows, on the model's device.
            reduction: "sum" gives a scalar with gradients, also when nothing is scored; "none" gives [N] in the order
                of `batch.scored_N`, without gradients.

        Raises:
            ConfigError: rows longer than the model has positions.
        """
        if batch.tokens_BS.shape[1] > self.config.max_position_embeddings:
            raise ConfigError(
                f"rows of {batch.tokens_BS.shape[1]} tokens, but the model has "
                f"{self.config.max_position_embeddings} positions",
                where="model.max_position_embeddings",
                remedy="use a corpus with a smaller sequence_length or a model with more positions",
            )
        hidden_TD = self.hidden(batch.tokens_BS, batch.position_ids_BS, self.backend.prepare(batch))
        hidden_ND = hidden_TD[batch.scored_N]
        labels_N = batch.labels_BS.flatten()[batch.scored_N]
        score = loss.scored_nll_sum if reduction == "sum" else loss.scored_nll
        return score(hidden_ND, self.wte.weight, labels_N, self.vocab_size, self.group)

    def hidden(
        self, tokens_BS: Tensor, position_ids_BS: Tensor, plan: AttentionPlan, cache: KVCache | None = None
    ) -> Tensor:
        """Final hidden states [T, D], after the last layer norm.

        Args:
            tokens_BS: int64; with a cache, only the tokens that are not in it yet.
            position_ids_BS: int64, below `max_position_embeddings`.
            plan: which keys each token sees; with a cache, the keys are those of the cached tokens and then the new.
            cache: keys and values of earlier tokens; it receives the new ones.
        """
        batch_size = tokens_BS.shape[0]
        x_TD = self.wte(tokens_BS.flatten()) + self.wpe(position_ids_BS.flatten())
        for layer, block in enumerate(self.blocks):
            x_TD = block(x_TD, batch_size, plan, cache, layer)
        return self.ln_f(x_TD)

    @torch.no_grad()
    def logits(self, hidden_TD: Tensor) -> Tensor:
        """Logits over the whole vocabulary for final hidden states, [T, V] in their dtype, on every rank."""
        part = hidden_TD @ self.wte.weight.T
        parts = [torch.empty_like(part) for _ in range(self.group.size())]
        torch.distributed.all_gather(parts, part, group=self.group)
        return torch.cat(parts, dim=-1)[:, : self.vocab_size]

    def new_cache(self, batch_size: int, max_tokens: int) -> KVCache:
        """An empty cache for `batch_size` rows of up to `max_tokens` tokens."""
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        heads = self.config.num_attention_heads // self.group.size()
        weight = self.ln_f.weight
        return KVCache(
            self.config.num_layers, batch_size, heads, max_tokens, head_dim, dtype=weight.dtype, device=weight.device
        )


def build_model(config: ModelConfig, vocab_size: int, *, backend: AttentionBackend | None = None, seed: int) -> GPT2:
    """A freshly initialised model in fp32 on the CPU: this tensor-parallel rank's part of it.

    The logical weights depend on (config, vocab_size, seed) alone, not on the tensor-parallel size. Needs
    `pipeline.distributed.parallel.initialize` before it. Without a `backend` attention is `sdpa`, which runs anywhere.

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
    model = GPT2(config, vocab_size, backend or SdpaBackend(), group)
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
    parameters.load(model, model.layout, full_state, model.group.rank(), model.group.size())
