"""Rows and their segments -> one batch: what each token may see, what is scored, and where each token stands.

The one rule: query q sees key k exactly when both are in the same segment and

    k <= q   or   k < prefix_end

What is scored follows from the same table of segments (`segments`), in one of two ways:

- the position at column i predicts token i + 1. It is scored when both are in the same segment, that segment is not
  padding, and token i + 1 lies behind the prefix; so the last prefix token predicts the first target, and no label that
  can already be seen is ever scored;
- in a masked segment, which is all prefix, the position at column i predicts token i itself. It is scored where the
  token was chosen (`masking`), and what is read there is another token, or in some places on purpose the same.

So a label is always "the token that this position is asked for", and attention, loss mask, labels and positions all
come from the same few integers per segment and cannot disagree.

Shape suffixes: B rows, S columns (sequence length), N scored positions, G segments of all rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.data.masking import MaskedTokens
from pipeline.data.segments import Segments, segments_of


@dataclass(frozen=True)
class Batch:
    """One micro-batch. All tensors are on one device.

    Attributes:
        tokens_BS: int64, the inputs, masked tokens replaced.
        labels_BS: int64, the token that each position is asked for: the next one, or in masked segments the position's
            own; meaningful where `loss_mask_BS` is True.
        loss_mask_BS: bool, the scored positions.
        scored_N: int64, the same positions as indices into the flattened [B * S], in ascending order; known without
            asking the device.
        position_ids_BS: int64, distance from the segment's start.
        segment_ids_BS: int32, 0, 1, 2, ... within the row; padding is a segment of its own.
        prefix_end_BS: int32, the column at which the prefix of this token's segment ends; the segment's start when it
            has none.
        segments_G3: int64 on the CPU, what the per-token tensors say, per segment and in order: its start in the
            flattened [B * S], its length there, and how many of these tokens are its prefix. They tile [0, B * S).
        row_ids: int64 [B] on the CPU, the rows' numbers in their split.
        corpus_ids: int64 [B] on the CPU, which of the run's corpora (`Corpora.by_name`) each row is from.
    """

    tokens_BS: Tensor
    labels_BS: Tensor
    loss_mask_BS: Tensor
    scored_N: Tensor
    position_ids_BS: Tensor
    segment_ids_BS: Tensor
    prefix_end_BS: Tensor
    segments_G3: np.ndarray
    row_ids: np.ndarray
    corpus_ids: np.ndarray

    @property
    def num_targets(self) -> int:
        """How many positions are scored."""
        return self.scored_N.numel()

    @property
    def segment_start_BS(self) -> Tensor:
        """int64, the column at which each token's segment starts."""
        columns_S = torch.arange(self.tokens_BS.shape[1], device=self.tokens_BS.device)
        return columns_S - self.position_ids_BS

    @property
    def prefix_len_BS(self) -> Tensor:
        """int64, how many tokens of each token's segment are read in both directions."""
        return self.prefix_end_BS - self.segment_start_BS

    @property
    def key_end_BS(self) -> Tensor:
        """int64, the first column that each token does not see: the rule is `segment_start_BS <= k < key_end_BS`."""
        columns_S = torch.arange(self.tokens_BS.shape[1], device=self.tokens_BS.device)
        return torch.maximum(columns_S + 1, self.prefix_end_BS).clamp(max=len(columns_S))

    def read_causally(self) -> "Batch":
        """The same batch, scored at the same positions, with every prefix read from left to right."""
        segments_G3 = self.segments_G3.copy()
        segments_G3[:, 2] = 0
        return replace(self, prefix_end_BS=self.segment_start_BS.int(), segments_G3=segments_G3)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`, copied without waiting for it."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory, from where a GPU copies by itself."""
        return self._with_tensors(Tensor.pin_memory)

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {name: change(value) for name, value in values.items() if isinstance(value, Tensor)}
        return Batch(**values)


def make_batch(
    tokens: np.ndarray,
    segments: Sequence[np.ndarray],
    row_ids: np.ndarray,
    *,
    visibility: Literal["shard", "causal"] = "shard",
) -> Batch:
    """Build a batch on the CPU.

    Args:
        tokens: [B, S + 1], any integer type; inputs are the first S columns and labels the last S.
        segments: for each row int [k, 2], as `segments_of` takes them.
        row_ids: int [B], for logs.
        visibility: "shard" reads prefixes in both directions; "causal" reads them from left to right and still scores
            only what lies behind them.

    Raises:
        DataError: a row's segments do not start at 0, do not ascend, or reach beyond the row.
    """
    table = segments_of(segments, tokens.shape[1], where=lambda index: f"row {row_ids[index]}")
    batch = batch_of(tokens, table, row_ids)
    return batch if visibility == "shard" else batch.read_causally()


def batch_of(
    tokens: np.ndarray,
    segments: Segments,
    row_ids: np.ndarray,
    *,
    corpus_ids: np.ndarray | None = None,
    masked: MaskedTokens | None = None,
) -> Batch:
    """Build a batch on the CPU from a table of segments.

    Args:
        tokens: [B, S + 1], any integer type.
        segments: of these rows.
        row_ids: int [B], for logs.
        corpus_ids: int [B], for logs; None when all rows are from one corpus.
        masked: the chosen tokens of the masked segments; None when there are no such segments.
    """
    num_rows, row_length = tokens.shape
    # one entry per token, [B, S + 1]
    segment = np.repeat(np.arange(len(segments.start)), segments.length).reshape(num_rows, row_length)
    position = np.arange(row_length) - segments.start[segment]
    in_prefix = position < segments.prefix_len[segment]
    is_padding = segments.is_padding[segment]
    same_segment = segment[:, 1:] == segment[:, :-1]
    loss_mask = same_segment & ~in_prefix[:, 1:] & ~is_padding[:, 1:]

    inputs = segment[:, :-1]
    input_ids, label_ids = tokens[:, :-1].astype(np.int64), tokens[:, 1:].astype(np.int64)
    if masked is not None:
        label_ids = np.where(segments.masked[inputs], input_ids, label_ids)
        input_ids[masked.row, masked.column] = masked.read_as
        loss_mask[masked.row, masked.column] = True
    prefix_end = segments.start + np.maximum(segments.prefix_len, 0)
    num_inputs = segments.num_inputs
    prefix_inputs = np.clip(segments.prefix_len, 0, num_inputs)
    in_inputs = np.stack([segments.row * (row_length - 1) + segments.start, num_inputs, prefix_inputs], axis=1)
    return Batch(
        tokens_BS=torch.from_numpy(input_ids),
        labels_BS=torch.from_numpy(label_ids),
        loss_mask_BS=torch.from_numpy(loss_mask),
        scored_N=torch.from_numpy(np.flatnonzero(loss_mask)),
        position_ids_BS=torch.from_numpy(position[:, :-1].copy()),
        segment_ids_BS=torch.from_numpy(segments.number[inputs].astype(np.int32)),
        prefix_end_BS=torch.from_numpy(prefix_end[inputs].astype(np.int32)),
        segments_G3=in_inputs[num_inputs > 0],
        row_ids=np.asarray(row_ids, dtype=np.int64),
        corpus_ids=np.zeros(num_rows, dtype=np.int64) if corpus_ids is None else corpus_ids,
    )
