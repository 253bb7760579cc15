"""The chunked, vocabulary-parallel loss equals plain cross entropy, gradients included, whatever the chunks."""

import pytest
import torch
import torch.nn.functional as F
from processes import run_distributed
from torch import Tensor

from pipeline.distributed.parallel import Parallel, initialize
from pipeline.model import loss
from pipeline.model.tensor_parallel import Ranks

POSITIONS, HIDDEN, VOCAB_SIZE, PADDED = 7, 5, 10, 16
Z_LOSS = 0.05


@pytest.fixture
def ranks(one_process: Parallel) -> Ranks:
    return Ranks.of(one_process.mpu.get_model_parallel_group())


def drawn(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(POSITIONS, HIDDEN, generator=generator).to(dtype).requires_grad_()
    weight_VD = torch.randn(PADDED, HIDDEN, generator=generator).to(dtype).requires_grad_()
    return hidden_ND, weight_VD, torch.randint(0, VOCAB_SIZE, (POSITIONS,), generator=generator)


def plain(hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor) -> Tensor:
    return F.cross_entropy((hidden_ND @ weight_VD.T)[:, :VOCAB_SIZE].float(), labels_N, reduction="none")


@pytest.mark.parametrize("chunk", [1, 3, 7, 512])
def test_the_sum_and_its_gradients_equal_plain_cross_entropy(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setitem(loss.POSITIONS_PER_CHUNK, "cpu", chunk)
    hidden_ND, weight_VD, labels_N = drawn()
    expected = plain(hidden_ND, weight_VD, labels_N).sum()
    actual = loss.scored_nll_sum(hidden_ND, weight_VD, labels_N, VOCAB_SIZE, ranks)
    torch.testing.assert_close(actual, expected)
    # a factor on the loss, as gradient accumulation and loss scaling bring it, reaches the gradients
    wanted = torch.autograd.grad(3.0 * expected, (hidden_ND, weight_VD))
    got = torch.autograd.grad(3.0 * actual, (hidden_ND, weight_VD))
    torch.testing.assert_close(got, wanted)
    assert not got[1][VOCAB_SIZE:].any()


def test_each_position_has_its_own_loss(ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loss.POSITIONS_PER_CHUNK, "cpu", 3)
    inputs = drawn()
    nll_N = loss.scored_nll(*inputs, VOCAB_SIZE, ranks)
    torch.testing.assert_close(nll_N, plain(*inputs).detach())
    assert not nll_N.requires_grad


@pytest.mark.parametrize("chunk", [1, 3, 7, 512])
def test_a_label_is_hit_where_it_is_the_likeliest_id(ranks: Ranks, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setitem(loss.POSITIONS_PER_CHUNK, "cpu", chunk)
    hidden_ND, weight_VD, labels_N = drawn()
    likeliest_N = (hidden_ND @ weight_VD.T)[:, :VOCAB_SIZE].argmax(-1)
    labels_N[::2] = likeliest_N[::2]
    nll_N, hits_N = loss.scored_nll_and_hits(hidden_ND, weight_VD, labels_N, VOCAB_SIZE, ranks)
    torch.testing.assert_close(nll_N, plain(hidden_ND, weight_VD, labels_N).detach())
    assert hits_N.tolist() == (likeliest_N == labels_N).float().tolist()
    assert 0 < hits_N.sum() < POSITIONS


def likeliest_of_equals() -> list[int]:
    """Of four ids on each of two ranks several are the likeliest: within a rank, and on both."""
    parallel = initialize(2)
    ranks = Ranks.of(parallel.mpu.get_model_parallel_group())
    logits_CV = torch.tensor([[0, 5, 5, 0, 5, 0, 0, 0], [0, 0, 0, 0, 1, 0, 2, 2], [3, 0, 0, 0, 0, 0, 0, 3.0]])
    ids_C = loss.likeliest_ids(logits_CV.chunk(2, dim=1)[ranks.rank], 4 * ranks.rank, ranks)
    parallel.destroy()
    return ids_C.tolist()


def test_of_several_likeliest_ids_the_first_counts_wherever_they_are() -> None:
    assert run_distributed(2, likeliest_of_equals) == [[1, 6, 0]] * 2


def test_half_precision_weights_get_their_gradient_summed_in_single_precision(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of one: summed in bf16, the gradient of a weight would lose what each chunk adds."""
    monkeypatch.setitem(loss.POSITIONS_PER_CHUNK, "cpu", 1)
    hidden_ND, weight_VD, labels_N = drawn(torch.bfloat16)
    many = [tensor.repeat(200, *[1] * (tensor.dim() - 1)) for tensor in (hidden_ND, labels_N)]
    total = loss.scored_nll_sum(many[0], weight_VD, many[1], VOCAB_SIZE, ranks)
    (got,) = torch.autograd.grad(total, weight_VD)
    assert (total.dtype, got.dtype) == (torch.float32, torch.bfloat16)
    exact = [hidden_ND.detach().float(), weight_VD.detach().float().requires_grad_(), labels_N]
    (wanted,) = torch.autograd.grad(200 * plain(*exact).sum(), exact[1])
    torch.testing.assert_close(got.float(), wanted, rtol=0.02, atol=0.02 * float(wanted.abs().max()))


def z_loss_and_gradients(tensor_parallel_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The sum in chunks of three, and its gradients for the hidden states and for this rank's rows of the matrix."""
    parallel = initialize(tensor_parallel_size)
    ranks = Ranks.of(parallel.mpu.get_model_parallel_group())
    loss.POSITIONS_PER_CHUNK["cpu"] = 3
    hidden_ND, weight_VD, labels_N = drawn()
    part_VD = weight_VD.detach().chunk(ranks.size)[ranks.rank].clone().requires_grad_()
    total = loss.scored_nll_sum(hidden_ND, part_VD, labels_N, VOCAB_SIZE, ranks, z_loss=Z_LOSS)
    total.backward()
    parallel.destroy()
    return total.detach(), hidden_ND.grad, part_VD.grad


@pytest.mark.parametrize("tensor_parallel_size", [1, 2])
def test_z_loss_is_in_the_gradients_and_not_in_the_value(tensor_parallel_size: int) -> None:
    hidden_ND, weight_VD, labels_N = (x.detach().double() if x.is_floating_point() else x for x in drawn())
    hidden_ND.requires_grad_(), weight_VD.requires_grad_()
    logits_NV = (hidden_ND @ weight_VD.T)[:, :VOCAB_SIZE]
    nll = F.cross_entropy(logits_NV, labels_N, reduction="sum")
    z_loss = Z_LOSS * logits_NV.logsumexp(-1).square().sum()
    assert z_loss > 0.1 * nll  # it matters here
    wanted = torch.autograd.grad(nll + z_loss, (hidden_ND, weight_VD))
    found = run_distributed(tensor_parallel_size, z_loss_and_gradients, tensor_parallel_size)
    for total, hidden_grad_ND, _ in found:
        torch.testing.assert_close(total.double(), nll.detach(), rtol=1e-6, atol=0)
        torch.testing.assert_close(hidden_grad_ND.double(), wanted[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([part for _, _, part in found]).double(), wanted[1], rtol=1e-5, atol=1e-5)
