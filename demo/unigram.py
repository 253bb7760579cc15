"""The yardstick of the demo: how many bits per byte a model needs that knows only how frequent each token is.

The frequencies come from the train split, one added to each so that no token is impossible. Scored are exactly the
tokens that `foreword eval` scores, and divided is by the same bytes, so that the numbers stand side by side.
"""

from pathlib import Path

import numpy as np

from data_prep.shards import PADDING, Corpus, Split


def unigram_bits_per_byte(corpus_path: Path) -> dict[str, float]:
    """Bits per UTF-8 byte on the valid split, for the tokens of the "causal" and of the "prefix" loss."""
    corpus = Corpus.open(corpus_path)
    bytes_V = np.load(corpus_path / "tokenizer" / "token_bytes.npy").astype(np.int64)
    counts_V = scored_counts(corpus.split("train"), len(bytes_V), causal=True) + 1
    bits_V = -np.log2(counts_V / counts_V.sum())
    results = {}
    for name in ("causal", "prefix"):
        scored_V = scored_counts(corpus.split("valid"), len(bytes_V), causal=name == "causal")
        results[name] = float(scored_V @ bits_V / (scored_V @ bytes_V))
    return results


def scored_counts(split: Split, vocab_size: int, *, causal: bool) -> np.ndarray:
    """How often each token is a scored label in `split`: int64 [vocab_size].

    A segment's first token is never one; `causal` scores all others, and otherwise only those from the prefix's end on.
    """
    counts_V = np.zeros(vocab_size, dtype=np.int64)
    for index in range(len(split)):
        row = split.row(index)
        ends = [*row.segments[1:, 0], len(row.tokens)]
        for (start, prefix_len), end in zip(row.segments, ends, strict=True):
            if prefix_len != PADDING:
                first = start + (1 if causal else max(prefix_len, 1))
                np.add.at(counts_V, row.tokens[first:end], 1)
    return counts_V
