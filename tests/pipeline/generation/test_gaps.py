"""A gap is filled by masked tokens, as they are trained: everything around it is read, and nothing else."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from processes import run_distributed

from foreword.errors import ConfigError
from pipeline.config.model import ModelConfig
from pipeline.data.batch import make_batch
from pipeline.distributed.parallel import Parallel, initialize
from pipeline.generation import GREEDY, Gap, Sampling, fill_gaps
from pipeline.model import GPT2, build_model

CONFIG = ModelConfig(
    num_layers=2, hidden_size=32, num_attention_heads=4, max_position_embeddings=20, initializer_range=0.3
)
VOCAB_SIZE, MASK_ID = 50, 50
GAPS = [Gap([7, 3], 3, [40, 11, 8]), Gap([], 1, [5]), Gap([9, 9, 2, 1], 5, []), Gap([4], 2, [6] * 17)]
WAYS = [GREEDY, Sampling(temperature=0.9, top_k=9, repetition_penalty=1.2, seed=4)]


@pytest.fixture
def model(one_process: Parallel) -> Iterator[GPT2]:
    return build_model(CONFIG, VOCAB_SIZE, seed=5)


def log_probabilities(model: GPT2, ids: list[int]) -> torch.Tensor:
    """[S, V] at each token, where all of them see each other."""
    batch = make_batch(np.array([[*ids, 0]]), [np.array([[0, len(ids)]])], np.array([0]))
    with torch.no_grad():
        hidden_SD = model.hidden(batch.tokens_BS, batch.position_ids_BS, model.backend.prepare(batch))
    return model.logits(hidden_SD).log_softmax(-1)


def test_the_surest_token_is_decided_first_and_then_read(model: GPT2) -> None:
    for gap, filled in zip(GAPS, fill_gaps(model, GAPS, mask_id=MASK_ID, sampling=GREEDY), strict=True):
        ids = [*gap.before, *[MASK_ID] * gap.length, *gap.after]
        still_open = set(range(len(gap.before), len(gap.before) + gap.length))
        while still_open:
            known_SV = log_probabilities(model, ids)
            surest = max(sorted(still_open), key=lambda column: float(known_SV[column].max()))
            ids[surest] = int(known_SV[surest].argmax())
            still_open.remove(surest)
        assert filled == ids[len(gap.before) : len(gap.before) + gap.length]


@pytest.mark.parametrize("sampling", WAYS, ids=["greedy", "drawn"])
def test_together_and_alone_the_tokens_are_the_same(model: GPT2, sampling: Sampling) -> None:
    together = fill_gaps(model, GAPS, mask_id=MASK_ID, sampling=sampling)
    assert list(map(len, together)) == [gap.length for gap in GAPS]
    for key, gap in enumerate(GAPS):
        assert fill_gaps(model, [gap], mask_id=MASK_ID, sampling=sampling, row_keys=[key]) == [together[key]]


def test_what_stands_behind_the_gap_decides_what_fills_it(model: GPT2) -> None:
    gaps = [Gap([7, 3], 3, [40, 11, last]) for last in range(6)]
    filled = fill_gaps(model, gaps, mask_id=MASK_ID, sampling=GREEDY)
    assert len(set(map(tuple, filled))) > 1


def filled_by_rank(tensor_parallel_size: int) -> list[list[int]]:
    parallel = initialize(tensor_parallel_size)
    model = build_model(CONFIG, VOCAB_SIZE, seed=5)
    filled = [fill_gaps(model, GAPS, mask_id=MASK_ID, sampling=sampling) for sampling in WAYS]
    parallel.destroy()
    return list(itertools.chain(*filled))


def test_every_tensor_parallel_rank_fills_alike() -> None:
    alone = filled_by_rank(1)
    assert run_distributed(2, filled_by_rank, 2) == [alone, alone]


@pytest.mark.parametrize(
    ("gap", "message"),
    [
        (Gap([1], 0, [2]), "a gap of 0 tokens"),
        (Gap([], 3, []), "nothing around the gap"),
        (Gap([1] * 9, 3, [1] * 9), "18 tokens around a gap of 3, and the model has 20 positions"),
        (Gap([1], 3, [MASK_ID]), "id 50 is outside of the model's vocabulary of 50"),
    ],
)
def test_a_gap_that_cannot_be_filled_is_refused(model: GPT2, gap: Gap, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fill_gaps(model, [gap], mask_id=MASK_ID, sampling=GREEDY)
    assert fill_gaps(model, [], mask_id=MASK_ID, sampling=GREEDY) == []
