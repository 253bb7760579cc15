"""A continuation's likelihood is that of its tokens behind the context, whatever else is in the batch."""

import pytest
import torch
import torch.nn.functional as F

from foreword.errors import DataError
from pipeline.attention.sdpa import SdpaPlan
from pipeline.config.model import ModelConfig
from pipeline.distributed.parallel import Parallel
from pipeline.generation import GREEDY, generate
from pipeline.model import GPT2, build_model
from pipeline.tasks.requests import Likelihood, Request, by_length, likelihoods

VOCAB_SIZE, POSITIONS = 50, 12
CONFIG = ModelConfig(
    num_layers=2, hidden_size=16, num_attention_heads=2, max_position_embeddings=POSITIONS, initializer_range=0.4
)
REQUESTS = [
    Request((1, 2, 3), (4, 5)),
    Request((7,), (8, 9, 10, 11)),
    Request(tuple(range(20, 29)), (30,)),
    Request((3, 1), ()),
    Request(tuple(range(40)), (41, 42, 43)),  # its beginning is left out
    Request((5, 6), tuple(range(20, 20 + POSITIONS))),  # of the context one token is left
]


@torch.no_grad()
def alone(model: GPT2, request: Request, prefix: bool) -> Likelihood:
    """Read by itself, without mask, padding, or batch."""
    request = request.cut_to(POSITIONS)
    context, ids = len(request.context), torch.tensor(request.context + request.continuation)
    inputs = ids[:-1]
    keys = torch.arange(len(inputs))
    visible = (keys <= keys[:, None]) | (keys < context if prefix else torch.zeros(len(inputs), dtype=torch.bool))
    hidden = model.hidden(inputs[None], keys[None], SdpaPlan(mask_B1SS=visible[None, None]))
    logits = model.logits(hidden)[context - 1 :]
    nll = F.cross_entropy(logits, ids[context:], reduction="sum")
    return Likelihood(-float(nll), bool((logits.argmax(-1) == ids[context:]).all()))


@pytest.fixture
def model(one_process: Parallel) -> GPT2:
    return build_model(CONFIG, VOCAB_SIZE, seed=1)


@pytest.mark.parametrize("reading", ["prefix", "causal"])
@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_likelihoods_are_those_of_each_request_read_alone(
    model: GPT2, one_process: Parallel, reading: str, batch_size: int
) -> None:
    found = likelihoods(model, REQUESTS, reading=reading, batch_size=batch_size, parallel=one_process)
    for likelihood, request in zip(found, REQUESTS, strict=True):
        expected = alone(model, request, reading == "prefix") if request.continuation else Likelihood(0.0, True)
        assert likelihood.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-5, abs=1e-5)
        assert likelihood.is_greedy == expected.is_greedy


def test_a_greedy_continuation_is_known_as_one(model: GPT2, one_process: Parallel) -> None:
    prompt = (4, 8, 15)
    for prefix, reading in ((True, "prefix"), (False, "causal")):
        (new,) = (row.ids for row in generate(model, [prompt], max_new_tokens=3, sampling=GREEDY, prefix=prefix))
        wrong = (*new[:2], (new[2] + 1) % VOCAB_SIZE)
        asked = [Request(prompt, tuple(new)), Request(prompt, wrong)]
        first, second = likelihoods(model, asked, reading=reading, batch_size=2, parallel=one_process)
        assert first.is_greedy and not second.is_greedy
        assert first.log_likelihood > second.log_likelihood


def test_batches_hold_every_request_once_the_longest_first() -> None:
    batches = list(by_length(REQUESTS, 4))
    assert sorted(index for batch in batches for index in batch) == list(range(len(REQUESTS)))
    lengths = [REQUESTS[index].length for batch in batches for index in batch]
    assert lengths == sorted(lengths, reverse=True)


def test_a_continuation_without_room_is_refused(model: GPT2, one_process: Parallel) -> None:
    request = Request((1,), tuple(range(POSITIONS + 1)))
    with pytest.raises(DataError, match="continuation has 13 tokens and the model 12 positions"):
        likelihoods(model, [request], reading="causal", batch_size=1, parallel=one_process)
