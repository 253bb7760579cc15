"""Show what a corpus holds: a table, JSON, or one row with its segments and prefixes.

What comes in: a corpus directory. What goes out: text for a person or a JSON object; nothing is changed or re-hashed.
"""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from data_prep.documents_table import documents_of_row, table_name
from data_prep.manifest import TOKENIZER_DIRECTORY, Manifest
from data_prep.shards import PADDING, Corpus, Row
from data_prep.tokenizers import Tokenizer, load_tokenizer
from foreword.errors import ConfigError

_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {0x7F: 0x2421}
_PREFIX_STYLE, _TARGET_STYLE, _MARK_STYLE, _ORIGIN_STYLE = "black on cyan", "default", "bold magenta", "magenta"


def describe_corpus(path: Path) -> dict[str, Any]:
    """The manifest without its lists of files, as plain values."""
    manifest = Corpus.open(path).manifest
    values = manifest.model_dump(mode="json")
    for split in values["splits"].values():
        split["shards"] = len(split["shards"])
    for source in values["sources"]:
        source["files"] = len(source["files"])
    del values["tokenizer"]["files"]
    return values


def describe_row(path: Path, split: str, index: int) -> dict[str, Any]:
    """One row as plain values: for each segment its columns, its prefix length, and the text of its two parts.

    When the corpus has tables of documents, `document` says which one the segment comes from.

    Raises:
        ConfigError: no such split or row.
    """
    corpus, tokenizer, row = _load(path, split, index)
    documents = _documents(corpus, split, index)
    segments = []
    for number, (begin, end, prefix) in enumerate(_spans(row)):
        segment: dict[str, Any] = {"start": begin, "length": end - begin}
        if prefix == PADDING:
            segment["padding"] = True
        else:
            segment["prefix_length"] = prefix
            segment["prefix"] = tokenizer.decode(row.tokens[begin : begin + prefix])
            segment["target"] = tokenizer.decode(row.tokens[begin + prefix : end])
            if documents:
                segment["document"] = documents[number]
        segments.append(segment)
    return {"split": split, "row": index, "sequence_length": corpus.manifest.sequence_length, "segments": segments}


