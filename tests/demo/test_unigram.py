"""The demo's yardstick: it scores the tokens of the loss, with the frequencies of the train split."""

from pathlib import Path

import numpy as np
from tiny_corpus import VOCAB_SIZE, make_corpus
from unigram import scored_counts, unigram_bits_per_byte


def test_exactly_the_tokens_of_the_loss_are_scored(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path)
    split = corpus.split("train")
    assert scored_counts(split, VOCAB_SIZE, causal=False).sum() == split.info.targets
    assert scored_counts(split, VOCAB_SIZE, causal=True).sum() == split.info.tokens - _documents(split)


def test_without_prefixes_both_losses_are_over_the_same_tokens(tmp_path: Path) -> None:
    split = make_corpus(tmp_path, prefix_len=0).split("valid")
    np.testing.assert_array_equal(
        scored_counts(split, VOCAB_SIZE, causal=False), scored_counts(split, VOCAB_SIZE, causal=True)
    )


def test_evenly_frequent_one_byte_tokens_need_the_logarithm_of_their_number(tmp_path: Path) -> None:
    make_corpus(tmp_path, rows=3000)  # every token starts a segment equally often, and each stands for one byte
    result = unigram_bits_per_byte(tmp_path)
    np.testing.assert_allclose([result["causal"], result["prefix"]], np.log2(VOCAB_SIZE), atol=0.02)


def _documents(split) -> int:
    return sum(int((split.row(index).segments[:, 1] >= 0).sum()) for index in range(len(split)))
