"""`Documents`: a batch of raw documents on its way from a source to the tokenizer.

A document is one or more parts: one for plain text, two for a prefix and its target, one per turn for a dialogue. The
parts of all documents lie in one Arrow string array, so that cleaning and tokenizing work on flat buffers. What the
source's configuration asks to keep of each record (`id_field`, `keep_fields`) goes along beside it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa

from data_prep.arrays import mask_to_arrow
from data_prep.gather import gather

KEPT = pa.schema([("id", pa.large_string()), ("fields", pa.large_string())])
"""What is kept of a record beside its text: its id, and other fields as one JSON object; null where there is none."""


@dataclass(frozen=True)
class Documents:
    """A batch of documents.

    Attributes:
        texts: the parts of all documents, in order; valid UTF-8, no nulls.
        part_ptr: int64 [documents + 1]; the parts of document d are texts[part_ptr[d]:part_ptr[d + 1]].
        kept: one row per document in the schema `KEPT`; None when the source keeps nothing.
        input_bytes: how much of the file, as it is stored, the batch was read from; progress and predictions count it.
    """

    texts: pa.LargeStringArray
    part_ptr: np.ndarray
    kept: pa.RecordBatch | None = None
    input_bytes: int = 0

    def __len__(self) -> int:
        return len(self.part_ptr) - 1

    @classmethod
    def from_texts(cls, texts: Sequence[str]) -> "Documents":
        """Documents of one part each.

        Raises:
            UnicodeEncodeError: a text holds half of a surrogate pair, which has no UTF-8.
        """
        return cls(string_array(texts), np.arange(len(texts) + 1))

    @classmethod
    def from_parts(cls, parts: Sequence[Sequence[str]], kept: pa.RecordBatch | None = None) -> "Documents":
        """Documents of several parts each; raises as `from_texts` does."""
        part_ptr = np.zeros(len(parts) + 1, dtype=np.int64)
        np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)), out=part_ptr[1:])
        return cls(string_array([part for document in parts for part in document]), part_ptr, kept)

    def select(self, keep: np.ndarray) -> "Documents":
        """The documents where the bool [documents] array `keep` is true."""
        if keep.all():
            return self
        counts = np.diff(self.part_ptr)
        part_ptr = np.concatenate([[0], np.cumsum(counts[keep])])
        kept = None if self.kept is None else self.kept.filter(mask_to_arrow(keep))
        return Documents(self.texts.filter(mask_to_arrow(np.repeat(keep, counts))), part_ptr, kept, self.input_bytes)


@dataclass(frozen=True)
class TokenizedDocuments:
    """A batch of documents that come as ids, from sources that are tokenized already.

    Attributes:
        ids: integers [n] of any type, each in the vocabulary.
        token_ptr: int64 [documents + 1]; document d has the ids ids[token_ptr[d]:token_ptr[d + 1]].
        input_bytes: as in `Documents`.
    """

    ids: np.ndarray
    token_ptr: np.ndarray
    input_bytes: int = 0

    def __len__(self) -> int:
        return len(self.token_ptr) - 1

    def select(self, keep: np.ndarray) -> "TokenizedDocuments":
        """The documents where the bool [documents] array `keep` is true."""
        if keep.all():
            return self
        lengths = np.diff(self.token_ptr)[keep]
        token_ptr = np.concatenate([[0], np.cumsum(lengths)])
        return TokenizedDocuments(gather(self.ids, self.token_ptr[:-1][keep], lengths), token_ptr, self.input_bytes)


Batch = TypeVar("Batch", Documents, TokenizedDocuments)


def leave_out(documents: Batch, faults: Iterable[tuple[str, np.ndarray]]) -> tuple[Batch, Counter[str]]:
    """Leave out documents and count why.

    Args:
        faults: (reason, bool [documents]); a document that has several counts for the first.

    Returns:
        The documents without a fault, and reason -> documents left out.
    """
    keep = np.ones(len(documents), dtype=bool)
    dropped: Counter[str] = Counter()
    for reason, applies in faults:
        if count := int((keep & applies).sum()):
            dropped[reason] += count
            keep &= ~applies
    return documents.select(keep), dropped


def kept_batch(kept: Sequence[tuple[str | None, str | None]]) -> pa.RecordBatch:
    """(id, fields) of each document -> a batch in the schema `KEPT`; a column is null where its first value is."""
    columns = [
        string_array(column) if column[0] is not None else pa.nulls(len(column), pa.large_string())
        for column in zip(*kept, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns or [string_array([])] * 2, schema=KEPT)


def string_array(texts: Sequence[str]) -> pa.LargeStringArray:
    """Strings -> one Arrow array, several times faster than `pa.array` because nothing grows on the way."""
    encoded = list(map(str.encode, texts))
    offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=offsets[1:])
    return pa.LargeStringArray.from_buffers(len(encoded), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded)))


def buffers(texts: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]:
    """The array's (bytes uint8 [n], offsets int64 [len + 1] with offsets[0] = 0), without a copy."""
    _, raw_offsets, raw_data = texts.buffers()
    offsets = np.frombuffer(raw_offsets, dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
    data = np.frombuffer(raw_data, dtype=np.uint8) if raw_data is not None else np.empty(0, np.uint8)
    return data[offsets[0] : offsets[-1]], offsets - offsets[0] if offsets[0] else offsets
