"""Rows and their segments -> one batch: what each token may see, what is scored, and where each token stands.

The one rule: query q sees key k exactly when both are in the same segment and

    k <= q   or   k < prefix_end

The position at column i predicts token i + 1. It is scored when both are in the same segment, that segment is not
padding, and token i + 1 lies behind the prefix; so the last prefix token predicts the first target, and no label that
can already be seen is ever scored. Attention, loss mask and positions all come from the same per-token (segment start,
prefix length), so they cannot disagree.

Shape suffixes: B rows, S columns (sequence length), N scored positions, G segments of all rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from data_prep.shards import PADDING
from foreword.errors import DataError


@dataclass(frozen=True)
class Batch:
    """One micro-batch. All tensors are on one device.

    Attributes:
        tokens_BS: int64, the inputs.
        labels_BS: int64, the token that follows each input; meaningful where `loss_mask_BS` is True.
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
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        return Batch(**values | {name: value.to(device, non_blocking=True) for name, value in tensors.items()})


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
        segments: for each row int [k, 2], (start column, prefix length) of its segments in order. A segment ends where
            the next one starts, the last one at S + 1; a prefix length of -1 marks padding.
        row_ids: int [B], for logs.
        visibility: "shard" reads prefixes in both directions; "causal" reads them from left to right and still scores
            only what lies behind them.

    Raises:
        DataError: a row's segments do not start at 0, do not ascend, or reach beyond the row.
    """
    num_rows, row_length = tokens.shape
    # one entry per segment, all rows after one another
    segments_per_row = np.array([len(row) for row in segments])
    start, prefix_len = np.concatenate(list(segments)).astype(np.int64).T
    row = np.repeat(np.arange(num_rows), segments_per_row)
    end = np.append(start[1:], row_length)
    is_last_of_row = np.append(row[1:] != row[:-1], True)
    end[is_last_of_row] = row_length
    length = end - start
    first_of_row = np.append(0, np.cumsum(segments_per_row)[:-1])
    _check_segments(start, prefix_len, length, row, first_of_row, segments_per_row, row_ids)

    # one entry per token, [B, S + 1]
    segment = np.repeat(np.arange(len(start)), length).reshape(num_rows, row_length)
    position = np.arange(row_length) - start[segment]
    in_prefix = position < prefix_len[segment]
    is_padding = prefix_len[segment] == PADDING
    same_segment = segment[:, 1:] == segment[:, :-1]
    loss_mask = same_segment & ~in_prefix[:, 1:] & ~is_padding[:, 1:]

    inputs = segment[:, :-1]
    prefix_end = start + np.maximum(prefix_len, 0)
    # the last column is a label only: what lies there has no input
    num_inputs = np.minimum(end, row_length - 1) - start
    in_inputs = np.stack([row * (row_length - 1) + start, num_inputs, np.clip(prefix_len, 0, num_inputs)], axis=1)
    batch = Batch(
        tokens_BS=torch.from_numpy(tokens[:, :-1].astype(np.int64)),
        labels_BS=torch.from_numpy(tokens[:, 1:].astype(np.int64)),
        loss_mask_BS=torch.from_numpy(loss_mask),
        scored_N=torch.from_numpy(np.flatnonzero(loss_mask)),
        position_ids_BS=torch.from_numpy(position[:, :-1].copy()),
        segment_ids_BS=torch.from_numpy((inputs - first_of_row[:, None]).astype(np.int32)),
        prefix_end_BS=torch.from_numpy(prefix_end[inputs].astype(np.int32)),
        segments_G3=in_inputs[num_inputs > 0],
        row_ids=np.asarray(row_ids, dtype=np.int64),
    )
    return batch if visibility == "shard" else batch.read_causally()


def _check_segments(
    start: np.ndarray,
    prefix_len: np.ndarray,
    length: np.ndarray,
    row: np.ndarray,
    first_of_row: np.ndarray,
    segments_per_row: np.ndarray,
    row_ids: np.ndarray,
) -> None:
    """Refuse segments that do not tile their rows: from them nothing below could be trusted."""
    empty = np.flatnonzero(segments_per_row == 0)
    late = empty if empty.size else np.flatnonzero(start[first_of_row] != 0)
    if late.size:
        raise DataError("no segment starts at column 0", where=f"row {row_ids[late[0]]}")
    wrong = np.flatnonzero((length <= 0) | (prefix_len > length) | (prefix_len < PADDING))
    if wrong.size:
        k = wrong[0]
        raise DataError(
            f"the segment at column {start[k]} has length {length[k]} and prefix length {prefix_len[k]}",
            where=f"row {row_ids[row[k]]}",
        )
