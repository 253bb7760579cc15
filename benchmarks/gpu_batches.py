"""Batches that look like a prepared corpus: documents of very unequal lengths, packed into rows, cut at their ends."""

import numpy as np

from pipeline.data.batch import Batch, make_batch

# log-normal, in tokens: the mean is about 770, as of web pages in GPT-2's tokens
MEDIAN_DOCUMENT_TOKENS, SIGMA = 420, 1.1
LAYOUTS = ("whole", "packed", "prefix", "encoder")


def make_synthetic_batch(
    rows: int, sequence_length: int, vocab_size: int, *, layout: str, seed: int, median_tokens: int | None = None
) -> Batch:
    """A batch on the CPU of random tokens.

    Args:
        rows: of the batch.
        sequence_length: tokens that go in, per row.
        vocab_size: ids are below it.
        layout: "whole" is one causal segment a row; "packed" is documents, read causally; "prefix" is the same
            documents, each with a boundary drawn uniformly from [1, length); "encoder" is all prefix.
        seed: of everything that is drawn; "packed" and "prefix" of one seed have the same documents.
        median_tokens: of the documents.
    """
    random = np.random.default_rng(seed)
    row_length = sequence_length + 1
    tokens = random.integers(0, vocab_size, (rows, row_length), dtype=np.int64)
    if layout == "whole":
        segments = [np.array([[0, 0]])] * rows
    else:
        starts = _document_starts(random, rows, row_length, median_tokens or MEDIAN_DOCUMENT_TOKENS)
        lengths = [np.diff(np.append(row, row_length)) for row in starts]
        drawn = [np.maximum(1, (random.random(len(row)) * row).astype(int)) for row in lengths]
        none = [np.zeros_like(row) for row in lengths]
        prefix_lens = {"packed": none, "prefix": drawn, "encoder": lengths}[layout]
        segments = [np.stack(pair, axis=1) for pair in zip(starts, prefix_lens, strict=True)]
    return make_batch(tokens, segments, np.arange(rows))


def _document_starts(random: np.random.Generator, rows: int, row_length: int, median_tokens: int) -> list[np.ndarray]:
    """Where documents, laid one after another and cut at the rows' ends, start in each row."""
    starts, next_start = [], 0
    for _ in range(rows):
        in_row = [0]
        while next_start < row_length:
            if next_start > 0:
                in_row.append(next_start)
            next_start += max(2, int(median_tokens * np.exp(SIGMA * random.standard_normal())))
        next_start -= row_length
        starts.append(np.array(in_row))
    return starts
