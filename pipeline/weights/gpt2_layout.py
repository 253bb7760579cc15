"""One tensor of GPT-2 in the Hugging Face layout <-> the logical parameter, to the bit.

Hugging Face's GPT-2 stores its linear layers input-first (a `Conv1D`), all queries before all keys before all values,
and a vocabulary without padding. Here they are stored output-first, interleaved by head, and padded to a multiple of
128. Both ways are transpositions and cuts, so import -> export gives back the same bits (half-precision weights come
back as fp32, with the same values).

Shape suffixes: V vocabulary, D hidden size, O output features.
"""

import torch.nn.functional as F
from torch import Tensor

from pipeline.config.model import ModelConfig
from pipeline.model.gpt2 import padded_vocab_size

EMBEDDING = "wte.weight"
# one layer's names there -> here
_MODULES = {
    "attn.c_attn": "attention.qkv",
    "attn.c_proj": "attention.projection",
    "mlp.c_fc": "mlp.up",
    "mlp.c_proj": "mlp.down",
    "ln_1": "ln_1",
    "ln_2": "ln_2",
}


def hf_names(num_layers: int) -> dict[str, str]:
    """Logical name -> its name there, without "transformer.", of every parameter."""
    names = {EMBEDDING: EMBEDDING, "wpe.weight": "wpe.weight"}
    for layer in range(num_layers):
        for there, here in _MODULES.items():
            names |= {f"blocks.{layer}.{here}.{part}": f"h.{layer}.{there}.{part}" for part in ("weight", "bias")}
    return names | {f"ln_f.{part}": f"ln_f.{part}" for part in ("weight", "bias")}


def hf_shapes(config: ModelConfig, num_rows: int) -> dict[str, tuple[int, ...]]:
    """Name there -> shape there, of a model whose embedding has `num_rows` rows."""
    hidden = config.hidden_size
    sizes = {
        "attn.c_attn": (hidden, 3 * hidden),
        "attn.c_proj": (hidden, hidden),
        "mlp.c_fc": (hidden, 4 * hidden),
        "mlp.c_proj": (4 * hidden, hidden),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for name in hf_names(config.num_layers).values():
        module, part = name.rsplit(".", 1)
        size = sizes.get(module.split(".", 2)[-1], (hidden,))
        shapes[name] = size if part == "weight" else size[-1:]
    return shapes | {EMBEDDING: (num_rows, hidden), "wpe.weight": (config.max_position_embeddings, hidden)}


def logical_shapes(config: ModelConfig, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """Logical name -> full shape."""
    there = hf_shapes(config, padded_vocab_size(vocab_size))
    return {
        name: there[hf_name][::-1] if _is_transposed(name) else there[hf_name]
        for name, hf_name in hf_names(config.num_layers).items()
    }


def to_logical(name: str, tensor: Tensor, config: ModelConfig, vocab_size: int) -> Tensor:
    """The logical parameter `name` (fp32, zeros for what the vocabulary's padding lacks) from the tensor there."""
    tensor = tensor.float()
    if name == EMBEDDING:
        return F.pad(tensor, (0, 0, 0, padded_vocab_size(vocab_size) - len(tensor)))
    if _is_transposed(name):
        tensor = tensor.T
    return (_by_head(tensor, config) if ".qkv." in name else tensor).contiguous()


def from_logical(name: str, parameter: Tensor, config: ModelConfig, num_rows: int) -> Tensor:
    """The tensor there from the logical parameter `name`; of the embedding the first `num_rows` rows."""
    if name == EMBEDDING:
        return parameter[:num_rows]
    if ".qkv." in name:
        parameter = _by_kind(parameter, config)
    return (parameter.T if _is_transposed(name) else parameter).contiguous()


def _is_transposed(name: str) -> bool:
    return name.endswith(".weight") and (".attention." in name or ".mlp." in name)


def _by_head(qkv: Tensor, config: ModelConfig) -> Tensor:
    """Rows ordered (q | k | v, head, feature) -> (head, q | k | v, feature); weight [O, D] or bias [O]."""
    heads = config.num_attention_heads
    return qkv.reshape(3, heads, -1, *qkv.shape[1:]).transpose(0, 1).reshape(qkv.shape)


def _by_kind(qkv: Tensor, config: ModelConfig) -> Tensor:
    """The inverse of `_by_head`."""
    heads = config.num_attention_heads
    return qkv.reshape(heads, 3, -1, *qkv.shape[1:]).transpose(0, 1).reshape(qkv.shape)
