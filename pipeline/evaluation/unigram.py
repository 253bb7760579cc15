"""The yardstick for a trained model: one that knows only how frequent each token is.

Shape suffixes: V vocabulary, N scored positions.
"""

from collections.abc import Iterable

import numpy as np

from data_prep.shards import PADDING, Split
from pipeline.data.batch import Batch
from pipeline.evaluation.scores import Score


def unigram_score(train: Split, batches: Iterable[Batch], token_bytes: np.ndarray) -> Score:
    """Score the batches' targets by the frequencies of tokens in `train`, one added to each.

    Args:
        train: where the frequencies come from; all of it is read.
        batches: on any device; the scored tokens are those that a model is scored on.
        token_bytes: int32 [vocab_size], UTF-8 bytes that each id stands for.
    """
    counts_V = np.ones(len(token_bytes), dtype=np.int64)
    for index in range(len(train)):
        row = train.row(index)
        last_start, last_prefix_len = row.segments[-1]
        counts_V += np.bincount(
            row.tokens[: last_start if last_prefix_len == PADDING else None], minlength=len(counts_V)
        )
    nats_V = -np.log(counts_V / counts_V.sum())
    likeliest = int(nats_V.argmin())
    nll, targets, text_bytes, hits = 0.0, 0, 0, 0
    for batch in batches:
        labels_N = batch.labels_BS[batch.loss_mask_BS].cpu().numpy()
        nll += float(nats_V[labels_N].sum())
        targets += len(labels_N)
        text_bytes += int(token_bytes[labels_N].sum())
        hits += int((labels_N == likeliest).sum())
    return Score(nll, targets, text_bytes, hits)
