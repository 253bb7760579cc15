"""The chunked, vocabulary-parallel loss equals plain cross entropy, gradients included, whatever the chunks."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.distributed.parallel import Parallel
from pipeline.model import loss

POSITIONS, HIDDEN, VOCAB_SIZE, PADDED = 7, 5, 10, 16


def drawn(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(POSITIONS, HIDDEN, generator=generator).to(dtype).requires_grad_()
    weight_VD = torch.randn(PADDED, HIDDEN, generator=generator).to(dtype).requires_grad_()
    return hidden_ND, weight_VD, torch.randint(0, VOCAB_SIZE, (POSITIONS,), generator=generator)


def plain(hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor) -> Tensor:
    return F.cross_entropy((hidden_ND @ weight_VD.T)[:, :VOCAB_SIZE].float(), labels_N, reduction="none")


@pytest.mark.parametrize("chunk", [1, 3, 7, 512])
def test_the_sum_and_its_gradients_equal_plain_cross_entropy(
    one_process: Parallel, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(loss, "POSITIONS_PER_CHUNK", chunk)
    hidden_ND, weight_VD, labels_N = drawn()
    expected = plain(hidden_ND, weight_VD, labels_N).sum()
    actual = loss.scored_nll_sum(hidden_ND, weight_VD, labels_N, VOCAB_SIZE, one_process.mpu.get_model_parallel_group())
    torch.testing.assert_close(actual, expected)
    # a factor on the loss, as gradient accumulation and loss scaling bring it, reaches the gradients
    wanted = torch.autograd.grad(3.0 * expected, (hidden_ND, weight_VD))
    got = torch.autograd.grad(3.0 * actual, (hidden_ND, weight_VD))
    torch.testing.assert_close(got, wanted)
    assert not got[1][VOCAB_SIZE:].any()


def test_each_position_has_its_own_loss(one_process: Parallel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "POSITIONS_PER_CHUNK", 3)
    inputs = drawn()
    nll_N = loss.scored_nll(*inputs, VOCAB_SIZE, one_process.mpu.get_model_parallel_group())
    torch.testing.assert_close(nll_N, plain(*inputs).detach())
    assert not nll_N.requires_grad


def test_half_precision_weights_get_their_gradient_summed_in_single_precision(
    one_process: Parallel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of one: summed in bf16, the gradient of a weight would lose what each chunk adds."""
    monkeypatch.setattr(loss, "POSITIONS_PER_CHUNK", 1)
    hidden_ND, weight_VD, labels_N = drawn(torch.bfloat16)
    many = [tensor.repeat(200, *[1] * (tensor.dim() - 1)) for tensor in (hidden_ND, labels_N)]
    total = loss.scored_nll_sum(many[0], weight_VD, many[1], VOCAB_SIZE, one_process.mpu.get_model_parallel_group())
    (got,) = torch.autograd.grad(total, weight_VD)
    assert (total.dtype, got.dtype) == (torch.float32, torch.bfloat16)
    exact = [hidden_ND.detach().float(), weight_VD.detach().float().requires_grad_(), labels_N]
    (wanted,) = torch.autograd.grad(200 * plain(*exact).sum(), exact[1])
    torch.testing.assert_close(got.float(), wanted, rtol=0.02, atol=0.02 * float(wanted.abs().max()))
