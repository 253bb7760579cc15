"""A directory with GPT-2 in the Hugging Face layout, read: its config.json, and its weights as logical parameters.

The weights may be safetensors or .bin files, whole or in parts, of any age: GPT-2's and DialoGPT's own, and those that
`foreword export` wrote. They are read one tensor at a time through memory maps. (.bin files from before PyTorch 1.6,
DialoGPT's among them, cannot be mapped and are loaded as they are.)
"""

import json
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from data_prep.tokenizers import Tokenizer, load_tokenizer
from foreword.config import Section, validate
from foreword.errors import ConfigError, DataError
from pipeline.config.model import ModelConfig
from pipeline.config.objective import Objectives, PromptReading
from pipeline.vocabulary import padded_vocab_size
from pipeline.weights.gpt2_layout import EMBEDDING, hf_names, hf_shapes, to_logical

CONFIG_NAME = "config.json"
# what an export adds to config.json
OWN_KEY = "foreword"
# causal masks that older versions saved along
_BUFFERS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
_HEAD = "lm_head.weight"
# settings of GPT2Config that change what is computed, and the only values that this model computes
SUPPORTED_SETTINGS: dict[str, tuple[Any, ...]] = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}


class ExportNotes(Section):
    """What GPT2Config has no word for, under "foreword" in config.json.

    Attributes:
        objective: name -> weight, that the weights were trained with.
        prompt_reading: how prompts are read by default, which follows from it.
        vocab_size: ids that the tokenizer knows; the embedding may have a row more, for the mask token.
        mask_token_id: what masked tokens are read as; None where there are none, or where it was not exported.
    """

    objective: Objectives
    prompt_reading: PromptReading
    vocab_size: int
    mask_token_id: int | None = None


@dataclass(frozen=True)
class HuggingFaceConfig:
    """What config.json says.

    Attributes:
        model: the shape.
        num_rows: of the embedding there.
        eos_token_id: the token that ends a document, where it says.
        notes: what an export says of itself; of other models, that they are causal.
    """

    model: ModelConfig
    num_rows: int
    eos_token_id: int | None
    notes: ExportNotes


def is_hugging_face(directory: Path) -> bool:
    """Whether this is a model's directory in the Hugging Face layout, as far as its config.json says."""
    try:
        return "model_type" in json.loads((directory / CONFIG_NAME).read_bytes())
    except (OSError, ValueError, TypeError):
        return False


def read_config(directory: Path) -> HuggingFaceConfig:
    """Read config.json.

    Raises:
        DataError: it cannot be read or lacks something.
        ConfigError: a setting that this model does not compute.
    """
    path = directory / CONFIG_NAME
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path, remedy="give a model's directory") from None
    except ValueError as error:
        raise DataError(f"not valid JSON: {error}", where=path) from None
    if not isinstance(settings, dict):
        raise DataError("not a JSON object", where=path)
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
    model, num_rows = validate(shape, ModelConfig, [path]), settings["vocab_size"]
    if settings.get("n_inner") not in (None, 4 * model.hidden_size):
        raise ConfigError(f"n_inner is {settings['n_inner']}; only 4 x n_embd is supported", where=path)
    if not isinstance(num_rows, int) or num_rows < 1:
        raise DataError(f"vocab_size is {num_rows!r}, not a number of tokens", where=path)
    eos_token_id = settings.get("eos_token_id")
    if not isinstance(eos_token_id, int) or not 0 <= eos_token_id < num_rows:
        eos_token_id = None  # a small model's config.json may have GPT-2's, which is its default
    return HuggingFaceConfig(model, num_rows, eos_token_id, _notes(settings.get(OWN_KEY), num_rows, path))


def _notes(written: Any, num_rows: int, path: Path) -> ExportNotes:
    if written is None:
        return ExportNotes(objective={"causal": 1.0}, prompt_reading="causal", vocab_size=num_rows)
    try:
        notes = ExportNotes.model_validate(written)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([OWN_KEY, *map(str, first["loc"])])
        raise DataError(f"{place}: {first['msg']}", where=path, remedy=f"export again, or remove {OWN_KEY}") from None
    fits = 0 < notes.vocab_size <= num_rows <= padded_vocab_size(notes.vocab_size)
    if not fits or (notes.mask_token_id is not None and not 0 <= notes.mask_token_id < num_rows):
        raise DataError(f"{OWN_KEY} does not fit the vocab_size of {num_rows}", where=path)
    return notes


