"""GPT-2 weights in the Hugging Face layout <-> logical parameters, to the bit.

Hugging Face's GPT-2 stores its linear layers input-first (a `Conv1D`), all queries before all keys before all values,
and a vocabulary without padding. Here they are stored output-first, interleaved by head, and padded to a multiple of
128. Both ways are transpositions and cuts, so import -> export gives back the same bits (half-precision weights come
back as fp32, with the same values).

Shape suffixes: V vocabulary, D hidden size, H heads, K head dimension, O output features.
"""

import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from data_prep.tokenizers import Tokenizer, load_tokenizer
from foreword.config import validate
from foreword.errors import ConfigError, DataError
from foreword.files import atomic_write
from pipeline.config import ModelConfig
from pipeline.model import padded_vocab_size
from pipeline.weights.directory import WeightsMeta, save_weights, whole_directory
from pipeline.weights.pretrained import Pretrained, open_pretrained

# one layer's names there -> here
LINEAR_LAYERS = {
    "attn.c_attn": "attention.qkv",
    "attn.c_proj": "attention.projection",
    "mlp.c_fc": "mlp.up",
    "mlp.c_proj": "mlp.down",
}
LAYER_NORMS = ("ln_1", "ln_2")
# causal masks that older versions saved along
_BUFFERS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
# settings of GPT2Config that change what is computed, and the only values that this model computes
SUPPORTED_SETTINGS: dict[str, tuple[Any, ...]] = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}
# file names that Hugging Face's GPT-2 tokenizer is known by
TOKENIZER_FILES = {"encoder.json": "vocab.json", "vocab.bpe": "merges.txt"}


def import_weights(hf_dir: Path, out: Path, tokenizer_path: Path | None = None) -> WeightsMeta:
    """Read a Hugging Face GPT-2 directory and write a weights directory that training can start from.

    Args:
        hf_dir: config.json, the weights as safetensors or .bin (whole or in parts), and the tokenizer.
        out: must not exist, or be empty.
        tokenizer_path: where the tokenizer is when not in `hf_dir`.

    Raises:
        DataError: a tensor or a file is missing, unknown, of another shape, or cannot be read.
        ConfigError: a setting that this model does not compute, a tokenizer that does not fit, or `out` is taken.
    """
    config, vocab_size = read_config(hf_dir)
    tokenizer = load_tokenizer(tokenizer_path or hf_dir)
    if tokenizer.vocab_size > vocab_size:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} ids and the model {vocab_size}",
            where=tokenizer_path or hf_dir,
            remedy="give the model's own tokenizer with --tokenizer",
        )
    full_state = to_logical(read_tensors(hf_dir), config, vocab_size, where=hf_dir)
    return save_weights(
        out,
        full_state,
        model=config,
        vocab_size=vocab_size,
        objective={"causal": 1.0},
        tokenizer=tokenizer,
        source=f"Hugging Face GPT-2 weights from {hf_dir}",
    )


def export_weights(path: Path, out: Path) -> Pretrained:
    """Write a Hugging Face directory that GPT2LMHeadModel loads, from a run, a checkpoint or a weights directory.

    The vocabulary's padding is left out, and with it a mask token that lies there.

    Returns:
        What was exported: how it reads prompts is not written, and GPT2LMHeadModel reads every prompt causally.

    Raises:
        CheckpointError: `path` holds no intact weights.
        ConfigError: `out` is taken.
    """
    pretrained = open_pretrained(path)
    tokenizer = pretrained.load_tokenizer()
    tensors = from_logical(pretrained.load_weights(), pretrained.config, pretrained.vocab_size)
    with whole_directory(out) as temporary:
        save_file(tensors, temporary / "model.safetensors", metadata={"format": "pt"})
        for name, content in tokenizer.files.items():
            (temporary / TOKENIZER_FILES.get(name, name)).write_bytes(content)
        with atomic_write(temporary / "config.json", "w") as file:
            file.write(json.dumps(hf_config(pretrained.config, pretrained.vocab_size, tokenizer), indent=2) + "\n")
    return pretrained


