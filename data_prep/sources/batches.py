"""Texts, one after the other -> batches of `Documents`, for sources that read record by record."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from data_prep.documents import Documents, kept_batch, string_array

BATCH_BYTES = 1 << 22
"""Of text in a batch, about."""


class Found(NamedTuple):
    """A document of one part.

    Attributes:
        text: of the document.
        read_to: the byte up to which the stored file has been read.
        kept: what the source keeps of its record, see `records.kept_of`; None when it keeps nothing.
    """

    text: str
    read_to: int
    kept: tuple[str | None, str | None] | None = None


def in_batches(documents: Iterable[Found], begin: int) -> Iterator[Documents]:
    """Collect documents into batches; `begin` is the byte where reading begins."""
    pending: list[Found] = []
    size, counted = 0, begin
    for found in documents:
        pending.append(found)
        size += len(found.text)
        if size >= BATCH_BYTES:
            yield _batch(pending, counted)
            pending, size, counted = [], 0, found.read_to
    if pending:
        yield _batch(pending, counted)


def _batch(documents: list[Found], counted: int) -> Documents:
    return Documents(
        texts=string_array([found.text for found in documents]),
        part_ptr=np.arange(len(documents) + 1),
        kept=kept_batch([found.kept for found in documents if found.kept]) if documents[0].kept else None,
        input_bytes=documents[-1].read_to - counted,
    )
