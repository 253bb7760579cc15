"""Contexts and their continuations as ids -> log-likelihoods, in batches of similar length.

A context is the prefix of a segment of its own and the continuation its targets: the same rule, mask and loss as in
training. Read causally the prefix is read from left to right, and the same tokens are scored.

Shape suffixes: B requests of a batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from data_prep.shards import PADDING
from foreword.errors import DataError
from pipeline.config.objective import PromptReading
from pipeline.data.batch import Batch, make_batch
from pipeline.distributed.agreement import gather
from pipeline.distributed.parallel import Parallel
from pipeline.model import GPT2


@dataclass(frozen=True)
class Request:
    """What a continuation's likelihood is asked of.

    Attributes:
        context: at least one id.
        continuation: ids behind it; may be empty.
    """

    context: tuple[int, ...]
    continuation: tuple[int, ...]

    def cut_to(self, positions: int) -> "Request":
        """The same request with the beginning of its context left out where the model has no positions for it.

        Raises:
            DataError: the continuation alone is too long.
        """
        if len(self.continuation) > positions:
            raise DataError(
                f"a continuation has {len(self.continuation)} tokens and the model {positions} positions",
                remedy="leave the task out, or use a model with more positions",
            )
        return Request(self.context[-(positions + 1 - len(self.continuation)) :], self.continuation)

    @property
    def length(self) -> int:
        """Tokens in all."""
        return len(self.context) + len(self.continuation)


@dataclass(frozen=True)
class Likelihood:
    """What a model makes of a continuation.

    Attributes:
        log_likelihood: in nats, the sum over its tokens.
        is_greedy: whether each of its tokens is the likeliest one where it stands.
    """

    log_likelihood: float
    is_greedy: bool


@torch.no_grad()
def likelihoods(
    model: GPT2, requests: Sequence[Request], *, reading: PromptReading, batch_size: int, parallel: Parallel
) -> list[Likelihood]:
    """What the model makes of every continuation, in the order of the requests; all ranks get all of it.

    Args:
        model: on this rank's device.
        requests: the same on every rank.
        reading: whether contexts are read in both directions.
        batch_size: requests of a forward pass.
        parallel: the ranks share the batches.

    Raises:
        DataError: a continuation is longer than the model has positions.
    """
    positions = model.config.max_position_embeddings
    cut = [request.cut_to(positions) for request in requests]
    chunks = list(by_length(cut, batch_size))

    def own() -> dict[int, Likelihood]:
        found: dict[int, Likelihood] = {}
        for chunk in chunks[parallel.data_parallel_rank :: parallel.data_parallel_size]:
            batch = batch_of([cut[index] for index in chunk]).to(parallel.device)
            found |= zip(chunk, _of_batch(model, batch if reading == "prefix" else batch.read_causally()), strict=True)
        return found

    merged = {index: likelihood for part in gather(own) for index, likelihood in part.items()}
    return [merged[index] for index in range(len(requests))]


def by_length(requests: Sequence[Request], batch_size: int) -> Iterator[list[int]]:
    """Indices of the requests in batches, the longest first: little padding, and memory runs out at once or never."""
    order = sorted(range(len(requests)), key=lambda index: (-requests[index].length, index))
    for begin in range(0, len(order), batch_size):
        yield order[begin : begin + batch_size]


def batch_of(requests: Sequence[Request]) -> Batch:
    """One row for each request: its context as a prefix, its continuation behind it, and padding."""
    columns = max(2, *(request.length for request in requests))
    tokens = np.zeros((len(requests), columns), dtype=np.int64)
    segments = []
    for row, request in enumerate(requests):
        tokens[row, : request.length] = request.context + request.continuation
        segments.append([(0, len(request.context))] + [(request.length, PADDING)] * (request.length < columns))
    return make_batch(tokens, [np.array(row) for row in segments], np.arange(len(requests)))


def _of_batch(model: GPT2, batch: Batch) -> list[Likelihood]:
    rows = len(batch.row_ids)
    nll_N, hits_N = model(batch, reduction="scores").double().cpu().numpy()
    row_N = batch.scored_N.cpu().numpy() // batch.tokens_BS.shape[1]
    nll_B = np.bincount(row_N, weights=nll_N, minlength=rows)
    misses_B = np.bincount(row_N, weights=1 - hits_N, minlength=rows)
    return [Likelihood(-float(nll), bool(misses == 0)) for nll, misses in zip(nll_B, misses_B, strict=True)]
