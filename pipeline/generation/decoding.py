"""Prompts -> their continuations, token by token, several rows at once.

A prompt is read as the model was trained to read it: as a prefix, whose tokens all see each other, or causally. Then
each new token sees everything before it.

A row's tokens are the same with a cache and without, alone and among others, unless two tokens are so nearly equally
likely that the order of the additions decides.

Shape suffixes: B rows, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from foreword.errors import ConfigError
from pipeline.generation.reading import CachedReader, Reader, Rereader
from pipeline.generation.sampling import Sampling, choose, draws, same_on_all_ranks, seen_tokens
from pipeline.model import GPT2

EndedBy = Literal["end_of_document", "stop", "length", "positions"]


@dataclass
class Continuation:
    """What a prompt was continued with.

    Attributes:
        ids: the new tokens; an end-of-document token that ended them is not among them.
        ended_by: "end_of_document"; "stop", by who watched the tokens; "length", `max_new_tokens`; "positions", the
            model has no more of them.
    """

    ids: list[int] = field(default_factory=list)
    ended_by: EndedBy = "length"


@torch.inference_mode()
def generate(
    model: GPT2,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampling: Sampling,
    prefix: bool = True,
    stop_id: int | None = None,
    row_keys: Sequence[int] | None = None,
    use_cache: bool = True,
    on_token: Callable[[int, int], bool] | None = None,
) -> list[Continuation]:
    """Continue prompts.

    Args:
        model: on any device and in any precision, without sequence parallelism; every rank of its tensor-parallel
            group must call this alike.
        prompts: ids; each prompt passes `check_prompt`.
        max_new_tokens: fewer come when `stop_id` does, or when the model has no positions left: a prompt that fills
            them all gets one new token.
        sampling: how tokens are chosen.
        prefix: read the prompts in both directions; False reads them causally.
        stop_id: ends a continuation and is not part of it.
        row_keys: of each row, in [0, 2**64): what its draws depend on besides the seed; 0, 1, 2, ... by default.
        use_cache: whether to keep keys and values, or read everything again for each token.
        on_token: called with (row, token) for each new one; True ends that row, with this token.

    Raises:
        ConfigError: as `check_prompt`.
    """
    positions = model.config.max_position_embeddings
    for row, prompt in enumerate(prompts):
        where = "prompt" if len(prompts) == 1 else f"prompt {row}"
        check_prompt(prompt, positions=positions, vocab_size=model.vocab_size, where=where)
    if not prompts:
        return []
    row_keys = range(len(prompts)) if row_keys is None else row_keys
    reader: Reader = (CachedReader if use_cache else Rereader)(model, prompts, max_new_tokens, prefix)
    penalised = sampling.repetition_penalty != 1.0
    seen_BV = seen_tokens(prompts, model.vocab_size, model.ln_f.weight.device) if penalised else None
    rows = [Continuation() for _ in prompts]
    running = set(range(len(prompts)))
    logits_BV = reader.first()
    for number in range(max_new_tokens):
        tokens_B = choose(logits_BV.float(), sampling, draws(sampling.seed, row_keys, number), seen_BV)
        tokens = same_on_all_ranks(tokens_B, model.ranks).tolist()
        for row in sorted(running):
            if tokens[row] == stop_id:
                rows[row].ended_by = "end_of_document"
                running.remove(row)
                continue
            rows[row].ids.append(tokens[row])
            if on_token is not None and on_token(row, tokens[row]):
                rows[row].ended_by = "stop"
                running.remove(row)
            elif len(prompts[row]) + number >= positions and number + 1 < max_new_tokens:
                rows[row].ended_by = "positions"
                running.remove(row)
        if not running or number + 1 == max_new_tokens:
            break
        if seen_BV is not None:
            seen_BV.scatter_(1, tokens_B[:, None], True)
        logits_BV = reader.after(tokens_B)
    return rows


def check_prompt(prompt: Sequence[int], *, positions: int, vocab_size: int, where: str = "prompt") -> None:
    """Whether a model with so many positions and ids can continue a prompt.

    Raises:
        ConfigError: an empty prompt, one that is too long, or an id outside of the vocabulary.
    """
    if not prompt:
        raise ConfigError("the prompt is empty", where=where, remedy="give at least one token to continue from")
    if len(prompt) > positions:
        raise ConfigError(
            f"the prompt has {len(prompt)} tokens and the model {positions} positions",
            where=where,
            remedy=f"shorten it; {positions} tokens leave room for one new token",
        )
    check_ids(prompt, vocab_size, where)


def check_ids(ids: Sequence[int], vocab_size: int, where: str) -> None:
    """Raises ConfigError where an id is outside of the vocabulary."""
    outside = [i for i in ids if not 0 <= i < vocab_size]
    if outside:
        raise ConfigError(
            f"id {outside[0]} is outside of the model's vocabulary of {vocab_size}",
            where=where,
            remedy="encode it with the tokenizer that the model was trained with",
        )
