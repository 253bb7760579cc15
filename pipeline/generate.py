"""A prompt -> its continuation, token by token, with a key-value cache.

The prompt is read as the model was trained to read it: as a prefix, whose tokens all see each other, or causally. Then
each new token sees everything before it. None of this needs a mask.

Shape suffixes: S tokens read at once, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from foreword.errors import ConfigError
from pipeline.attention.sdpa import SdpaPlan
from pipeline.model import GPT2

GREEDY = 0.0


@torch.no_grad()
def generate(
    model: GPT2,
    prompt_ids: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    prefix: bool = True,
    stop_id: int | None = None,
) -> list[int]:
    """Continue a prompt.

    Args:
        model: on any device; every rank of its tensor-parallel group must call this alike.
        prompt_ids: at least one id, at most as many as the model has positions.
        max_new_tokens: fewer come when `stop_id` does, or when the model has no positions left.
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: keep the k likeliest tokens.
        top_p: keep the likeliest tokens that together reach this probability (nucleus sampling, Holtzman et al. 2020).
        seed: of the draws; the same seed gives the same tokens.
        prefix: read the prompt in both directions; False reads it causally.
        stop_id: ends the continuation and is not part of it.

    Returns:
        The new ids.

    Raises:
        ConfigError: an empty prompt, one that is too long, or an id outside of the vocabulary.
    """
    _check(model, prompt_ids)
    device = model.ln_f.weight.device
    generator = torch.Generator().manual_seed(seed)
    positions = min(len(prompt_ids) + max_new_tokens, model.config.max_position_embeddings)
    cache = model.new_cache(batch_size=1, max_tokens=positions)
    plan = SdpaPlan(is_causal=not prefix)
    unread, generated = list(prompt_ids), list[int]()
    while len(generated) < max_new_tokens and cache.length + len(unread) <= positions:
        tokens_1S = torch.tensor([unread], device=device)
        position_ids_1S = torch.arange(cache.length, cache.length + len(unread), device=device)[None]
        hidden_SD = model.hidden(tokens_1S, position_ids_1S, plan, cache)
        logits_V = model.logits(hidden_SD[-1:])[0].float().cpu()
        token = choose(logits_V, temperature, top_k, top_p, generator)
        if token == stop_id:
            break
        generated.append(token)
        unread, plan = [token], SdpaPlan()
    return generated


def choose(
    logits_V: Tensor, temperature: float, top_k: int | None, top_p: float | None, generator: torch.Generator
) -> int:
    """One token id from logits (fp32 [V] on the CPU); arguments as in `generate`."""
    if temperature == GREEDY:
        return int(logits_V.argmax())
    # the largest becomes 0, so that no temperature, however small, makes it infinite
    logits_V = (logits_V - logits_V.max()).double() / temperature
    if top_k is not None and top_k < len(logits_V):
        logits_V = logits_V.masked_fill(logits_V < logits_V.topk(top_k).values[-1], -torch.inf)
    probabilities_V = logits_V.softmax(-1)
    if top_p is not None:
        sorted_V, ids_V = probabilities_V.sort(descending=True, stable=True)
        before_V = sorted_V.cumsum(-1) - sorted_V  # the likeliest token is always kept
        probabilities_V[ids_V[before_V >= top_p]] = 0.0
    return int(torch.multinomial(probabilities_V, 1, generator=generator))


def _check(model: GPT2, prompt_ids: Sequence[int]) -> None:
    positions = model.config.max_position_embeddings
    if not prompt_ids:
        raise ConfigError("the prompt is empty", where="prompt", remedy="give at least one token to continue from")
    if len(prompt_ids) > positions:
        raise ConfigError(
            f"the prompt has {len(prompt_ids)} tokens and the model {positions} positions",
            where="prompt",
            remedy=f"shorten it; {positions} tokens leave room for one new token",
        )
    outside = [i for i in prompt_ids if not 0 <= i < model.vocab_size]
    if outside:
        raise ConfigError(
            f"id {outside[0]} is outside of the model's vocabulary of {model.vocab_size}",
            where="prompt",
            remedy="encode it with the tokenizer that the model was trained with",
        )