def read_config(hf_dir: Path) -> tuple[ModelConfig, int]:
    """The model's shape and vocabulary from config.json; raises as `import_weights` does."""
    path = hf_dir / "config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path, remedy="give a model's directory") from None
    except ValueError as error:
        raise DataError(f"not valid JSON: {error}", where=path) from None
    for name, supported in SUPPORTED_SETTINGS.items():
        if name in settings and settings[name] not in supported:
            raise ConfigError(f"{name} is {settings[name]!r}; only {supported[0]!r} is supported", where=path)
    missing = [name for name in ("n_layer", "n_embd", "n_head", "vocab_size") if name not in settings]
    if missing:
        raise DataError(f"lacks {', '.join(missing)}", where=path)
    shape = {
        "num_layers": settings["n_layer"],
        "hidden_size": settings["n_embd"],
        "num_attention_heads": settings["n_head"],
        "max_position_embeddings": settings.get("n_positions", 1024),
        "layer_norm_eps": settings.get("layer_norm_epsilon", 1e-5),
        "initializer_range": settings.get("initializer_range", 0.02),
    }
    config, vocab_size = validate(shape, ModelConfig, [path]), settings["vocab_size"]
    if settings.get("n_inner") not in (None, 4 * config.hidden_size):
        raise ConfigError(f"n_inner is {settings['n_inner']}; only 4 x n_embd is supported", where=path)
    if not isinstance(vocab_size, int) or vocab_size < 1:
        raise DataError(f"vocab_size is {vocab_size!r}, not a number of tokens", where=path)
    return config, vocab_size


def read_tensors(hf_dir: Path) -> dict[str, Tensor]:
    """All tensors of a model directory, on the CPU; raises as `import_weights` does."""
    for whole, index in (
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ):
        if (hf_dir / whole).is_file():
            return _read_file(hf_dir / whole)
        if (hf_dir / index).is_file():
            try:
                parts = sorted(set(json.loads((hf_dir / index).read_text(encoding="utf-8"))["weight_map"].values()))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                raise DataError("does not say which file holds which tensor", where=hf_dir / index) from None
            return {name: tensor for part in parts for name, tensor in _read_file(hf_dir / part).items()}
    raise DataError("no model.safetensors or pytorch_model.bin, whole or in parts", where=hf_dir)


