"""GPT-2's byte-level BPE from its own two files, and any tokenizer.json; the tokenizers library is the reference."""

from typing import Any

import numpy as np
import orjson
import tokenizers

from data_prep.tokenizers.base import Tokenizer
from data_prep.tokenizers.sentencepiece_model import SPACE

GPT2_EOD = "<|endoftext|>"


class JsonTokenizer(Tokenizer):
    """A tokenizer.json without its special tokens' power over plain text."""

    def __init__(self, kind: str, name: str, files: dict[str, bytes], config: dict[str, Any]) -> None:
        self.kind = kind
        added = config.get("added_tokens") or []
        vocab = config["model"]["vocab"]
        if isinstance(vocab, list):  # unigram: [piece, score] in id order
            vocab = {piece: i for i, (piece, _) in enumerate(vocab)}
        self._ids: dict[str, int] = {**vocab, **{token["content"]: token["id"] for token in added}}
        self._tokens = {i: token for token, i in self._ids.items()}
        special = {token["id"] for token in added if token["special"]}
        self._added_text = {token["id"]: token["content"] for token in added if not token["special"]}
        self._config = {
            **config,
            "added_tokens": [token for token in added if not token["special"]],
            "post_processor": None,  # it would add special tokens
            "truncation": None,
            "padding": None,
        }
        self._json = orjson.dumps(self._config).decode()
        self._reference = tokenizers.Tokenizer.from_str(self._json)
        super().__init__(name, files, max(self._ids.values()) + 1, frozenset(special))

    def encode(self, text: str) -> list[int]:
        """The ids of a text, by the tokenizers library."""
        return self._reference.encode(text, add_special_tokens=False).ids

    def decode_text(self, ids: list[int]) -> str:
        """The text of ids, by the tokenizers library."""
        return self._reference.decode(ids, skip_special_tokens=False)

    def id_of(self, token: str) -> int | None:
        """The id of a token, added ones included, or None."""
        return self._ids.get(token)

    def token_of(self, token_id: int) -> str:
        """The token of an id, added ones included."""
        return self._tokens[token_id]

    def token_bytes(self) -> np.ndarray:
        """int32 [vocab_size]; in a byte-level vocabulary every character of a token is one byte."""
        byte_level = "ByteLevel" in _types_in(self._config.get("pre_tokenizer")) | _types_in(
            self._config.get("decoder")
        )
        sizes = np.zeros(self.vocab_size, dtype=np.int32)
        for token, i in self._ids.items():
            if i in self.special_ids:
                continue
            if i in self._added_text:
                sizes[i] = len(token.encode())
            elif byte_level:
                sizes[i] = len(token)
            elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
                sizes[i] = 1
            else:
                sizes[i] = len(token.replace(SPACE, " ").encode())
        return sizes

    def engine_json(self) -> str | None:
        """The same tokenizer.json without special tokens; None unless it is BPE, the engine's only model."""
        return self._json if self._config["model"].get("type") == "BPE" else None


def gpt2_json(contents: dict[str, bytes]) -> dict[str, Any]:
    """GPT-2's vocabulary and merges (encoder.json and vocab.bpe, or vocab.json and merges.txt) -> a tokenizer.json."""
    vocab_name, merges_name = (
        ("encoder.json", "vocab.bpe") if "encoder.json" in contents else ("vocab.json", "merges.txt")
    )
    vocab = orjson.loads(contents[vocab_name])
    lines = contents[merges_name].decode().split("\n")
    merges = [line for line in lines if line and not line.startswith("#version")]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    added = []
    if GPT2_EOD in vocab:
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        added = [{"id": vocab[GPT2_EOD], "content": GPT2_EOD, "special": True, **flags}]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocab,
            "merges": merges,
        },
    }


def _types_in(component: Any) -> set[str]:
    """Every `type` in a tokenizer.json component and the sequence it may hold."""
    if isinstance(component, dict):
        return {component.get("type", "")}.union(*(_types_in(value) for value in component.values()))
    if isinstance(component, list):
        return set().union(*(_types_in(value) for value in component))
    return set()
