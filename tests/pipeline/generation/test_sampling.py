"""A token is drawn by its probability among those that are kept, as transformers keeps them."""

import numpy as np
import pytest
import torch
from transformers.generation import logits_process as transformers_has

from pipeline.generation.sampling import Sampling, choose, draws, seen_tokens

LOGITS_V = torch.tensor([0.0, 3.0, 1.0, 2.0, -1.0])


def drawn(sampling: Sampling, times: int) -> list[int]:
    """With draws that are spread evenly over [0, 1), the last as near to 1 as there is."""
    draws_B = np.append(np.arange(times - 1) / times, np.nextafter(1.0, 0.0))
    return choose(LOGITS_V.expand(times, -1), sampling, draws_B).tolist()


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "possible"),
    [
        (0.0, None, None, {1}),
        (1e-300, None, None, {1}),
        (1.0, 1, None, {1}),
        (1.0, 2, None, {1, 3}),
        (1.0, None, 1e-6, {1}),
        (1.0, None, 0.7, {1, 3}),  # the likeliest has probability 0.63, the next 0.23
        (5.0, None, None, {0, 1, 2, 3, 4}),
        (5.0, 99, 1.0, {0, 1, 2, 3, 4}),
    ],
)
def test_only_the_likeliest_tokens_are_drawn(
    temperature: float, top_k: int | None, top_p: float | None, possible: set[int]
) -> None:
    assert set(drawn(Sampling(temperature=temperature, top_k=top_k, top_p=top_p), 300)) == possible


def test_draws_follow_the_probabilities() -> None:
    counts_V = np.bincount(drawn(Sampling(temperature=2.0), 4000), minlength=5)
    np.testing.assert_allclose(counts_V / 4000, (LOGITS_V / 2).softmax(-1), atol=1e-3)


def test_keyed_draws_are_uniform_and_differ_by_seed_row_and_number() -> None:
    many = np.concatenate([draws(seed, range(100), number) for seed in range(10) for number in range(10)])
    assert len(set(many)) == 10_000
    np.testing.assert_allclose(np.histogram(many, bins=10, range=(0, 1))[0] / 10_000, 0.1, atol=0.01)
    np.testing.assert_array_equal(draws(3, [5, 2], 7), [draws(3, [key], 7)[0] for key in (5, 2)])


def test_filters_keep_what_those_of_transformers_keep() -> None:
    logits_BV = torch.randn(64, 40, generator=torch.Generator().manual_seed(0)) * 3
    rows = [list(range(row % 7)) for row in range(64)]
    ids_BS = [torch.tensor([ids], dtype=torch.long) for ids in rows]
    sampling = Sampling(repetition_penalty=1.7, temperature=1.5, top_k=12, top_p=0.8)
    expected_BV = torch.cat(
        [
            transformers_has.RepetitionPenaltyLogitsProcessor(1.7)(ids_1S, logits_1V) if ids_1S.numel() else logits_1V
            for ids_1S, logits_1V in zip(ids_BS, logits_BV[:, None], strict=True)
        ]
    )
    for warper in (
        transformers_has.TemperatureLogitsWarper(1.5),
        transformers_has.TopKLogitsWarper(12),
        transformers_has.TopPLogitsWarper(0.8),
    ):
        expected_BV = warper(None, expected_BV)
    seen_BV = seen_tokens(rows, 40, torch.device("cpu"))
    counts_BV = torch.zeros(64, 40)
    times = 400
    for place in range(times):
        tokens_B = choose(logits_BV, sampling, np.full(64, (place + 0.5) / times), seen_BV)
        counts_BV[torch.arange(64), tokens_B] += 1
    torch.testing.assert_close(counts_BV / times, expected_BV.softmax(-1), rtol=0, atol=1.5 / times)


def test_a_penalty_makes_seen_tokens_less_likely_whatever_the_sign_of_their_logits() -> None:
    logits_1V = torch.tensor([[2.0, 1.5, -1.0, -1.2]])
    seen_1V = torch.tensor([[True, False, True, False]])
    penalty = Sampling(repetition_penalty=2.0, temperature=0.0)
    assert choose(logits_1V, penalty, np.zeros(1), seen_1V).item() == 1
    assert choose(logits_1V[:, 2:], penalty, np.zeros(1), seen_1V[:, 2:]).item() == 1


@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1.0])
@pytest.mark.parametrize(("penalty", "chosen"), [(1e-300, 0), (1e300, 1)])
def test_the_most_extreme_penalty_still_leaves_a_token(temperature: float, penalty: float, chosen: int) -> None:
    logits_BV = torch.tensor([[2.0, 1.0, 0.0, -3.0]] * 9)
    seen_BV = torch.tensor([[True, False, True, True]] * 9)
    sampling = Sampling(repetition_penalty=penalty, temperature=temperature, top_k=1)
    assert choose(logits_BV, sampling, np.arange(9) / 9, seen_BV).tolist() == [chosen] * 9
