"""Texts, one after the other -> batches of `Documents`, for sources that read record by record."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from data_prep.documents import Documents

BATCH_BYTES = 1 << 22
"""Of text in a batch, about."""


def in_batches(texts: Iterable[tuple[str, int]], begin: int) -> Iterator[Documents]:
    """Collect texts into documents of one part each.

    Args:
        texts: each with the byte up to which the stored file has been read when it is found.
        begin: where reading begins.
    """
    pending: list[str] = []
    size = 0
    counted = read_to = begin
    for text, read_to in texts:
        pending.append(text)
        size += len(text)
        if size >= BATCH_BYTES:
            yield replace(Documents.from_texts(pending), input_bytes=read_to - counted)
            pending, size, counted = [], 0, read_to
    if pending:
        yield replace(Documents.from_texts(pending), input_bytes=read_to - counted)
