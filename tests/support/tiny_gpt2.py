"""A small random GPT-2 in the Hugging Face layout, with a tokenizer of single bytes."""

import json
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import GPT2Config, GPT2LMHeadModel

VOCAB_SIZE = 257
EOD = "<|endoftext|>"


def make_gpt2(seed: int = 0, **shape: int) -> GPT2LMHeadModel:
    """Two layers with weights large enough that tokens differ; biases and layer norms are random too."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCAB_SIZE,
        **{"n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 4, **shape},
        initializer_range=0.3,
        bos_token_id=VOCAB_SIZE - 1,
        eos_token_id=VOCAB_SIZE - 1,
    )
    model = GPT2LMHeadModel(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, 1.0 if "ln_" in name and name.endswith("weight") else 0.0, 0.2)
    return model


def save_gpt2(model: GPT2LMHeadModel, directory: Path) -> None:
    """Weights as safetensors, config.json, and the tokenizer's vocab.json and merges.txt."""
    model.save_pretrained(directory)
    save_tokenizer_files(directory)


def save_tokenizer_files(directory: Path) -> None:
    """GPT-2's two files for a vocabulary of the 256 bytes and the end-of-document token."""
    directory.mkdir(parents=True, exist_ok=True)
    vocab = {character: i for i, character in enumerate(sorted(ByteLevel.alphabet()))}
    (directory / "vocab.json").write_text(json.dumps(vocab | {EOD: len(vocab)}))
    (directory / "merges.txt").write_text("#version: 0.2\n")


def pretend_objective(weights: Path, objective: dict[str, float]) -> None:
    """Let weights say that they were trained on `objective`."""
    meta = weights / "foreword.json"
    values = json.loads(meta.read_text())
    mask_token_id = values["vocab_size"] if "bidirectional" in objective else None
    meta.write_text(json.dumps(values | {"objective": objective, "mask_token_id": mask_token_id}))
