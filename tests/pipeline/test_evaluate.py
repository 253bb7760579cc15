"""The evaluation scores the tokens behind each prefix, all of them, once, twice read."""

import json
import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from tiny_corpus import VOCAB_SIZE, make_corpus
from tiny_gpt2 import make_gpt2, save_gpt2
from torch import Tensor
from training import STEPS, records, train_config

from data_prep.shards import PADDING, Corpus
from foreword.errors import DataError
from pipeline.commands.trained import evaluate as evaluate_command
from pipeline.config import ModelConfig
from pipeline.data.batch import Batch, make_batch
from pipeline.distributed.parallel import Parallel
from pipeline.evaluate import Readings, Score, bucket_name, evaluate, split_batches
from pipeline.model import GPT2, build_model
from pipeline.train import train
from pipeline.unigram import unigram_score
from pipeline.weights.hugging_face import import_weights

CONFIG = ModelConfig(
    num_layers=1, hidden_size=16, num_attention_heads=2, max_position_embeddings=40, initializer_range=0.4
)
TOKEN_BYTES = np.arange(VOCAB_SIZE, dtype=np.int32) % 4


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("corpus"), rows=21)


def batches_of(corpus: Corpus, parallel: Parallel, rows: int | None = None, micro_batch_size: int = 4) -> list[Batch]:
    return list(split_batches(corpus, "train", rows=rows, micro_batch_size=micro_batch_size, parallel=parallel))


def nll_by_segment(corpus: Corpus, model: GPT2) -> dict[int, list[tuple[float, float, int]]]:
    """Prefix length -> (causal nats, prefix nats, bytes) of each scored token, segment by segment, each read alone."""
    found = defaultdict(list)
    split = corpus.split("train")
    for index in range(len(split)):
        row = split.row(index)
        ends = [*row.segments[1:, 0], len(row.tokens)]
        for (start, prefix_len), end in zip(row.segments.tolist(), ends, strict=True):
            if prefix_len == PADDING:
                continue
            tokens = row.tokens[start:end].astype(np.int64)
            nats = [nll(model, tokens, visible_prefix) for visible_prefix in (0, prefix_len)]
            for i in range(max(prefix_len, 1), len(tokens)):
                found[prefix_len].append((float(nats[0][i - 1]), float(nats[1][i - 1]), int(TOKEN_BYTES[tokens[i]])))
    return found


@torch.no_grad()
def nll(model: GPT2, tokens: np.ndarray, prefix_len: int) -> Tensor:
    """Nats of tokens[1:], every position scored."""
    batch = make_batch(tokens[None], [np.array([[0, prefix_len]])], np.array([0]))
    hidden_SD = model.hidden(batch.tokens_BS, batch.position_ids_BS, model.backend.prepare(batch))
    return F.cross_entropy(model.logits(hidden_SD), batch.labels_BS[0], reduction="none")


def test_the_sums_are_those_of_every_segment_read_alone(corpus: Corpus, one_process: Parallel) -> None:
    model = build_model(CONFIG, VOCAB_SIZE, seed=1)
    result = evaluate(model, batches_of(corpus, one_process), TOKEN_BYTES, one_process.data_parallel_group)
    expected = nll_by_segment(corpus, model)

    def assert_scores(readings: Readings, tokens: list[tuple[float, float, int]]) -> None:
        causal, prefix, text_bytes = (sum(values) for values in zip(*tokens, strict=True))
        assert readings.causal.nll == pytest.approx(causal, rel=1e-5)
        assert readings.prefix.nll == pytest.approx(prefix, rel=1e-5)
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
    result = evaluate(model, batches_of(corpus, one_process), TOKEN_BYTES, one_process.data_parallel_group)
    assert result.total.causal == result.total.prefix
    assert list(result.by_prefix_len) == [(0, 1)]


def test_rows_without_targets_are_refused(one_process: Parallel) -> None:
    nothing = make_batch(np.zeros((1, 9), np.uint16), [np.array([[0, 9]])], np.array([0]))
    with pytest.raises(DataError, match="no token is scored"):
        evaluate(build_model(CONFIG, VOCAB_SIZE, seed=1), [nothing], TOKEN_BYTES, one_process.data_parallel_group)


def test_a_score_of_two_bits_per_token_and_four_bytes_per_token() -> None:
    score = Score(nll=20 * math.log(2), targets=10, text_bytes=40)
    assert score.loss == pytest.approx(2 * math.log(2))
    assert score.perplexity == pytest.approx(4.0)
    assert score.bits_per_byte == pytest.approx(0.5)
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


def test_the_command_gives_a_run_the_losses_that_training_measured(corpus: Corpus, tmp_path: Path) -> None:
    config = train_config(tmp_path / "run", corpus.path, evaluation__rows=None, checkpoint__every_steps=STEPS)
    train(config)
    measured = [record for record in records(config.run_dir) if record.get("event") == "validation"][-1]
    arguments = [str(config.run_dir), "--data", str(corpus.path), "--unigram"]
    told = json.loads(CliRunner().invoke(evaluate_command, [*arguments, "--json"], catch_exceptions=False).stdout)
    for reading in ("causal", "prefix"):
        assert told[reading]["loss"] == pytest.approx(measured[f"{reading}_loss"], rel=1e-5)
        assert told[reading]["targets"] == corpus.manifest.splits["valid"].targets
        assert told[reading]["loss"] < told["unigram"]["loss"]
        for bucket in told["by_prefix_len"]:
            name = bucket_name(bucket["shortest"], bucket["longest"])
            assert measured[f"{reading}_loss/{name}"] == pytest.approx(bucket[reading]["loss"], rel=1e-5)
            assert measured[f"targets/{name}"] == bucket[reading]["targets"]
    table = CliRunner().invoke(evaluate_command, arguments, catch_exceptions=False).stdout
    for number in (told["prefix"]["loss"], told["causal"]["bits_per_byte"], told["unigram"]["bits_per_byte"]):
        assert f"{number:.4f}" in table


def test_a_corpus_of_another_tokenizer_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    save_gpt2(make_gpt2(), tmp_path / "hf")
    import_weights(tmp_path / "hf", tmp_path / "weights")
    with pytest.raises(DataError, match="encoded with another tokenizer"):
        CliRunner().invoke(
            evaluate_command, [str(tmp_path / "weights"), "--data", str(corpus.path)], catch_exceptions=False
        )
