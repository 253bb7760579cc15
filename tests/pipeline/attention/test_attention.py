"""Every backend equals attention computed in float64 under a mask written pair by pair, and lets nothing else through.

`varlen` runs here over `varlen_attn` written in plain PyTorch, in float64: all that is its own (sequences, indices,
what is gathered and scattered, and the gradients of that) is in the comparison, and only the kernel is not. `flex` has
no backward pass on a CPU: its block mask decides the backward pass as well, and is compared with the mask bit by bit.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from attention_oracle import attend, batch_of, leaves, mask_of
from emulated_varlen import emulated_varlen_attn
from hypothesis import example, given, settings
from segment_lists import Segments, rows_of_segments
from torch import Tensor
from torch.nn.attention import varlen

from data_prep.shards import PADDING
from foreword.errors import ConfigError
from pipeline.attention import AttentionBackend, select_backend
from pipeline.attention.flex import BLOCK, FlexBackend, block_mask
from pipeline.attention.sdpa import SdpaBackend
from pipeline.attention.sequences import split_sequences
from pipeline.attention.varlen import VarlenBackend
from pipeline.plan.flops import attended_pairs

# flex_attention is compiled on a GPU only
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
Rows = tuple[list[Segments], int]


@dataclass(frozen=True)
class Case:
    """A backend, the precision it is tested in, and how far from the oracle it may be."""

    backend: AttentionBackend
    dtype: torch.dtype
    tolerance: float
    has_backward: bool = True


CASES = {
    "sdpa": Case(SdpaBackend(), torch.float32, 1e-5),
    "varlen": Case(VarlenBackend(), torch.float64, 1e-12),
    "flex": Case(FlexBackend(), torch.float32, 1e-5, has_backward=False),
}
on_each_backend = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@pytest.fixture(autouse=True, scope="module")
def varlen_on_cpu():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(varlen, "varlen_attn", emulated_varlen_attn)
        yield


def assert_equals_the_oracle(case: Case, rows: list[Segments], row_length: int) -> None:
    exact, weights = leaves(len(rows), row_length - 1, seed=row_length)
    inputs = [tensor.detach().to(case.dtype).requires_grad_(case.has_backward) for tensor in exact]
    expected = attend(*exact, mask_of(rows, row_length))
    actual = case.backend.prepare(batch_of(rows, row_length)).attend(*inputs)
    torch.testing.assert_close(actual.double(), expected, rtol=case.tolerance, atol=case.tolerance)
    if case.has_backward:
        expected_grads = torch.autograd.grad((expected * weights).sum(), exact)
        actual_grads = torch.autograd.grad((actual * weights).sum(), inputs)
        for got, want in zip(actual_grads, expected_grads, strict=True):
            torch.testing.assert_close(got.double(), want, rtol=10 * case.tolerance, atol=case.tolerance)


@pytest.mark.parametrize("name", ["sdpa", "varlen"])
@settings(max_examples=60)
@given(rows_of_segments())
def test_outputs_and_gradients_equal_the_float64_oracle(name: str, drawn: Rows) -> None:
    assert_equals_the_oracle(CASES[name], *drawn)


@settings(max_examples=8)
@given(rows_of_segments())
def test_flex_outputs_equal_the_float64_oracle(drawn: Rows) -> None:
    assert_equals_the_oracle(CASES["flex"], *drawn)


# rows of two blocks and a bit: full blocks, boundaries on and beside those of the blocks, single tokens, padding
LONG_ROWS: list[Segments] = [
    [(0, 0)],
    [(0, 300)],
    [(0, 256)],
    [(0, 1), (128, 128), (256, PADDING)],
    [(0, 127), (127, 1), (128, 100), (290, 3), (299, PADDING)],
]


@on_each_backend
def test_rows_longer_than_a_block(case: Case) -> None:
    assert_equals_the_oracle(case, LONG_ROWS, 301)


@on_each_backend
def test_only_the_queries_that_see_a_token_notice_it(case: Case) -> None:
    """The leak test: change one token's key and value, and exactly the rows that may see it move."""
    rows, row_length = [[(0, 3), (6, 0), (9, 4), (13, 1), (14, PADDING)], [(0, 16)]], 17
    mask = mask_of(rows, row_length)[:, 0]
    plan = case.backend.prepare(batch_of(rows, row_length))
    q, k, v = (x.detach().to(case.dtype) for x in leaves(len(rows), row_length - 1, seed=3)[0])
    before = plan.attend(q, k, v)
    for token in range(row_length - 1):
        other_k, other_v = k.clone(), v.clone()
        other_k[:, :, token] += 1.0
        other_v[:, :, token] -= 1.0
        moved = (plan.attend(q, other_k, other_v) != before).any(-1).any(1)
        assert torch.equal(moved, mask[:, :, token]), f"token {token}"


