"""Two contexts with a gap between them -> the tokens of the gap, by a model that was trained on masked tokens.

The gap is read as so many mask tokens; all tokens see each other, as in a segment of the objective `bidirectional`. Of
all open tokens of a gap the one that the model is surest about is decided first, and read from then on; then the next,
until none is open. So each token is chosen in the light of those before it. (Mask-predict, Ghazvininejad et al. 2019,
arXiv 1904.09324, decides several at once, in fewer passes.)

Shape suffixes: O open tokens of all rows, B rows that have any, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from foreword.errors import ConfigError
from pipeline.generation.decoding import check_ids
from pipeline.generation.reading import logits_at
from pipeline.generation.sampling import Sampling, choose, draws, same_on_all_ranks, seen_tokens
from pipeline.model import GPT2


@dataclass(frozen=True)
class Gap:
    """A gap of `length` tokens between the ids before it and the ids after it."""

    before: Sequence[int]
    length: int
    after: Sequence[int]


@torch.inference_mode()
def fill_gaps(
    model: GPT2,
    gaps: Sequence[Gap],
    *,
    mask_id: int,
    sampling: Sampling,
    row_keys: Sequence[int] | None = None,
) -> list[list[int]]:
    """The ids of each gap.

    Args:
        model: on any device; every rank of its tensor-parallel group must call this alike.
        gaps: each passes `check_gap`.
        mask_id: what the model was trained to read in place of a token, see `pipeline.vocabulary`.
        sampling: how a token is chosen where one is decided; which one is decided is never drawn.
        row_keys: as `generate` takes them.

    Raises:
        ConfigError: as `check_gap`.
    """
    for row, gap in enumerate(gaps):
        where = "the gap" if len(gaps) == 1 else f"gap {row}"
        positions = model.config.max_position_embeddings
        check_gap(gap, positions=positions, vocab_size=model.vocab_size, where=where)
    keys = np.arange(len(gaps)) if row_keys is None else np.array(row_keys, dtype=np.uint64)
    rows = [[*gap.before, *[mask_id] * gap.length, *gap.after] for gap in gaps]
    is_open = [[*[False] * len(gap.before), *[True] * gap.length, *[False] * len(gap.after)] for gap in gaps]
    for number in range(max((gap.length for gap in gaps), default=0)):
        places = [(row, column) for row, columns in enumerate(is_open) for column in np.flatnonzero(columns)]
        row_O, column_O = np.array(places).T
        logits_OV = logits_at(model, rows, list(map(len, rows)), row_O, column_O).float()
        surest_O = same_on_all_ranks(logits_OV.log_softmax(-1).amax(-1), model.ranks).cpu().numpy()
        by_row_surest_first = np.lexsort((column_O, -surest_O, row_O))
        row_B, first_of_row = np.unique(row_O[by_row_surest_first], return_index=True)
        decided_B = by_row_surest_first[first_of_row]
        seen_BV = None
        if sampling.repetition_penalty != 1.0:
            known = [[i for i in rows[row] if i != mask_id] for row in row_B]
            seen_BV = seen_tokens(known, model.vocab_size, logits_OV.device)
        tokens_B = choose(logits_OV[decided_B], sampling, draws(sampling.seed, keys[row_B], number), seen_BV)
        tokens = same_on_all_ranks(tokens_B, model.ranks).tolist()
        for row, column, token in zip(row_B, column_O[decided_B], tokens, strict=True):
            rows[row][column], is_open[row][column] = token, False
    return [row[len(gap.before) : len(gap.before) + gap.length] for row, gap in zip(rows, gaps, strict=True)]


def check_gap(gap: Gap, *, positions: int, vocab_size: int, where: str = "the gap") -> None:
    """Whether a model with so many positions and ids can fill a gap.

    Raises:
        ConfigError: no token in it or none around it, more tokens than positions, or an id outside of the vocabulary.
    """
    around = [*gap.before, *gap.after]
    if gap.length < 1:
        raise ConfigError(f"a gap of {gap.length} tokens", where=where, remedy="ask for at least one")
    if not around:
        raise ConfigError("there is nothing around the gap", where=where, remedy="give a text before or after it")
    if len(around) + gap.length > positions:
        raise ConfigError(
            f"{len(around)} tokens around a gap of {gap.length}, and the model has {positions} positions",
            where=where,
            remedy="shorten the texts around the gap",
        )
    check_ids(around, vocab_size, where)