def show_corpus(path: Path, console: Console) -> None:
    """Print the corpus as tables."""
    corpus = Corpus.open(path)
    manifest = corpus.manifest
    tokenizer = manifest.tokenizer
    console.print(f"corpus {path}", style="bold", highlight=False)
    console.print(
        f"rows of {manifest.sequence_length} + 1 {manifest.dtype} tokens, packing {manifest.packing['policy']}, "
        f"seed {manifest.seed}\n"
        f"tokenizer {tokenizer.name} ({tokenizer.kind}): {tokenizer.vocab_size:,} ids, "
        f"end of document {tokenizer.eod_id}, padding {tokenizer.pad_id}\n"
        f"manifest sha256 {corpus.manifest_sha256}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_splits_table(manifest))
    console.print(_sources_table(manifest))
    if any(source.dropped or source.removed for source in manifest.sources):
        console.print(_dropped_table(manifest))


def show_row(path: Path, split: str, index: int, console: Console) -> None:
    """Print one row: each segment with its prefix marked, decoded; padding as a count.

    On a terminal the prefix is coloured; everywhere it stands between ⟦ and ⟧. ␄ is the end-of-document token.

    Raises:
        ConfigError: no such split or row.
    """
    corpus, tokenizer, row = _load(path, split, index)
    rows = len(corpus.split(split))
    documents = _documents(corpus, split, index)
    console.print(f"{split} row {index} of {rows:,}: {len(row.segments)} segments", style="bold", highlight=False)
    for number, (begin, end, prefix) in enumerate(_spans(row)):
        header = f"segment {number}: columns {begin} to {end - 1}, {end - begin} tokens"
        if prefix == PADDING:
            console.print(Text(f"{header}, padding", style=_MARK_STYLE))
            continue
        console.print(Text(f"{header}, prefix {prefix}, targets {end - begin - max(prefix, 1)}", style=_MARK_STYLE))
        if documents:
            console.print(Text(_origin(documents[number]), style=_ORIGIN_STYLE), soft_wrap=True)
        shown = Text()
        if prefix:
            shown.append("⟦", _MARK_STYLE)
            shown.append(_visible(tokenizer, row.tokens[begin : begin + prefix]), _PREFIX_STYLE)
            shown.append("⟧", _MARK_STYLE)
        shown.append(_visible(tokenizer, row.tokens[begin + prefix : end]), _TARGET_STYLE)
        console.print(shown, soft_wrap=True)


def _load(path: Path, split: str, index: int) -> tuple[Corpus, Tokenizer, Row]:
    corpus = Corpus.open(path)
    rows = corpus.split(split)
    if not 0 <= index < len(rows):
        raise ConfigError(f"no row {index}, split {split!r} has rows 0 to {len(rows) - 1}", where=path)
    return corpus, load_tokenizer(Path(path) / TOKENIZER_DIRECTORY), rows.row(index)


def _documents(corpus: Corpus, split: str, index: int) -> list[dict[str, Any]]:
    """The document of each segment of a row but padding; nothing when the corpus does not say."""
    shard, row = corpus.split(split).locate(index)
    name = table_name(split, shard.name)
    if name not in shard.files:
        return []
    return [
        {key: value for key, value in record.items() if key not in {"row", "segment"} and value is not None}
        for record in documents_of_row(corpus.path / name, row)
    ]


def _origin(document: dict[str, Any]) -> str:
    """The document in one line."""
    identity = f", id {document['id']}" if "id" in document else ""
    piece = f", piece {document['piece']}" if document["piece"] else ""
    fields = f", {json.dumps(document['fields'], ensure_ascii=False)}" if "fields" in document else ""
    return f"  from {document['source']}{identity}{piece}, hash {document['hash']}{fields}"


def _spans(row: Row) -> list[tuple[int, int, int]]:
    """(first column, one after the last, prefix length) of each segment."""
    starts = [*row.segments[:, 0].tolist(), len(row.tokens)]
    return list(zip(starts[:-1], starts[1:], row.segments[:, 1].tolist(), strict=True))


def _visible(tokenizer: Tokenizer, ids: Any) -> str:
    """Decoded text with ␄ for each end-of-document token, and pictures of control characters, which steer terminals."""
    pieces: list[list[int]] = [[]]
    for token in ids.tolist():
        if token == tokenizer.eod_id:
            pieces.append([])
        else:
            pieces[-1].append(token)
    return "␄".join(tokenizer.decode(piece).translate(_PICTURES) for piece in pieces)


def _splits_table(manifest: Manifest) -> Table:
    table = Table("split", *_right("shards", "rows", "documents", "cut", "tokens", "targets", "padding"))
    for name, split in manifest.splits.items():
        counts = (len(split.shards), split.rows, split.documents, split.cut_documents, split.tokens, split.targets)
        padding = split.padding / (split.tokens + split.padding)
        table.add_row(name, *(f"{count:,}" for count in counts), f"{padding:.3%}")
    return table


def _sources_table(manifest: Manifest) -> Table:
    table = Table("source", "kind", "prefix", *_right("files", "records", "documents", "tokens"))
    for source in manifest.sources:
        counts = (len(source.files), source.records, source.documents, source.tokens)
        policy = str(source.prefix["policy"])
        table.add_row(source.name, source.kind, policy, *(f"{count:,}" for count in counts))
    return table


def _dropped_table(manifest: Manifest) -> Table:
    """Documents left out with their share of the records, and lines taken out inside documents."""
    table = Table("source", Column("reason", overflow="fold"), *_right("left out", "share", "taken out inside"))
    for source in manifest.sources:
        for reason, count in sorted(source.dropped.items(), key=lambda item: -item[1]):
            table.add_row(source.name, reason, f"{count:,}", f"{count / max(source.records, 1):.2%}", "")
        for reason, count in sorted(source.removed.items(), key=lambda item: -item[1]):
            table.add_row(source.name, reason, "", "", f"{count:,}")
    return table


def _right(*names: str) -> list[Any]:
    return [Column(name, justify="right") for name in names]


def to_json(values: dict[str, Any]) -> str:
    """Plain values as indented JSON."""
    return json.dumps(values, indent=2, ensure_ascii=False)
