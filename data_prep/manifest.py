"""`manifest.json`: what a prepared corpus says about itself.

What comes in: a corpus directory. What goes out: a validated, immutable `Manifest`. Promise: the manifest is written
last, so a directory that has one is finished; every file that training reads is listed with its size and SHA-256; and
nothing in it depends on time, machine or number of workers, so equal inputs give equal manifests, byte for byte.
"""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from foreword.errors import DataError
from foreword.files import atomic_write

FORMAT: Literal["foreword-corpus"] = "foreword-corpus"
VERSION: Literal[1] = 1
MANIFEST_NAME = "manifest.json"
TOKENIZER_DIRECTORY = "tokenizer"
TOKEN_BYTES_NAME = "token_bytes.npy"  # in it: int32 [vocab_size], UTF-8 bytes of text that each id stands for


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileInfo(_Record):
    """One file's size in bytes and the hex SHA-256 of its bytes."""

    size: int
    sha256: str


class TokenizerInfo(_Record):
    """The tokenizer whose ids the shards hold; its files lie in `tokenizer/`.

    Attributes:
        kind: "sentencepiece", "gpt2_bpe" or "tokenizer_json".
        name: what the user called it (a file or directory name).
        sha256: of the tokenizer's own files, in name order: equal hashes mean equal ids.
        vocab_size: every id in the shards is in [0, vocab_size).
        eod_id: the id that ends every document.
        pad_id: the id that fills padding; it may equal `eod_id`: padding is known by its segment, not by its id.
        files: name inside `tokenizer/` -> size and hash.
    """

    kind: str
    name: str
    sha256: str
    vocab_size: int
    eod_id: int
    pad_id: int
    files: dict[str, FileInfo] = Field(default_factory=dict)


class SourceInfo(_Record):
    """One configured source: its files and what became of its records.

    Attributes:
        name: the source's name in the configuration.
        kind: "jsonl", "parquet", ...
        weight: how often each document was taken (blending); 1.0 is once.
        prefix: the prefix policy with its options.
        files: path as configured -> size and hash of the file that was read.
        records: records read.
        documents: documents kept, over all splits.
        tokens: tokens of the kept documents, each with its end-of-document token.
        text_bytes: UTF-8 bytes of the kept documents' text.
        dropped: reason -> number of documents or records left out.
        prefixes_cut: prefixes that were cut from the left to fit a row.
        removed: reason -> lines (and citation marks) that quality rules took out of documents.
    """

    name: str
    kind: str
    weight: float = 1.0
    prefix: dict[str, Any]
    files: dict[str, FileInfo]
    records: int
    documents: int
    tokens: int
    text_bytes: int
    dropped: dict[str, int]
    prefixes_cut: int = 0
    removed: dict[str, int] = {}


class ShardInfo(_Record):
    """One shard of a split.

    Attributes:
        name: "00000", "00001", ...; also the order of the rows in the split.
        rows: rows of sequence_length + 1 tokens.
        segments: segments over all rows, padding segments included.
        tokens: columns that are not padding.
        targets: columns that are scored: in a segment of n tokens with prefix p these are n - max(p, 1).
        padding: columns that are padding; rows * (sequence_length + 1) = tokens + padding.
        files: path relative to the corpus -> size and hash.
    """

    name: str
    rows: int
    segments: int
    tokens: int
    targets: int
    padding: int
    files: dict[str, FileInfo]


class SplitInfo(_Record):
    """One split: its shards in order, and their sums.

    Attributes:
        documents: documents in the split.
        cut_documents: of these, how many were cut into pieces.
        rows, segments, tokens, targets, padding: sums over the shards.
    """

    documents: int
    cut_documents: int
    rows: int
    segments: int
    tokens: int
    targets: int
    padding: int
    shards: list[ShardInfo]


class Manifest(_Record):
    """Everything a reader needs to use the corpus and to check it.

    Attributes:
        sequence_length: inputs per row; a row holds one token more.
        dtype: "uint16" (vocab_size <= 65536) or "uint32".
        packing: the packing policy with its options.
        seed: keys the sampled prefix boundaries and the splits.
        splits: name -> what it holds.
        config: the resolved preparation configuration, without what cannot change the result.
    """

    format: Literal["foreword-corpus"] = FORMAT
    version: Literal[1] = VERSION
    tokenizer: TokenizerInfo
    sequence_length: int
    dtype: Literal["uint16", "uint32"]
    packing: dict[str, Any]
    seed: int
    splits: dict[str, SplitInfo]
    sources: list[SourceInfo]
    config: dict[str, Any]

    @classmethod
    def load(cls, corpus: Path) -> "Manifest":
        """Read and validate `corpus/manifest.json`.

        Raises:
            DataError: there is none (the preparation is not finished), it is not valid, or of another format version.
        """
        return cls.parse(read_manifest_bytes(corpus), corpus)

    @classmethod
    def parse(cls, content: bytes, corpus: Path) -> "Manifest":
        """Validate the bytes of a manifest; `corpus` is named in errors."""
        where = corpus / MANIFEST_NAME
        try:
            values = json.loads(content)
        except ValueError as error:
            raise DataError(
                f"the manifest is not JSON: {error}", where=where, remedy="prepare the corpus again"
            ) from None
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise DataError("this is not a Foreword corpus", where=where)
        if values.get("version") != VERSION:
            raise DataError(
                f"format version {values.get('version')!r}, this program reads version {VERSION}",
                where=where,
                remedy="prepare the corpus again, or use the Foreword version that wrote it",
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise DataError(f"the manifest is not valid: {key}: {first['msg']}", where=where) from None

    def save(self, corpus: Path) -> None:
        """Write `corpus/manifest.json` whole or not at all, flushed to the disk."""
        content = json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
        with atomic_write(corpus / MANIFEST_NAME) as file:
            file.write(content.encode())

    def files(self) -> dict[str, FileInfo]:
        """Every file that the corpus consists of: path relative to the corpus -> size and hash."""
        listed = {f"{TOKENIZER_DIRECTORY}/{name}": info for name, info in self.tokenizer.files.items()}
        for split in self.splits.values():
            for shard in split.shards:
                listed |= shard.files
        return listed


def read_manifest_bytes(corpus: Path) -> bytes:
    """The manifest's bytes as they are on disk; DataError when the directory or the manifest is missing."""
    path = Path(corpus) / MANIFEST_NAME
    try:
        return path.read_bytes()
    except FileNotFoundError:
        if not Path(corpus).is_dir():
            raise DataError(
                "no such corpus directory", where=corpus, remedy="check the path, or run `foreword prep`"
            ) from None
        raise DataError(
            f"no {MANIFEST_NAME}: the corpus is not finished, or this is not a corpus",
            where=corpus,
            remedy="run the same `foreword prep` command again; it continues where it stopped",
        ) from None
    except OSError as error:
        raise DataError(f"the manifest cannot be read: {error.strerror}", where=path) from None