def dense(mask: torch.nn.attention.flex_attention.BlockMask, num_rows: int, sequence_length: int) -> Tensor:
    """The pairs that a block mask lets through: all of a full block, and of the others what its function says."""
    blocks = mask.kv_indices.shape[-1]
    seen = torch.zeros(num_rows, blocks * BLOCK, blocks * BLOCK, dtype=torch.bool)
    for row in range(num_rows):
        for i in range(blocks):
            queries = torch.arange(i * BLOCK, (i + 1) * BLOCK)[:, None]
            lists = ((mask.full_kv_num_blocks, mask.full_kv_indices), (mask.kv_num_blocks, mask.kv_indices))
            for counts, indices in lists:
                for j in indices[row, 0, i, : counts[row, 0, i]]:
                    keys = j * BLOCK + torch.arange(BLOCK)[None]
                    inside = mask.mask_mod(torch.tensor(row), torch.tensor(0), queries, keys)
                    if counts is mask.full_kv_num_blocks:
                        assert inside.all()
                    else:
                        assert inside.any() and not inside.all()
                    seen[row, queries, keys] = inside
    return seen[:, :sequence_length, :sequence_length]


@settings(max_examples=20)
@given(rows_of_segments(max_rows=2, max_row_length=3 * BLOCK + 2))
@example((LONG_ROWS, 301))
@example((LONG_ROWS, 2 * BLOCK + 46))
@example(([[(0, 0)], [(0, 2 * BLOCK)], [(0, 0), (BLOCK, BLOCK)]], 2 * BLOCK + 1))
def test_flex_block_masks_are_the_mask_and_no_block_is_listed_that_need_not_be(drawn: Rows) -> None:
    rows, row_length = drawn
    mask = block_mask(batch_of(rows, row_length))
    assert torch.equal(dense(mask, len(rows), row_length - 1), mask_of(rows, row_length)[:, 0])
    assert mask.kv_num_blocks.shape[1] == 1  # one mask for all heads


@settings(max_examples=60)
@given(rows_of_segments())
def test_the_two_flash_calls_compute_the_pairs_of_the_mask_and_not_one_more(drawn: Rows) -> None:
    rows, row_length = drawn
    batch = batch_of(rows, row_length)
    causal, prefix = split_sequences(batch.segments_G3)
    queries, keys = np.diff(causal.cu_q).astype(int), np.diff(causal.cu_k).astype(int)
    pairs = (
        queries * keys - queries * (queries - 1) // 2
    ).sum()  # the last query sees all keys, the one before one less
    if prefix is not None:
        pairs += (np.diff(prefix.sequences.cu_q).astype(int) * np.diff(prefix.sequences.cu_k)).sum()
    assert pairs == attended_pairs(batch.segments_G3) == mask_of(rows, row_length).sum()


@pytest.mark.parametrize(
    "rows", [[[(0, 0)]], [[(0, 1), (5, 0), (7, PADDING)], [(0, 0)]], [[(0, 1), (1, 1), (2, 1), (3, 0)]]]
)
def test_a_batch_without_prefixes_is_one_flash_call_over_everything_in_its_place(rows: list[Segments]) -> None:
    causal, prefix = split_sequences(batch_of(rows, 9).segments_G3)
    assert prefix is None
    assert np.array_equal(causal.cu_q, causal.cu_k)


def test_sdpa_needs_no_mask_for_single_causal_segments() -> None:
    assert SdpaBackend().prepare(batch_of([[(0, 0)], [(0, 1)]], 8)).mask_B1SS is None


@pytest.mark.parametrize("row", [[(0, 2)], [(0, 0), (4, 0)], [(0, 0), (6, PADDING)]])
def test_sdpa_has_a_mask_for_any_other_batch(row: Segments) -> None:
    assert SdpaBackend().prepare(batch_of([[(0, 0)], row], 8)).mask_B1SS is not None


@pytest.mark.parametrize(
    ("name", "device", "dtype", "reason"),
    [
        ("varlen", CPU, torch.bfloat16, "flash attention does not run on a CPU"),
        ("flex", CPU, torch.float32, "FlexAttention has no backward pass on a CPU"),
        ("quadratic", CPU, torch.float32, "there is no such backend"),
    ],
)
def test_a_backend_that_cannot_be_had_says_why_and_what_can(name: str, device, dtype, reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}': {reason}[\s\S]*available here: auto, sdpa$"):
        select_backend(name, device, dtype)


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "taken"),
    [
        (CPU, torch.float32, None, "sdpa"),
        (CPU, torch.bfloat16, None, "sdpa"),
        (CUDA, torch.bfloat16, (9, 0), "varlen"),
        (CUDA, torch.float16, (8, 0), "varlen"),
        (CUDA, torch.float32, (9, 0), "flex"),
        (CUDA, torch.float16, (7, 5), "flex"),
        (CUDA, torch.float32, (6, 1), "sdpa"),
    ],
)
def test_auto_takes_the_fastest_that_can_be_had(device, dtype, capability, taken: str, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert select_backend("auto", device, dtype).name == taken


def test_varlen_refuses_fp32_with_the_reason(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    with pytest.raises(
        ConfigError, match=r"flash attention computes in bf16 and fp16, not in float32[\s\S]*flex, sdpa"
    ):
        select_backend("varlen", CUDA, torch.float32)
