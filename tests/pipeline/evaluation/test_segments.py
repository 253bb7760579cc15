"""The evaluation scores the tokens behind each prefix, all of them, once, twice read."""

import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_corpus import VOCAB_SIZE, make_corpus

from data_prep.shards import PADDING, Corpus
from foreword.errors import DataError
from pipeline.config.model import ModelConfig
from pipeline.data.batch import Batch, make_batch
from pipeline.distributed.parallel import Parallel
from pipeline.evaluation import EvalResult, Readings, Score, score_segments, split_batches
from pipeline.evaluation.unigram import unigram_score
from pipeline.model import GPT2, build_model

CONFIG = ModelConfig(
    num_layers=1, hidden_size=16, num_attention_heads=2, max_position_embeddings=40, initializer_range=0.4
)
TOKEN_BYTES = np.arange(VOCAB_SIZE, dtype=np.int32) % 4
Token = tuple[float, bool, float, bool, int]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("corpus"), rows=21)


def batches_of(corpus: Corpus, parallel: Parallel, rows: int | None = None, micro_batch_size: int = 4) -> list[Batch]:
    return list(split_batches(corpus, "train", rows=rows, micro_batch_size=micro_batch_size, parallel=parallel))


def evaluate(model: GPT2, batches: list[Batch], parallel: Parallel) -> EvalResult:
    return EvalResult.of(score_segments(model, batches, TOKEN_BYTES, parallel.data_parallel_group))


def read_by_segment(corpus: Corpus, model: GPT2) -> dict[int, list[Token]]:
    """Prefix length -> (nats and hit read causally, the same of the prefix reading, bytes) of each scored token,
    segment by segment, each read alone."""
    found = defaultdict(list)
    split = corpus.split("train")
    for index in range(len(split)):
        row = split.row(index)
        ends = [*row.segments[1:, 0], len(row.tokens)]
        for (start, prefix_len), end in zip(row.segments.tolist(), ends, strict=True):
            if prefix_len == PADDING:
                continue
            tokens = row.tokens[start:end].astype(np.int64)
            (nll, hit), (prefix_nll, prefix_hit) = (read_alone(model, tokens, visible) for visible in (0, prefix_len))
            found[prefix_len] += [
                (nll[i - 1], hit[i - 1], prefix_nll[i - 1], prefix_hit[i - 1], int(TOKEN_BYTES[tokens[i]]))
                for i in range(max(prefix_len, 1), len(tokens))
            ]
    return found


@torch.no_grad()
def read_alone(model: GPT2, tokens: np.ndarray, prefix_len: int) -> tuple[list[float], list[bool]]:
    """Nats of tokens[1:], and whether each is the likeliest id; every position scored."""
    batch = make_batch(tokens[None], [np.array([[0, prefix_len]])], np.array([0]))
    hidden_SD = model.hidden(batch.tokens_BS, batch.position_ids_BS, model.backend.prepare(batch))
    logits_SV = model.logits(hidden_SD)
    nll_S = F.cross_entropy(logits_SV, batch.labels_BS[0], reduction="none")
    return nll_S.tolist(), (logits_SV.argmax(-1) == batch.labels_BS[0]).tolist()


def test_the_sums_are_those_of_every_segment_read_alone(corpus: Corpus, one_process: Parallel) -> None:
    model = build_model(CONFIG, VOCAB_SIZE, seed=1)
    result = evaluate(model, batches_of(corpus, one_process), one_process)
    expected = read_by_segment(corpus, model)

    def assert_scores(readings: Readings, tokens: list[Token]) -> None:
        causal, causal_hits, prefix, prefix_hits, text_bytes = (sum(values) for values in zip(*tokens, strict=True))
        assert readings.causal.nll == pytest.approx(causal, rel=1e-5)
        assert readings.prefix.nll == pytest.approx(prefix, rel=1e-5)
        assert (readings.causal.hits, readings.prefix.hits) == (causal_hits, prefix_hits)
        assert readings.causal.targets == readings.prefix.targets == len(tokens)
        assert readings.causal.text_bytes == readings.prefix.text_bytes == text_bytes

    assert_scores(result.total, [token for tokens in expected.values() for token in tokens])
    for (shortest, longest), readings in result.by_prefix_len.items():
        longest = math.inf if longest is None else longest
        assert_scores(readings, [t for p, tokens in expected.items() if shortest <= p <= longest for t in tokens])
    assert sum(readings.causal.targets for readings in result.by_prefix_len.values()) == result.total.causal.targets
    assert len(result.by_prefix_len) >= 3


