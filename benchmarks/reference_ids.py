"""Are the ids in a corpus those of the reference tokenizer? Read back from its shards, document by document.

What comes in: a corpus prepared from a JSON Lines file with `id_field: id`, that file, and a tokenizer.json for the
tokenizers library. What goes out: how many documents and tokens were compared, and which documents differ.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import orjson
import pyarrow.parquet as pq
import tokenizers

from data_prep.documents_table import table_name
from data_prep.shards import Corpus, Row

_BATCH = 512
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


@dataclass
class Compared:
    """What was compared: documents, their tokens, and the ids of the documents that differ."""

    documents: int
    tokens: int
    different: list[int]


def compare_ids(corpus_path: Path, text_path: Path, tokenizer_json: Path, one_in: int) -> Compared:
    """Compare every `one_in`-th document of the text with the corpus; those dropped as duplicates are passed over."""
    reference = tokenizers.Tokenizer.from_file(str(tokenizer_json))
    corpus = Corpus.open(corpus_path)
    eod_id = corpus.manifest.tokenizer.eod_id
    found = dict(_documents(corpus, one_in))
    compared = Compared(0, 0, [])
    with text_path.open("rb") as lines:
        wanted = [number for number in range(sum(1 for _ in lines)) if number in found]
    for numbers, texts in _texts(text_path, wanted):
        for number, encoded in zip(numbers, reference.encode_batch(texts, add_special_tokens=False), strict=True):
            ids = found.pop(number)
            compared.documents += 1
            compared.tokens += len(ids)
            if ids.tolist() != [*encoded.ids, eod_id]:
                compared.different.append(number)
    return compared


def _documents(corpus: Corpus, one_in: int) -> Iterator[tuple[int, np.ndarray]]:
    """(id, ids) of documents, put together from their pieces, which overlap by one token."""
    for name, info in corpus.manifest.splits.items():
        split, first_row = corpus.split(name), 0
        for shard in info.shards:
            table = pq.read_table(corpus.path / table_name(name, shard.name), columns=["id", "piece", "row", "segment"])
            places = zip(*(column.to_pylist() for column in table.columns), strict=True)
            chosen = sorted((int(number), *rest) for number, *rest in places if int(number) % one_in == 0)
            for number, pieces in groupby(chosen, key=lambda place: place[0]):
                ids = [_segment(split.row(first_row + row), segment) for _, _, row, segment in pieces]
                yield number, np.concatenate([ids[0], *(piece[1:] for piece in ids[1:])])
            first_row += shard.rows


def _segment(row: Row, number: int) -> np.ndarray:
    starts = [*row.segments[:, 0].tolist(), len(row.tokens)]
    return row.tokens[starts[number] : starts[number + 1]]


def _texts(path: Path, wanted: list[int]) -> Iterator[tuple[list[int], list[str]]]:
    """Batches of the wanted documents as the preparation cleans them."""
    chosen = set(wanted)
    numbers: list[int] = []
    texts: list[str] = []
    with path.open("rb") as lines:
        for line in lines:
            record = orjson.loads(line)
            if record["id"] in chosen:
                numbers.append(record["id"])
                texts.append(_cleaned(record["text"]))
            if len(texts) == _BATCH:
                yield numbers, texts
                numbers, texts = [], []
    if texts:
        yield numbers, texts


def _cleaned(text: str) -> str:
    return unicodedata.normalize("NFC", _CONTROLS.sub("", text))
