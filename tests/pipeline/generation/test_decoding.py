"""Generated tokens are those of a model that reads everything again for each token, under the one rule."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from processes import run_distributed
from torch import Tensor

from foreword.errors import CheckpointError, ConfigError
from pipeline.config.model import ModelConfig
from pipeline.data.batch import make_batch
from pipeline.distributed.parallel import Parallel, initialize
from pipeline.generation import GREEDY, Sampling, generate
from pipeline.generation.sampling import choose, draws
from pipeline.model import GPT2, build_model

CONFIG = ModelConfig(
    num_layers=2, hidden_size=32, num_attention_heads=4, max_position_embeddings=20, initializer_range=0.3
)
VOCAB_SIZE = 50
PROMPT = [7, 3, 40, 3, 11]
PROMPTS = [PROMPT, [9], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [30, 31]]
NEW_TOKENS = 10
DRAWN = Sampling(temperature=0.7, top_k=20, top_p=0.9, repetition_penalty=1.3, seed=9)
WAYS = [GREEDY, Sampling(seed=9), DRAWN]


@pytest.fixture
def model(one_process: Parallel) -> Iterator[GPT2]:
    return build_model(CONFIG, VOCAB_SIZE, seed=5)


def next_logits(model: GPT2, ids: list[int], prefix_len: int) -> Tensor:
    """[V] after `ids`, all of them read at once as one segment with its prefix."""
    batch = make_batch(np.array([[*ids, 0]]), [np.array([[0, prefix_len]])], np.array([0]))
    with torch.no_grad():
        hidden_SD = model.hidden(batch.tokens_BS, batch.position_ids_BS, model.backend.prepare(batch))
    return model.logits(hidden_SD)[-1]


def read_again_for_each_token(model: GPT2, prompt: list[int], prefix: bool, sampling: Sampling, key: int) -> list[int]:
    ids = list(prompt)
    for number in range(NEW_TOKENS):
        logits_1V = next_logits(model, ids, prefix_len=len(prompt) if prefix else 0)[None]
        seen_1V = torch.zeros_like(logits_1V, dtype=torch.bool)
        seen_1V[0, ids] = True
        ids.append(int(choose(logits_1V, sampling, draws(sampling.seed, [key], number), seen_1V)))
    return ids[len(prompt) :]


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("sampling", WAYS, ids=["greedy", "drawn", "filtered"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_together_and_alone_with_the_cache_and_without_the_tokens_are_the_same(
    model: GPT2, prefix: bool, sampling: Sampling, use_cache: bool
) -> None:
    expected = [read_again_for_each_token(model, prompt, prefix, sampling, key) for key, prompt in enumerate(PROMPTS)]
    options = {"max_new_tokens": NEW_TOKENS, "sampling": sampling, "prefix": prefix, "use_cache": use_cache}
    together = generate(model, PROMPTS, **options)
    assert [continuation.ids for continuation in together] == expected
    for key, prompt in enumerate(PROMPTS):
        (alone,) = generate(model, [prompt], row_keys=[key], **options)
        assert alone == together[key]


def test_logits_of_rows_that_are_padded_are_those_of_rows_alone(model: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only the tokens: what stands before a shorter row, and what it is read as, moves nothing."""
    seen: list[Tensor] = []
    original = model.logits
    monkeypatch.setattr(model, "logits", lambda hidden: seen.append(original(hidden)) or seen[-1])
    for prefix in (True, False):
        together, alone = [], []
        for prompts, kept in ((PROMPTS, together), *(([prompt], alone) for prompt in PROMPTS)):
            seen.clear()
            generate(model, prompts, max_new_tokens=4, sampling=GREEDY, prefix=prefix)
            kept.append(torch.stack(seen))
        torch.testing.assert_close(together[0], torch.cat(alone, dim=1), rtol=1e-5, atol=1e-5)


def test_reading_the_prompt_in_both_directions_is_not_reading_it_causally(model: GPT2) -> None:
    by_prefix, causal = (
        generate(model, [PROMPT], max_new_tokens=NEW_TOKENS, sampling=GREEDY, prefix=prefix) for prefix in (True, False)
    )
    assert by_prefix != causal