def test_without_prefixes_both_readings_are_the_same(tmp_path: Path, one_process: Parallel) -> None:
    corpus = make_corpus(tmp_path, rows=5, prefix_len=0)
    model = build_model(CONFIG, VOCAB_SIZE, seed=1)
    result = evaluate(model, batches_of(corpus, one_process), one_process)
    assert result.total.causal == result.total.prefix
    assert list(result.by_prefix_len) == [(0, 1)]


def test_rows_without_targets_are_refused(one_process: Parallel) -> None:
    nothing = make_batch(np.zeros((1, 9), np.uint16), [np.array([[0, 9]])], np.array([0]))
    with pytest.raises(DataError, match="no token is scored"):
        evaluate(build_model(CONFIG, VOCAB_SIZE, seed=1), [nothing], one_process)


def test_a_score_of_two_bits_per_token_and_four_bytes_per_token() -> None:
    score = Score(nll=20 * math.log(2), targets=10, text_bytes=40)
    assert score.loss == pytest.approx(2 * math.log(2))
    assert score.perplexity == pytest.approx(4.0)
    assert score.bits_per_byte == pytest.approx(0.5)
    assert math.isnan(score.accuracy)
    assert Score(nll=1.0, targets=10, text_bytes=40, hits=3).accuracy == 0.3
    assert Score(nll=1e6, targets=1, text_bytes=1).perplexity == math.inf


@pytest.mark.parametrize("rows", [None, 1, 7, 20, 99])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_ranks_share_the_rows_and_have_equally_many_batches(
    corpus: Corpus, one_process: Parallel, rows: int | None, size: int
) -> None:
    ranks = [replace(one_process, data_parallel_rank=rank, data_parallel_size=size) for rank in range(size)]
    shares = [batches_of(corpus, rank, rows, micro_batch_size=2) for rank in ranks]
    assert len({len(share) for share in shares}) == 1
    drawn = [int(row) for share in shares for batch in share for row in batch.row_ids if row >= 0]
    alone = [int(row) for batch in batches_of(corpus, one_process, rows) for row in batch.row_ids if row >= 0]
    assert sorted(drawn) == alone == sorted(set(alone))
    assert len(alone) == min(rows or 21, 21)
    fillers = [batch.loss_mask_BS[batch.row_ids < 0] for share in shares for batch in share]
    assert not any(mask.any() for mask in fillers)


def test_the_unigram_model_scores_the_same_tokens_by_their_frequency(corpus: Corpus, one_process: Parallel) -> None:
    counts = np.ones(VOCAB_SIZE)
    split = corpus.split("train")
    for index in range(len(split)):
        row = split.row(index)
        ends = [*row.segments[1:, 0], len(row.tokens)]
        for (start, prefix_len), end in zip(row.segments, ends, strict=True):
            for token in row.tokens[start:end] if prefix_len != PADDING else ():
                counts[token] += 1
    batches = batches_of(corpus, one_process)
    labels = np.concatenate([batch.labels_BS[batch.loss_mask_BS].numpy() for batch in batches])
    score = unigram_score(split, batches, TOKEN_BYTES)
    assert score.nll == pytest.approx(-np.log(counts[labels] / counts.sum()).sum())
    assert (score.targets, score.text_bytes) == (len(labels), TOKEN_BYTES[labels].sum())
    assert score.hits == (labels == counts.argmax()).sum()
