"""Weights without a run: a directory that `foreword import` writes and that training, evaluation and export start from.

    OUT/
      weights.safetensors   logical parameters under Foreword's names: fp32, full shape, whatever will read them
      tokenizer/            the tokenizer's own files
      foreword.json         model, vocabulary, tokenizer, and every file's size and SHA-256

The directory appears under its name when it is whole.
"""

import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import ValidationError
from torch import Tensor

from data_prep.manifest import FileInfo, TokenizerInfo
from data_prep.tokenizers import Tokenizer, save_tokenizer
from foreword.config import Section
from foreword.errors import CheckpointError, ConfigError
from foreword.files import TEMPORARY_PREFIX, atomic_write, damaged_files, fsync_directory, sha256_of
from pipeline.config.model import ModelConfig
from pipeline.config.objective import ObjectiveName, Objectives
from pipeline.weights.streaming import Shapes, write_tensors

FORMAT: Literal["foreword-weights"] = "foreword-weights"
META_NAME = "foreword.json"
WEIGHTS_NAME = "weights.safetensors"
TOKENIZER_DIRECTORY = "tokenizer"


class WeightsMeta(Section):
    """The contents of foreword.json.

    Attributes:
        objective: name -> weight, that the weights were trained with.
        mask_token_id: what masked tokens are read as; None for weights that were not trained on them.
        source: where the weights come from, for people.
        files: name inside the directory -> size and hash.
    """

    format: Literal["foreword-weights"] = FORMAT
    version: Literal[1] = 1
    model: ModelConfig
    vocab_size: int
    objective: Objectives
    mask_token_id: int | None = None
    tokenizer: TokenizerInfo
    source: str
    files: dict[str, FileInfo]


def save_weights(
    directory: Path,
    shapes: Shapes,
    read: Callable[[str], Tensor],
    *,
    model: ModelConfig,
    vocab_size: int,
    objective: Mapping[ObjectiveName, float],
    mask_token_id: int | None,
    tokenizer: Tokenizer,
    source: str,
) -> WeightsMeta:
    """Write a weights directory, holding one tensor at a time.

    Args:
        directory: must not exist, or be empty.
        shapes: name -> full shape; the names are those of `pipeline.model.parameter_layout`.
        read: name -> that parameter, fp32.
        model, vocab_size, objective, mask_token_id, tokenizer, source: see `WeightsMeta`.

    Raises:
        ConfigError: the directory is not empty or cannot be written.
    """
    with whole_directory(directory) as temporary:
        write_tensors(temporary / WEIGHTS_NAME, shapes, read)
        tokenizer_info = save_tokenizer(tokenizer, temporary / TOKENIZER_DIRECTORY)
        names = sorted(str(p.relative_to(temporary)) for p in temporary.rglob("*") if p.is_file())
        meta = WeightsMeta(
            model=model,
            vocab_size=vocab_size,
            objective=dict(objective),
            mask_token_id=mask_token_id,
            tokenizer=tokenizer_info,
            source=source,
            files={
                name: FileInfo(size=(temporary / name).stat().st_size, sha256=sha256_of(temporary / name))
                for name in names
            },
        )
        with atomic_write(temporary / META_NAME, "w") as file:
            file.write(meta.model_dump_json(indent=1) + "\n")
    return meta


def is_weights(directory: Path) -> bool:
    """Whether this is a weights directory, as far as its foreword.json says."""
    try:
        return json.loads((directory / META_NAME).read_bytes()).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False


def read_weights_meta(directory: Path) -> WeightsMeta:
    """Read foreword.json and compare every file's size with it (no file is read).

    Raises:
        CheckpointError: it cannot be read or is of another version, or a file is missing or has another size.
    """
    path = directory / META_NAME
    try:
        meta = WeightsMeta.model_validate_json(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", where=path) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise CheckpointError(f"not a valid {META_NAME} of weights: {place}: {first['msg']}", where=path) from None
    problems = damage(directory, meta)
    if problems:
        raise CheckpointError(problems[0], remedy="import the weights again")
    return meta


def damage(directory: Path, meta: WeightsMeta, *, hashes: bool = False) -> list[str]:
    """Problems with the files, one line each: missing, of another size or, with `hashes`, of other bytes."""
    expected = {name: (info.size, info.sha256) for name, info in meta.files.items()}
    return damaged_files(directory, expected, hashes=hashes)


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """A temporary directory that becomes `path` when the block ends without an exception.

    Raises:
        ConfigError: `path` exists and is not empty, or cannot be written.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError("exists already and is not an empty directory", where=path, remedy="choose another name")
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}-{path.name}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(path)
        fsync_directory(path.parent)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=path) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
