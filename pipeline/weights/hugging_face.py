"""GPT-2 weights in the Hugging Face layout -> a weights directory; whatever holds weights -> a Hugging Face directory.

    OUT/
      config.json, generation_config.json
      model.safetensors            or parts of it, with model.safetensors.index.json
      modeling_foreword.py         of models that were trained on prefixes or on masked tokens; see there
      vocab.json, merges.txt, ...  the tokenizer, see `hf_tokenizer`
      README.md                    a model card, see `model_card`

Both ways go tensor by tensor. They hold a few copies of one tensor, the largest of which is the embedding, and never
the model. Export reads the files of any topology, and needs none.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_prep.tokenizers import Tokenizer
from foreword.errors import ConfigError
from foreword.files import atomic_write
from pipeline.checkpoint.meta import MASTER
from pipeline.config.model import ModelConfig
from pipeline.weights.directory import WeightsMeta, save_weights, whole_directory
from pipeline.weights.gpt2_layout import from_logical, hf_names, hf_shapes, logical_shapes
from pipeline.weights.hf_directory import (
    CONFIG_NAME,
    OWN_KEY,
    ExportNotes,
    load_own_tokenizer,
    open_tensors,
    read_config,
)
from pipeline.weights.hf_tokenizer import write_tokenizer
from pipeline.weights.model_card import model_card
from pipeline.weights.pretrained import Pretrained, open_pretrained
from pipeline.weights.stored import open_stored
from pipeline.weights.streaming import write_in_parts

MODELING_FILE = "modeling_foreword.py"
MODELING_CLASS = "PrefixGPT2LMHeadModel"
PART_BYTES = 5 * 10**9
"""Of a file of weights, unless asked otherwise."""


@dataclass(frozen=True)
class Exported:
    """What an export is like.

    Attributes:
        pretrained: what was exported.
        has_modeling_file: whether the model can do more than GPT2LMHeadModel does.
        mask_token_id: in the exported vocabulary; None where it has none.
        tokenizer_problem: why transformers cannot load the tokenizer, where that is so.
    """

    pretrained: Pretrained
    has_modeling_file: bool
    mask_token_id: int | None
    tokenizer_problem: str | None


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
    config = read_config(hf_dir)
    tokenizer = load_own_tokenizer(hf_dir, config, tokenizer_path)
    return save_weights(
        out,
        logical_shapes(config.model, config.notes.vocab_size),
        open_tensors(hf_dir, config),
        model=config.model,
        vocab_size=config.notes.vocab_size,
        objective=config.notes.objective,
        mask_token_id=config.notes.mask_token_id,
        tokenizer=tokenizer,
        source=f"Hugging Face GPT-2 weights from {hf_dir}",
    )


def export_weights(
    path: Path,
    out: Path,
    *,
    dtype: torch.dtype = torch.float32,
    part_bytes: int = PART_BYTES,
    with_mask_token: bool = False,
) -> Exported:
    """Write a Hugging Face directory from a run, a checkpoint, a weights directory or another Hugging Face directory.

    The vocabulary's padding is left out, and with it a mask token that lies there, unless it is asked for: the
    vocabulary then ends with it.

    Args:
        path: what to export; all hashes are compared first.
        out: must not exist, or be empty.
        dtype: of the weights; what is rounded does not come back.
        part_bytes: of weights in one file, but at least one tensor.
        with_mask_token: whether to write the mask token's row of the embedding too.

    Raises:
        CheckpointError: `path` holds no intact weights.
        ConfigError: `out` is taken, or there is no mask token.
    """
    pretrained = open_pretrained(path)
    tokenizer = pretrained.load_tokenizer()
    vocab_size, mask_token_id = pretrained.vocab_size, pretrained.mask_token_id
    if with_mask_token and mask_token_id is None:
        raise ConfigError(
            "there is no mask token in these weights", where=path, remedy="it comes from the objective bidirectional"
        )
    if mask_token_id is not None and mask_token_id >= vocab_size and not with_mask_token:
        mask_token_id = None
    num_rows = vocab_size if mask_token_id is None else max(vocab_size, mask_token_id + 1)
    notes = ExportNotes(
        objective=pretrained.objective,
        prompt_reading=pretrained.reads_prompts,
        vocab_size=vocab_size,
        mask_token_id=mask_token_id,
    )
    has_modeling_file = set(pretrained.objective) != {"causal"}
    names = {there: here for here, there in hf_names(pretrained.config.num_layers).items()}
    shapes = {f"transformer.{name}": shape for name, shape in hf_shapes(pretrained.config, num_rows).items()}
    with open_stored(pretrained.path, hashes=True) as stored, whole_directory(out) as temporary:

        def read(name: str) -> Tensor:
            here = names[name.removeprefix("transformer.")]
            return from_logical(here, stored.read(here, MASTER), pretrained.config, num_rows)

        write_in_parts(temporary, shapes, read, part_bytes=part_bytes, dtype=dtype)
        tokenizer_problem = write_tokenizer(
            tokenizer, temporary, max_positions=pretrained.config.max_position_embeddings
        )
        if has_modeling_file:
            source = Path(__file__).with_name(MODELING_FILE).read_bytes()
            with atomic_write(temporary / MODELING_FILE) as file:
                file.write(source)
        settings = {
            CONFIG_NAME: _config(pretrained.config, num_rows, notes, tokenizer, dtype, has_modeling_file),
            "generation_config.json": _generation_config(notes, tokenizer),
        }
        for name, values in settings.items():
            with atomic_write(temporary / name, "w") as file:
                file.write(json.dumps(values, indent=2) + "\n")
        with atomic_write(temporary / "README.md", "w") as file:
            file.write(
                model_card(
                    pretrained,
                    notes,
                    name=out.resolve().name,
                    num_parameters=sum(math.prod(shape) for shape in shapes.values()),
                    has_modeling_file=has_modeling_file,
                    tokenizer_problem=tokenizer_problem,
                )
            )
    return Exported(pretrained, has_modeling_file, mask_token_id, tokenizer_problem)


def _config(
    config: ModelConfig,
    num_rows: int,
    notes: ExportNotes,
    tokenizer: Tokenizer,
    dtype: torch.dtype,
    has_modeling_file: bool,
) -> dict[str, Any]:
    """The contents of config.json. Dropout is 0, as in training here."""
    own = {
        "architectures": [MODELING_CLASS if has_modeling_file else "GPT2LMHeadModel"],
        **({"auto_map": {"AutoModelForCausalLM": f"modeling_foreword.{MODELING_CLASS}"}} if has_modeling_file else {}),
        OWN_KEY: notes.model_dump(mode="json"),
    }
    return {
        **own,
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "n_layer": config.num_layers,
        "n_embd": config.hidden_size,
        "n_head": config.num_attention_heads,
        "n_positions": config.max_position_embeddings,
        "n_ctx": config.max_position_embeddings,
        "vocab_size": num_rows,
        "layer_norm_epsilon": config.layer_norm_eps,
        "initializer_range": config.initializer_range,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "bos_token_id": tokenizer.eod_id,
        "eos_token_id": tokenizer.eod_id,
        "pad_token_id": tokenizer.pad_id,
        "tie_word_embeddings": True,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def _generation_config(notes: ExportNotes, tokenizer: Tokenizer) -> dict[str, Any]:
    """The contents of generation_config.json. A mask token is read and never written."""
    ids = {"bos_token_id": tokenizer.eod_id, "eos_token_id": tokenizer.eod_id, "pad_token_id": tokenizer.pad_id}
    return ids | ({} if notes.mask_token_id is None else {"suppress_tokens": [notes.mask_token_id]})
