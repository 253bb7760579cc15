"""Generated tokens are those of a model that reads everything again for each token, under the one rule."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from processes import run_distributed
from tiny_gpt2 import make_gpt2, save_gpt2
from torch import Tensor

from foreword.errors import ConfigError
from pipeline.commands.trained import generate as generate_command
from pipeline.config import ModelConfig
from pipeline.data.batch import make_batch
from pipeline.distributed.parallel import Parallel, initialize
from pipeline.generate import choose, generate
from pipeline.model import GPT2, build_model
from pipeline.weights.hugging_face import import_weights

CONFIG = ModelConfig(
    num_layers=2, hidden_size=32, num_attention_heads=4, max_position_embeddings=20, initializer_range=0.3
)
VOCAB_SIZE = 50
PROMPT = [7, 3, 40, 3, 11]
NEW_TOKENS = 12


@pytest.fixture
def model(one_process: Parallel) -> Iterator[GPT2]:
    return build_model(CONFIG, VOCAB_SIZE, seed=5)


def next_logits(model: GPT2, ids: list[int], prefix_len: int) -> Tensor:
    """[V] after `ids`, all of them read at once as one segment with its prefix."""
    batch = make_batch(np.array([[*ids, 0]]), [np.array([[0, prefix_len]])], np.array([0]))
    with torch.no_grad():
        hidden_SD = model.hidden(batch.tokens_BS, batch.position_ids_BS, model.backend.prepare(batch))
    return model.logits(hidden_SD)[-1]


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(0.0, None, None), (1.0, None, None), (0.7, 20, 0.9)])
def test_with_the_cache_and_without_the_tokens_are_the_same(
    model: GPT2, prefix: bool, temperature: float, top_k: int | None, top_p: float | None
) -> None:
    draws = torch.Generator().manual_seed(9)
    ids = list(PROMPT)
    for _ in range(NEW_TOKENS):
        logits_V = next_logits(model, ids, prefix_len=len(PROMPT) if prefix else 0)
        ids.append(choose(logits_V, temperature, top_k, top_p, draws))
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": 9}
    assert generate(model, PROMPT, max_new_tokens=NEW_TOKENS, prefix=prefix, **options) == ids[len(PROMPT) :]


def test_reading_the_prompt_in_both_directions_is_not_reading_it_causally(model: GPT2) -> None:
    greedy = {"max_new_tokens": NEW_TOKENS, "temperature": 0.0}
    assert generate(model, PROMPT, prefix=True, **greedy) != generate(model, PROMPT, prefix=False, **greedy)


def test_a_seed_decides_the_draws(model: GPT2) -> None:
    first, again, other = (generate(model, PROMPT, max_new_tokens=NEW_TOKENS, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def generated_by_rank(tensor_parallel_size: int) -> list[int]:
    parallel = initialize(tensor_parallel_size)
    generated = generate(build_model(CONFIG, VOCAB_SIZE, seed=5), PROMPT, max_new_tokens=NEW_TOKENS, seed=3)
    parallel.destroy()
    return generated


def test_every_tensor_parallel_rank_generates_the_same() -> None:
    alone = generated_by_rank(1)
    assert run_distributed(2, generated_by_rank, 2) == [alone, alone]


def test_it_stops_before_the_stop_token(model: GPT2) -> None:
    everything = generate(model, PROMPT, max_new_tokens=NEW_TOKENS, temperature=0.0)
    stop_id = everything[4]
    stopped = generate(model, PROMPT, max_new_tokens=NEW_TOKENS, temperature=0.0, stop_id=stop_id)
    assert stopped == everything[: everything.index(stop_id)]


@pytest.mark.parametrize(("prompt_length", "expected"), [(20, 1), (19, 2), (1, 20)])
def test_it_ends_when_the_positions_are_used_up(model: GPT2, prompt_length: int, expected: int) -> None:
    assert len(generate(model, [1] * prompt_length, max_new_tokens=100)) == expected


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "the prompt is empty"),
        ([1] * 21, "the prompt has 21 tokens and the model 20 positions"),
        ([1, VOCAB_SIZE], "id 50 is outside of the model's vocabulary of 50"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_refused(model: GPT2, prompt: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        generate(model, prompt, max_new_tokens=1)


LOGITS_V = torch.tensor([0.0, 3.0, 1.0, 2.0, -1.0])


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
    draws = torch.Generator().manual_seed(0)
    assert {choose(LOGITS_V, temperature, top_k, top_p, draws) for _ in range(300)} == possible


def test_draws_follow_the_probabilities() -> None:
    draws = torch.Generator().manual_seed(0)
    counts_V = np.bincount([choose(LOGITS_V, 2.0, None, None, draws) for _ in range(4000)], minlength=5)
    np.testing.assert_allclose(counts_V / 4000, (LOGITS_V / 2).softmax(-1), atol=0.03)


def test_the_command_continues_a_prompt_and_names_an_empty_one(tmp_path: Path) -> None:
    save_gpt2(make_gpt2(), tmp_path / "hf")
    import_weights(tmp_path / "hf", tmp_path / "weights")
    arguments = [str(tmp_path / "weights"), "--max-new-tokens", "8", "--prompt"]
    result = CliRunner().invoke(generate_command, [*arguments, "A prompt"], catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout.startswith("A prompt")
    assert len(result.stdout.rstrip("\n")) > len("A prompt")
    for option, value in (("--temperature", "nan"), ("--temperature", "inf"), ("--top-p", "nan"), ("--seed", "9" * 30)):
        assert CliRunner().invoke(generate_command, [*arguments, "A", option, value]).exit_code == 2
    with pytest.raises(ConfigError, match="the prompt is empty"):
        CliRunner().invoke(generate_command, [*arguments, ""], catch_exceptions=False)