def test_a_seed_and_the_rows_key_decide_the_draws(model: GPT2) -> None:
    def drawn(seed: int, key: int) -> list[int]:
        sampling = Sampling(seed=seed)
        return generate(model, [PROMPT], max_new_tokens=NEW_TOKENS, sampling=sampling, row_keys=[key])[0].ids

    assert drawn(1, 0) == drawn(1, 0)
    assert len({tuple(drawn(seed, key)) for seed, key in ((1, 0), (2, 0), (1, 1), (1, 2**64 - 1))}) == 4


def generated_by_rank(tensor_parallel_size: int) -> list[list[int]]:
    parallel = initialize(tensor_parallel_size)
    model = build_model(CONFIG, VOCAB_SIZE, seed=5)
    generated = [
        continuation.ids
        for use_cache in (True, False)
        for sampling in (GREEDY, DRAWN)
        for continuation in generate(model, PROMPTS, max_new_tokens=NEW_TOKENS, sampling=sampling, use_cache=use_cache)
    ]
    parallel.destroy()
    return generated


def test_every_tensor_parallel_rank_generates_the_same() -> None:
    alone = generated_by_rank(1)
    assert run_distributed(2, generated_by_rank, 2) == [alone, alone]


@pytest.mark.parametrize("use_cache", [True, False])
def test_each_row_ends_before_its_own_end_of_document(model: GPT2, use_cache: bool) -> None:
    endless = generate(model, PROMPTS, max_new_tokens=NEW_TOKENS, sampling=GREEDY)
    stop_id = next(i for row in endless for i in row.ids[2:] if not all(i in other.ids for other in endless))
    ended = generate(model, PROMPTS, max_new_tokens=NEW_TOKENS, sampling=GREEDY, stop_id=stop_id, use_cache=use_cache)
    for row, all_of_it in zip(ended, endless, strict=True):
        stops = stop_id in all_of_it.ids
        assert row.ids == (all_of_it.ids[: all_of_it.ids.index(stop_id)] if stops else all_of_it.ids)
        assert row.ended_by == ("end_of_document" if stops else "length")
    assert {row.ended_by for row in ended} == {"end_of_document", "length"}


def test_who_watches_the_tokens_ends_a_row_and_no_other(model: GPT2) -> None:
    endless = generate(model, PROMPTS, max_new_tokens=NEW_TOKENS, sampling=GREEDY)
    seen: list[tuple[int, int]] = []

    def stop_row_1_at_its_third(row: int, token: int) -> bool:
        seen.append((row, token))
        return row == 1 and sum(r == 1 for r, _ in seen) == 3

    rows = generate(model, PROMPTS, max_new_tokens=NEW_TOKENS, sampling=GREEDY, on_token=stop_row_1_at_its_third)
    assert [row.ids for row in rows] == [row.ids[: 3 if i == 1 else None] for i, row in enumerate(endless)]
    assert [row.ended_by for row in rows] == ["length", "stop", "length", "length"]
    assert [[token for r, token in seen if r == row] for row in range(4)] == [row.ids for row in rows]


@pytest.mark.parametrize("use_cache", [True, False])
def test_each_row_ends_when_its_positions_are_used_up(model: GPT2, use_cache: bool) -> None:
    prompts = [[1] * 20, [1] * 19, [1]]
    rows = generate(model, prompts, max_new_tokens=100, sampling=GREEDY, use_cache=use_cache)
    assert [len(row.ids) for row in rows] == [1, 2, 20]
    assert {row.ended_by for row in rows} == {"positions"}
    assert generate(model, [[1] * 19], max_new_tokens=2, sampling=GREEDY)[0].ended_by == "length"


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([[]], "prompt: the prompt is empty"),
        ([[1] * 21], "the prompt has 21 tokens and the model 20 positions"),
        ([[1, VOCAB_SIZE]], "id 50 is outside of the model's vocabulary of 50"),
        ([[1], [2, -1]], "prompt 1: id -1 is outside"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_refused(model: GPT2, prompts: list[list[int]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        generate(model, prompts, max_new_tokens=1, sampling=GREEDY)


def test_weights_that_diverged_are_named_and_nothing_is_drawn_from_them(model: GPT2) -> None:
    with torch.no_grad():
        model.ln_f.bias.fill_(torch.nan)
    with pytest.raises(CheckpointError, match="logits are not finite numbers"):
        generate(model, [PROMPT], max_new_tokens=1, sampling=Sampling())


def test_no_prompts_have_no_continuations(model: GPT2) -> None:
    assert generate(model, [], max_new_tokens=3, sampling=GREEDY) == []