def to_logical(
    tensors: Mapping[str, Tensor], config: ModelConfig, vocab_size: int, *, where: Path
) -> dict[str, Tensor]:
    """Hugging Face's tensors -> logical parameters (fp32, full shape, zeros for the vocabulary's padding).

    Raises:
        DataError: a tensor is missing, unknown or of another shape, or the head is not tied to the embedding.
    """
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    tensors = {name: tensor.float() for name, tensor in tensors.items() if not _BUFFERS.fullmatch(name)}
    head = tensors.pop("lm_head.weight", None)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    expected = _hf_shapes(config, vocab_size)
    problems = [f"lacks {name}" for name in expected.keys() - shapes.keys()]
    problems += [f"has {name}, which GPT-2 does not" for name in shapes.keys() - expected.keys()]
    problems += [
        f"{name} has shape {shapes[name]}, expected {shape}"
        for name, shape in expected.items()
        if shapes.get(name, shape) != shape
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DataError(f"not the tensors that config.json describes: {min(problems)}{more}", where=where)
    if head is not None and not torch.equal(head, tensors["wte.weight"]):
        raise DataError("lm_head.weight is not the embedding; only tied weights are supported", where=where)

    full_state = {
        "wte.weight": F.pad(tensors["wte.weight"], (0, 0, 0, padded_vocab_size(vocab_size) - vocab_size)),
        "wpe.weight": tensors["wpe.weight"],
    }
    for layer in range(config.num_layers):
        for there, here in LINEAR_LAYERS.items():
            weight_OD = tensors[f"h.{layer}.{there}.weight"].T
            bias_O = tensors[f"h.{layer}.{there}.bias"]
            if here == "attention.qkv":
                weight_OD, bias_O = _by_head(weight_OD, config), _by_head(bias_O, config)
            full_state[f"blocks.{layer}.{here}.weight"] = weight_OD.contiguous()
            full_state[f"blocks.{layer}.{here}.bias"] = bias_O
        for norm in LAYER_NORMS:
            for part in ("weight", "bias"):
                full_state[f"blocks.{layer}.{norm}.{part}"] = tensors[f"h.{layer}.{norm}.{part}"]
    return full_state | {f"ln_f.{part}": tensors[f"ln_f.{part}"] for part in ("weight", "bias")}


def from_logical(full_state: Mapping[str, Tensor], config: ModelConfig, vocab_size: int) -> dict[str, Tensor]:
    """Logical parameters -> the tensors of a GPT2LMHeadModel with a tied head."""
    tensors = {
        "transformer.wte.weight": full_state["wte.weight"][:vocab_size].contiguous(),
        "transformer.wpe.weight": full_state["wpe.weight"],
    }
    for layer in range(config.num_layers):
        for there, here in LINEAR_LAYERS.items():
            weight_OD = full_state[f"blocks.{layer}.{here}.weight"]
            bias_O = full_state[f"blocks.{layer}.{here}.bias"]
            if here == "attention.qkv":
                weight_OD, bias_O = _by_kind(weight_OD, config), _by_kind(bias_O, config)
            tensors[f"transformer.h.{layer}.{there}.weight"] = weight_OD.T.contiguous()
            tensors[f"transformer.h.{layer}.{there}.bias"] = bias_O.contiguous()
        for norm in LAYER_NORMS:
            for part in ("weight", "bias"):
                tensors[f"transformer.h.{layer}.{norm}.{part}"] = full_state[f"blocks.{layer}.{norm}.{part}"]
    return tensors | {f"transformer.ln_f.{part}": full_state[f"ln_f.{part}"] for part in ("weight", "bias")}


def hf_config(config: ModelConfig, vocab_size: int, tokenizer: Tokenizer) -> dict[str, Any]:
    """The contents of config.json. Dropout is 0, as in training here."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "n_layer": config.num_layers,
        "n_embd": config.hidden_size,
        "n_head": config.num_attention_heads,
        "n_positions": config.max_position_embeddings,
        "n_ctx": config.max_position_embeddings,
        "vocab_size": vocab_size,
        "layer_norm_epsilon": config.layer_norm_eps,
        "initializer_range": config.initializer_range,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "bos_token_id": tokenizer.eod_id,
        "eos_token_id": tokenizer.eod_id,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise DataError(f"cannot be read as weights: {str(error).splitlines()[0]}", where=path) from None


def _hf_shapes(config: ModelConfig, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """Names (without "transformer.") and shapes of a GPT-2's tensors in the Hugging Face layout."""
    hidden = config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (vocab_size, hidden),
        "wpe.weight": (config.max_position_embeddings, hidden),
        "ln_f.weight": (hidden,),
        "ln_f.bias": (hidden,),
    }
    sizes = {
        "attn.c_attn": (hidden, 3 * hidden),
        "attn.c_proj": (hidden, hidden),
        "mlp.c_fc": (hidden, 4 * hidden),
        "mlp.c_proj": (4 * hidden, hidden),
    }
    for layer in range(config.num_layers):
        for name, size in sizes.items():
            shapes[f"h.{layer}.{name}.weight"] = size
            shapes[f"h.{layer}.{name}.bias"] = size[1:]
        for norm in LAYER_NORMS:
            shapes |= {f"h.{layer}.{norm}.{part}": (hidden,) for part in ("weight", "bias")}
    return shapes


def _by_head(qkv: Tensor, config: ModelConfig) -> Tensor:
    """Rows ordered (q | k | v, head, feature) -> (head, q | k | v, feature); weight [O, D] or bias [O]."""
    heads = config.num_attention_heads
    return qkv.reshape(3, heads, -1, *qkv.shape[1:]).transpose(0, 1).reshape(qkv.shape)


def _by_kind(qkv: Tensor, config: ModelConfig) -> Tensor:
    """The inverse of `_by_head`."""
    heads = config.num_attention_heads
    return qkv.reshape(heads, 3, -1, *qkv.shape[1:]).transpose(0, 1).reshape(qkv.shape)
