"""Rows that grow by a token at a time -> the logits of what comes next, with a cache of keys and values or without.

With a cache a token is read once. Rows of different lengths end at the same column and begin at different ones; what
stands before them is seen by nobody. Without one each row is read again for every token, by the batches and the
attention that training uses: as a prefix of the prompt's length, and the tokens behind it.

Shape suffixes: B rows, S columns read at once, K columns in the cache and new ones, T = B * S tokens, D hidden size, V
vocabulary, N tokens asked for.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from data_prep.shards import PADDING
from pipeline.attention.sdpa import SdpaPlan
from pipeline.data.batch import make_batch
from pipeline.model import GPT2


class Reader(Protocol):
    """Reads prompts, and then rows that grow."""

    def first(self) -> Tensor:
        """Logits [B, V] of what comes after the prompts."""

    def after(self, tokens_B: Tensor) -> Tensor:
        """Logits [B, V] after one more token in each row; of a row that has ended they have no meaning."""


def logits_at(
    model: GPT2, rows: Sequence[Sequence[int]], prefix_len: Sequence[int], row_N: np.ndarray, column_N: np.ndarray
) -> Tensor:
    """Logits [N, V] at single tokens of rows that are each a segment with its prefix."""
    longest = max(map(len, rows))
    tokens = np.zeros((len(rows), longest + 1), dtype=np.int64)  # the last column is a label
    for padded, ids in zip(tokens, rows, strict=True):
        padded[: len(ids)] = ids
    segments = [np.array([(0, p), (len(ids), PADDING)]) for p, ids in zip(prefix_len, rows, strict=True)]
    batch = make_batch(tokens, segments, np.arange(len(rows))).to(model.ln_f.weight.device)
    hidden_TD = model.hidden(batch.tokens_BS, batch.position_ids_BS, model.backend.prepare(batch))
    return model.logits(hidden_TD[row_N * longest + column_N])


class CachedReader:
    """Keeps keys and values."""

    def __init__(self, model: GPT2, prompts: Sequence[Sequence[int]], max_new_tokens: int, prefix: bool) -> None:
        self.model, self.prefix = model, prefix
        device = model.ln_f.weight.device
        longest = max(map(len, prompts))
        before = [longest - len(prompt) for prompt in prompts]
        self.tokens_BS = torch.tensor(
            [[0] * missing + list(prompt) for missing, prompt in zip(before, prompts, strict=True)], device=device
        )
        self.start_B = torch.tensor(before, device=device)
        self.all_begin_together = not any(before)
        # no row goes further than its positions, and the last token is not read
        room = min(max_new_tokens, model.config.max_position_embeddings - min(map(len, prompts)) + 1)
        self.cache = model.new_cache(len(prompts), longest + room - 1)

    def first(self) -> Tensor:
        """See `Reader`."""
        columns_S = torch.arange(self.tokens_BS.shape[1], device=self.start_B.device)
        if self.all_begin_together:
            return self._read(self.tokens_BS, SdpaPlan(is_causal=not self.prefix))
        is_real_B1S = (columns_S >= self.start_B[:, None])[:, None]
        visible_BSS = is_real_B1S if self.prefix else is_real_B1S & (columns_S <= columns_S[:, None])
        itself_SS = columns_S == columns_S[:, None]  # so that what stands before a row has something to see
        return self._read(self.tokens_BS, SdpaPlan(mask_B1SS=(visible_BSS | itself_SS)[:, None]))

    def after(self, tokens_B: Tensor) -> Tensor:
        """See `Reader`."""
        columns_K = torch.arange(self.cache.length + 1, device=self.start_B.device)
        mask_B11K = None if self.all_begin_together else (columns_K >= self.start_B[:, None])[:, None, None]
        return self._read(tokens_B[:, None], SdpaPlan(mask_B1SS=mask_B11K))

    def _read(self, tokens_BS: Tensor, plan: SdpaPlan) -> Tensor:
        column, num_rows = self.cache.length, len(tokens_BS)
        columns_S = torch.arange(column, column + tokens_BS.shape[1], device=tokens_BS.device)
        # what stands before a row is read as at position 0; rows that have ended may run out of positions
        last_position = self.model.config.max_position_embeddings - 1
        position_ids_BS = (columns_S - self.start_B[:, None]).clamp(0, last_position)
        hidden_TD = self.model.hidden(tokens_BS, position_ids_BS, plan, self.cache)
        return self.model.logits(hidden_TD.unflatten(0, (num_rows, -1))[:, -1])


class Rereader:
    """Reads everything again."""

    def __init__(self, model: GPT2, prompts: Sequence[Sequence[int]], max_new_tokens: int, prefix: bool) -> None:
        self.model = model
        self.rows = [list(prompt) for prompt in prompts]
        self.prefix_len = [len(prompt) if prefix else 0 for prompt in prompts]

    def first(self) -> Tensor:
        """See `Reader`."""
        last = np.array([len(ids) - 1 for ids in self.rows])
        return logits_at(self.model, self.rows, self.prefix_len, np.arange(len(self.rows)), last)

    def after(self, tokens_B: Tensor) -> Tensor:
        """See `Reader`."""
        for ids, token in zip(self.rows, tokens_B.tolist(), strict=True):
            if len(ids) < self.model.config.max_position_embeddings:  # a row that has ended may have them all
                ids.append(token)
        return self.first()
