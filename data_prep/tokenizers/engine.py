"""Many texts -> ids, fast: gigatoken, held against the tokenizer's own library.

Promise: the ids are those of the reference library. Every unit of work encodes a sample with both, and a difference
stops the run with the text that showed it. A tokenizer that gigatoken does not know goes through its own library.
"""

from itertools import pairwise
from typing import Protocol

import numpy as np
import pyarrow as pa

from data_prep.documents import buffers, string_array
from data_prep.tokenizers.base import Tokenizer
from foreword.errors import DataError

SAMPLE_CHARS = 512
"""Characters of a sampled text, at most, that the reference encodes too; it is about fifty times slower."""


RENEW_BYTES = 2**30
"""Of text, between two encoders: the cache grows by about 8 bytes for each piece never seen before."""


class Engine(Protocol):
    """Encodes batches of texts."""

    def encode(self, texts: pa.LargeStringArray) -> list[np.ndarray]:
        """The ids of each text, uint32 [tokens of the text], all below the tokenizer's `vocab_size`."""


class FastEngine:
    """gigatoken, on the calling thread; its cache of pieces seen makes later batches faster.

    The cache has no bound, so after `RENEW_BYTES` of text the encoder is made anew, which takes a fifth of a second.
    """

    def __init__(self, tokenizer_json: str, vocab_size: int) -> None:
        self._tokenizer_json = tokenizer_json
        self._renew()
        if self._encoder.vocab_size > vocab_size:
            raise DataError(
                f"the fast engine knows {self._encoder.vocab_size:,} ids, the tokenizer {vocab_size:,}",
                remedy="report this tokenizer; nothing was written with it",
            )

    def encode(self, texts: pa.LargeStringArray) -> list[np.ndarray]:
        """See `Engine.encode`."""
        data, offsets = buffers(texts)
        self._encoded_bytes += len(data)
        if self._encoded_bytes > RENEW_BYTES:
            self._renew()
        # one by one is as fast as its batches, which come as arrays of another library that takes long to import
        encode, text, ends = self._encoder.encode, data.data, offsets.tolist()
        return [encode(bytes(text[begin:end])) for begin, end in pairwise(ends)]

    def _renew(self) -> None:
        import gigatoken

        self._encoder = gigatoken.Tokenizer.from_json(self._tokenizer_json)
        self._encoded_bytes = 0


class ReferenceEngine:
    """The tokenizer's own library, text by text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, texts: pa.LargeStringArray) -> list[np.ndarray]:
        """See `Engine.encode`."""
        return [np.array(self._tokenizer.encode(text), dtype=np.uint32) for text in texts.to_pylist()]


def make_engine(tokenizer: Tokenizer) -> Engine:
    """The fast engine when it knows this tokenizer, else the tokenizer's own library."""
    tokenizer_json = tokenizer.engine_json()
    if tokenizer_json is None:
        return ReferenceEngine(tokenizer)
    try:
        return FastEngine(tokenizer_json, tokenizer.vocab_size)
    except ValueError:  # a component that gigatoken does not implement
        return ReferenceEngine(tokenizer)


def check_engine(engine: Engine, tokenizer: Tokenizer, texts: list[str], where: str) -> None:
    """Encode `texts` with the engine and with the reference; raises as `check_ids` does."""
    for text, ids in zip(texts, engine.encode(string_array(texts)), strict=True):
        check_ids(ids.tolist(), tokenizer, text, where)


def check_ids(ids: list[int], tokenizer: Tokenizer, text: str, where: str) -> None:
    """Compare ids from an engine with the reference's.

    Raises:
        DataError: they differ; the text that shows it is in the message.
    """
    reference = tokenizer.encode(text)
    if ids != reference:
        pairs = enumerate(zip(ids, reference, strict=False))
        at = next((i for i, (one, other) in pairs if one != other), min(len(ids), len(reference)))
        raise DataError(
            f"the fast engine and the {tokenizer.kind} reference differ at token {at} "
            f"({ids[at : at + 5]} against {reference[at : at + 5]}) in the text {text!r}",
            where=where,
            remedy="report this text with the tokenizer; nothing was written from it",
        )
