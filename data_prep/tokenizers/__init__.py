"""Tokenizers: loaded from their own files, saved beside the corpus, driven by one fast engine.

load_tokenizer(path)   a .model, a tokenizer.json, a directory with GPT-2's two files or one of the former, or the
                       `tokenizer/` directory of a corpus
save_tokenizer(...)    writes such a directory
engine.Engine          many texts -> ids, fast, checked against the tokenizer itself
training               sentencepiece models from the sources of a preparation
"""

import io
import json
from pathlib import Path

import numpy as np
import orjson

from data_prep.manifest import FileInfo, TokenizerInfo
from data_prep.tokenizers.base import Tokenizer
from foreword.errors import ConfigError, ForewordError
from foreword.files import atomic_write, sha256_of

__all__ = ["DESCRIPTION_NAME", "Tokenizer", "description_of", "load_tokenizer", "save_tokenizer"]

DESCRIPTION_NAME = "foreword_tokenizer.json"
TOKEN_BYTES_NAME = "token_bytes.npy"
# (kind, the files it is known by), in the order they are looked for in a directory
_LAYOUTS = (
    ("sentencepiece", ("sentencepiece.model",)),
    ("gpt2_bpe", ("encoder.json", "vocab.bpe")),
    ("gpt2_bpe", ("vocab.json", "merges.txt")),
    ("tokenizer_json", ("tokenizer.json",)),
)


def load_tokenizer(path: str | Path, eod: str | None = None, pad: str | None = None) -> Tokenizer:
    """Load a tokenizer from its files.

    Args:
        path: a file or a directory, see above.
        eod, pad: names of the end-of-document and padding tokens; by default those that a corpus records, or the usual.

    Raises:
        ConfigError: nothing there, not a tokenizer, or a special token that it does not have.
    """
    path = Path(path)
    kind, files = _find_files(path)
    try:
        contents = {name: file.read_bytes() for name, file in files.items()}
        tokenizer = _construct(kind, path, contents)
    except ForewordError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"cannot be loaded as a {kind} tokenizer: {error}", where=path) from None
    except Exception as error:  # the tokenizers library raises bare Exception
        if type(error) is not Exception:
            raise
        raise ConfigError(f"cannot be loaded as a {kind} tokenizer: {error}", where=path) from None
    description = path / DESCRIPTION_NAME
    if eod is None and pad is None and description.is_file():
        recorded = json.loads(description.read_text(encoding="utf-8"))
        tokenizer.name = recorded["name"]
        tokenizer.eod_id, tokenizer.pad_id = recorded["eod_id"], recorded["pad_id"]
        tokenizer.special_ids |= {tokenizer.eod_id, tokenizer.pad_id}
    else:
        tokenizer.choose_special_ids(eod, pad, path)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> TokenizerInfo:
    """Write the tokenizer's files, its description and bytes per id; `load_tokenizer(directory)` gives an equal one."""
    directory.mkdir(parents=True, exist_ok=True)
    token_bytes = io.BytesIO()
    np.save(token_bytes, tokenizer.token_bytes())
    contents = {
        **tokenizer.files,
        TOKEN_BYTES_NAME: token_bytes.getvalue(),
        DESCRIPTION_NAME: description_of(tokenizer),
    }
    for name, content in contents.items():
        with atomic_write(directory / name) as file:
            file.write(content)
    return TokenizerInfo(
        kind=tokenizer.kind,
        name=tokenizer.name,
        sha256=tokenizer.sha256,
        vocab_size=tokenizer.vocab_size,
        eod_id=tokenizer.eod_id,
        pad_id=tokenizer.pad_id,
        files={
            name: FileInfo(size=len(content), sha256=sha256_of(directory / name))
            for name, content in sorted(contents.items())
        },
    )


def description_of(tokenizer: Tokenizer) -> bytes:
    """The contents of foreword_tokenizer.json: what the tokenizer's own files do not say."""
    description = {
        "kind": tokenizer.kind,
        "name": tokenizer.name,
        "eod_id": tokenizer.eod_id,
        "pad_id": tokenizer.pad_id,
    }
    return (json.dumps(description, indent=1) + "\n").encode()


def _find_files(path: Path) -> tuple[str, dict[str, Path]]:
    """The kind of tokenizer at `path` and its files by canonical name."""
    if path.is_dir():
        for kind, names in _LAYOUTS:
            if all((path / name).is_file() for name in names):
                return kind, {name: path / name for name in names}
        models = sorted(path.glob("*.model"))
        if len(models) == 1:
            return "sentencepiece", {"sentencepiece.model": models[0]}
        raise ConfigError(
            "no tokenizer in this directory",
            where=path,
            remedy="it should hold a .model, encoder.json and vocab.bpe, vocab.json and merges.txt, or tokenizer.json",
        )
    if not path.is_file():
        remedy = "check tokenizer.path, or make one with `foreword tokenizer train CONFIG`"
        raise ConfigError("no such tokenizer", where=path, remedy=remedy)
    if path.suffix == ".model":
        return "sentencepiece", {"sentencepiece.model": path}
    if path.suffix == ".json" and path.name not in {"encoder.json", "vocab.json"}:
        return "tokenizer_json", {"tokenizer.json": path}
    if path.name in {"encoder.json", "vocab.bpe", "vocab.json", "merges.txt"}:
        return _find_files(path.parent)
    raise ConfigError("not a tokenizer file", where=path, remedy="give a .model, a tokenizer.json or a directory")


def _construct(kind: str, path: Path, contents: dict[str, bytes]) -> Tokenizer:
    if kind == "sentencepiece":
        from data_prep.tokenizers.sentencepiece_model import SentencePieceTokenizer

        return SentencePieceTokenizer(path.name, contents)
    from data_prep.tokenizers.byte_pairs import JsonTokenizer, gpt2_json

    if kind == "gpt2_bpe":
        return JsonTokenizer(kind, path.name, contents, gpt2_json(contents))
    return JsonTokenizer(kind, path.name, contents, orjson.loads(contents["tokenizer.json"]))
