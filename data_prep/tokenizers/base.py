"""What every tokenizer offers, whatever its file format: text <-> ids, its special ids, and bytes per id."""

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from foreword.errors import ConfigError

GPT2_FILES = {"vocab.json": "encoder.json", "merges.txt": "vocab.bpe"}
"""Hugging Face's names for GPT-2's two files -> OpenAI's."""


class Tokenizer(ABC):
    """A tokenizer read from its own files; the reference that the fast engine is held against.

    A text that contains a special token's string is encoded as plain text: special ids never come out of `encode`.

    Attributes:
        kind: "sentencepiece", "gpt2_bpe" or "tokenizer_json".
        name: what the user called it.
        files: canonical file name -> content, of everything needed to load it again.
        vocab_size: one more than the largest id.
        special_ids: ids that stand for no text.
        eod_id, pad_id: the ids that end a document and fill padding.
    """

    kind: str

    def __init__(self, name: str, files: dict[str, bytes], vocab_size: int, special_ids: frozenset[int]) -> None:
        self.name = name
        self.files = files
        self.vocab_size = vocab_size
        self.special_ids = special_ids
        self.eod_id = self.pad_id = -1  # set by `choose_special_ids` or from a saved description

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of a text, without an end-of-document id."""

    @abstractmethod
    def decode_text(self, ids: list[int]) -> str:
        """The text of ids that are all in the vocabulary and not special."""

    @abstractmethod
    def id_of(self, token: str) -> int | None:
        """The id of a token given by its own name, or None."""

    @abstractmethod
    def token_of(self, token_id: int) -> str:
        """The name of an id in the vocabulary, as `id_of` takes it."""

    @abstractmethod
    def token_bytes(self) -> np.ndarray:
        """int32 [vocab_size]: how many UTF-8 bytes of text each id stands for, 0 for special ids."""

    @abstractmethod
    def engine_json(self) -> str | None:
        """The equivalent tokenizer.json for the fast engine, without special tokens; None when it has no equivalent."""

    def decode(self, ids: list[int] | np.ndarray) -> str:
        """The text of `ids`; special ids and padding of the vocabulary stand for no text."""
        return self.decode_text([i for i in map(int, ids) if 0 <= i < self.vocab_size and i not in self.special_ids])

    @property
    def sha256(self) -> str:
        """Hash of the tokenizer's own files in name order: equal hashes mean equal ids.

        GPT-2's two files are known by two pairs of names, which do not count.
        """
        digest = hashlib.sha256()
        for name in sorted(self.files, key=lambda name: GPT2_FILES.get(name, name)):
            digest.update(hashlib.sha256(self.files[name]).digest())
        return digest.hexdigest()

    def choose_special_ids(self, eod: str | None, pad: str | None, where: Path) -> None:
        """Settle `eod_id` and `pad_id`: the names given, or the usual ones; padding falls back on the former.

        Raises:
            ConfigError: a name that is not in the vocabulary, or no known end-of-document token.
        """
        eod_id = self._find(eod, ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|eot_id|>", "[EOS]"), where)
        if eod_id is None:
            raise ConfigError(
                "the tokenizer has no end-of-document token that is known by name",
                where=where,
                remedy="name it with tokenizer.eod",
            )
        pad_id = self._find(pad, ("<pad>", "<|padding|>", "<|pad|>", "[PAD]"), where)
        self.eod_id = eod_id
        self.pad_id = eod_id if pad_id is None else pad_id
        self.special_ids |= {self.eod_id, self.pad_id}

    def _find(self, token: str | None, usual: tuple[str, ...], where: Path) -> int | None:
        if token is None:
            return next((found for name in usual if (found := self.id_of(name)) is not None), None)
        found = self.id_of(token)
        if found is None:
            raise ConfigError(f"the tokenizer has no token {token!r}", where=where)
        return found