def load_own_tokenizer(directory: Path, config: HuggingFaceConfig, path: Path | None = None) -> Tokenizer:
    """The tokenizer of a model's directory, or another one at `path`.

    Raises:
        ConfigError: there is none, or it is another model's: it has more ids, or fewer than padding explains, or ends
            documents with another one.
    """
    tokenizer = load_tokenizer(path or directory)
    problem, or_else = None, ""
    if not tokenizer.vocab_size <= config.num_rows <= padded_vocab_size(tokenizer.vocab_size):
        problem = f"the tokenizer has {tokenizer.vocab_size} ids and the model {config.num_rows}"
    elif config.eos_token_id not in (None, tokenizer.eod_id):
        problem = (
            f"the tokenizer ends documents with id {tokenizer.eod_id}, and the model, by the eos_token_id in its "
            f"{CONFIG_NAME}, with {config.eos_token_id}"
        )
        or_else = "; or correct eos_token_id"
    if problem is not None:
        raise ConfigError(
            problem,
            where=path or directory,
            remedy="use the model's own tokenizer; `foreword import` takes its place with --tokenizer" + or_else,
        )
    return tokenizer


def open_tensors(directory: Path, config: HuggingFaceConfig) -> Callable[[str], Tensor]:
    """A function from a logical name to that parameter: fp32, full shape, zeros for the vocabulary's padding.

    Raises:
        DataError: no weights; a tensor or a file is missing, unknown, of another shape or cannot be read; or the head
            is not tied to the embedding.
    """
    stored = _stored_tensors(directory)
    head = stored.pop(_HEAD, None)
    _check_shapes({name: tensor.shape for name, tensor in stored.items()}, config, directory)
    if head is not None and not torch.equal(head.load(), stored[EMBEDDING].load()):
        raise DataError("lm_head.weight is not the embedding; only tied weights are supported", where=directory)
    names = hf_names(config.model.num_layers)
    return lambda name: to_logical(name, stored[names[name]].load(), config.model, config.notes.vocab_size)


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], config: HuggingFaceConfig, where: Path) -> None:
    expected = hf_shapes(config.model, config.num_rows)
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


@dataclass(frozen=True)
class _Stored:
    """A tensor in a file."""

    shape: tuple[int, ...]
    load: Callable[[], Tensor]


def _stored_tensors(directory: Path) -> dict[str, _Stored]:
    """All tensors but old causal masks, by name without "transformer."."""
    stored: dict[str, _Stored] = {}
    for path in _files(directory):
        try:
            stored |= _in_safetensors(path) if path.suffix == ".safetensors" else _in_bin(path)
        except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise DataError(f"cannot be read as weights: {str(error).splitlines()[0]}", where=path) from None
    short = {name.removeprefix("transformer."): tensor for name, tensor in stored.items()}
    return {name: tensor for name, tensor in short.items() if not _BUFFERS.fullmatch(name)}


def _files(directory: Path) -> list[Path]:
    for whole in ("model.safetensors", "pytorch_model.bin"):
        if (directory / whole).is_file():
            return [directory / whole]
        index = directory / f"{whole}.index.json"
        if index.is_file():
            try:
                parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
                return sorted(directory / part for part in parts)
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                raise DataError("does not say which file holds which tensor", where=index) from None
    raise DataError("no model.safetensors or pytorch_model.bin, whole or in parts", where=directory)


def _in_safetensors(path: Path) -> dict[str, _Stored]:
    file = safe_open(path, framework="pt")
    names = file.keys()
    return {name: _Stored(tuple(file.get_slice(name).get_shape()), partial(file.get_tensor, name)) for name in names}


def _in_bin(path: Path) -> dict[str, _Stored]:
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:  # a file of the old format, which cannot be mapped
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise ValueError("not a dictionary of tensors")
    return {name: _Stored(tuple(tensor.shape), partial(tensors.__getitem__, name)) for name, tensor in tensors.items()}
