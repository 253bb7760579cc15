"""Real text (docstrings of the standard library), a small sentencepiece model of it, and a ready configuration."""

import inspect
from pathlib import Path

import pytest

from data_prep.config import PrepConfig, TokenizerTrainingConfig
from foreword.config import validate

MODULES = ["argparse", "asyncio", "collections", "decimal", "email", "functools", "logging", "pathlib", "unittest"]


def docstrings() -> list[str]:
    """A few hundred different documents, from one line to several pages."""
    found: dict[str, None] = {}
    for name in MODULES:
        module = __import__(name)
        for thing in [module, *vars(module).values()]:
            for member in [thing, *(vars(thing).values() if inspect.isclass(thing) else ())]:
                text = inspect.getdoc(member)
                if text:
                    found[text] = None
    return list(found)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return docstrings()


@pytest.fixture(scope="session")
def model_path(texts, tmp_path_factory) -> Path:
    from data_prep.tokenizers.training import train_model

    path = tmp_path_factory.mktemp("tokenizer") / "small.model"
    path.write_bytes(train_model(texts, TokenizerTrainingConfig(vocab_size=600)))
    return path


@pytest.fixture
def make_config(model_path, tmp_path):
    """A function from sources (paths or dicts) and changed values to a `PrepConfig`."""

    def make(*sources, **changes) -> PrepConfig:
        settled = [
            {"kind": "jsonl", "path": str(source)} if isinstance(source, Path) else {"kind": "jsonl", **source}
            for source in sources
        ]
        values = {
            "output": str(tmp_path / "corpus"),
            "sources": settled,
            "tokenizer": {"path": str(model_path)},
            "sequence_length": 64,
            "shard_tokens": 4000,
            **changes,
        }
        return validate(values, PrepConfig)

    return make
