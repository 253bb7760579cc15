"""A preparation of a little text, as a user would write it: JSON Lines, a tokenizer, and a configuration file."""

import json
from pathlib import Path
from typing import Any

import yaml

DOCUMENTS = 300
SEQUENCE_LENGTH = 32
VOCAB_SIZE = 300


def documents() -> list[str]:
    """Short texts, all different."""
    return [f"document {number}: {number * number} {'and so on ' * (number % 7)}" for number in range(DOCUMENTS)]


def train_tokenizer(path: Path) -> Path:
    """Write a sentencepiece model of the documents to `path`."""
    from data_prep.config import TokenizerTrainingConfig
    from data_prep.tokenizers.training import train_model

    path.write_bytes(train_model(documents(), TokenizerTrainingConfig(vocab_size=VOCAB_SIZE)))
    return path


def write_preparation(directory: Path, tokenizer: Path, output: Path, **changes: Any) -> Path:
    """Write the text and `prep.yaml` into `directory`; returns the path of the latter.

    The text is cut into about ten slices, so that several tasks have a share of it.
    """
    text = directory / "text.jsonl"
    text.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents()))
    values = {
        "output": str(output),
        "sources": [{"kind": "jsonl", "path": str(text)}],
        "tokenizer": {"path": str(tokenizer)},
        "tokenizer_training": {"vocab_size": VOCAB_SIZE},
        "prefix": {"policy": "uniform"},
        "splits": {"valid": 0.1},
        "sequence_length": SEQUENCE_LENGTH,
        "slice_bytes": 2000,
        "shard_tokens": 3000,
    }
    path = directory / "prep.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return path
