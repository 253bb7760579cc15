"""What crosses a tensor-parallel group: products of cut matrices, and collectives, each with its gradient.

Tensor parallelism cuts a pair of linear layers into columns and rows (Shoeybi et al. 2019, "Megatron-LM"). Sequence
parallelism also cuts the tokens between such pairs (Korthikanti et al. 2022, "Reducing Activation Recomputation in
Large Transformer Models"): the all-reduce behind a pair becomes a reduce-scatter there and an all-gather before the
next one, which together move as many bytes. What is kept between the pairs for the backward pass is then one part in
`size` of all tokens, and is gathered once more in it, beside a product.

megatron-core has these functions, and they are not used for three reasons. Its sequence-parallel ones allocate on
`torch.cuda.current_device()`, so that they cannot be tested without a GPU. Its asynchronous collectives make ten graphs
of a layer where torch.compile could have one. And it all-reduces in place, which selective checkpointing, that keeps
the products, does a second time, with wrong gradients. Here all collectives are torch's functional operators, on any
device, and a product with its communication is one operator. As there, communication goes on beside the product that
does not need it.

Shape suffixes: T all tokens of a micro-batch, R this rank's tokens (T / size in rank order under sequence parallelism,
otherwise T), I input features, O output features; the cut dimension of a matrix is this rank's part.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

_collectives = torch.ops._c10d_functional


@dataclass(frozen=True)
class Ranks:
    """A tensor-parallel group as the functions below see it.

    Attributes:
        group: the process group.
        name: its name, by which torch's operators know it.
        rank: of this process in it.
        size: processes in it.
        sequence_parallel: whether each rank has its own part of the tokens between the layers, or all have all.
    """

    group: ProcessGroup
    name: str
    rank: int
    size: int
    sequence_parallel: bool

    @classmethod
    def of(cls, group: ProcessGroup, *, sequence_parallel: bool = False) -> "Ranks":
        """Of a process group; one process alone has all tokens."""
        return cls(group, group.group_name, group.rank(), group.size(), sequence_parallel and group.size() > 1)

    def own_tokens(self, tokens_T: Tensor) -> Tensor:
        """This rank's part of a tensor whose first dimension is all tokens."""
        return tokens_T.chunk(self.size)[self.rank] if self.sequence_parallel else tokens_T


def column_product(x_RI: Tensor, weight_OI: Tensor, bias_O: Tensor, ranks: Ranks) -> Tensor:
    """[R, I] -> [T, O] with the output features cut: x W^T + b over all tokens."""
    if ranks.size == 1:
        return _Product.apply(x_RI, weight_OI, bias_O)
    return _column_product(x_RI, weight_OI, bias_O, ranks.name, ranks.size, ranks.sequence_parallel)


def row_product(x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor, ranks: Ranks) -> Tensor:
    """[T, I] with the input features cut -> [R, O]: the ranks' x W^T, summed, + b. The bias is not cut."""
    if ranks.size == 1:
        return _Product.apply(x_TI, weight_OI, bias_O)
    return _row_product(x_TI, weight_OI, bias_O, ranks.name, ranks.size, ranks.sequence_parallel)


def all_reduce(x: Tensor, operation: Literal["sum", "max"], ranks: Ranks) -> Tensor:
    """The sum or the maximum over the ranks, without a gradient."""
    return x if ranks.size == 1 else _wait(_collectives.all_reduce(x, operation, ranks.name))


def sum_over_ranks(part_TO: Tensor, ranks: Ranks) -> Tensor:
    """[T, O] of which each rank has a summand -> [R, O]."""
    if ranks.size == 1:
        return part_TO
    return _Sum.apply(part_TO, ranks.name, ranks.size, ranks.sequence_parallel)


def gather_for_parts(x_RO: Tensor, ranks: Ranks) -> Tensor:
    """[R, O] -> [T, O], for what is cut from here on: the gradient is the sum of all ranks'."""
    return _Gather.apply(x_RO, ranks.name, ranks.size) if ranks.sequence_parallel else x_RO


def copy_for_parts(x: Tensor, ranks: Ranks) -> Tensor:
    """A tensor that all ranks have alike, for what is cut from here on: the gradient is the sum of all ranks'."""
    return x if ranks.size == 1 else _Copy.apply(x, ranks.name)


def shared_by_tokens(ranks: Ranks, *parameters: Tensor) -> tuple[Tensor, ...]:
    """Parameters that all ranks have alike, for use on this rank's tokens alone.

    Each rank then knows a part of their gradients; these are summed in fp32, together, before anybody sees them.
    """
    return _SharedByTokens.apply(ranks.name, *parameters) if ranks.sequence_parallel else parameters


class _Product(torch.autograd.Function):
    """torch's linear, but what it saves is the weight itself and no view of it: a view would hold what ZeRO 3 frees."""

    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor) -> Tensor:
        ctx.save_for_backward(x_TI, weight_OI)
        return torch.addmm(bias_O, x_TI, weight_OI.t())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        (grad_TO,) = grads
        x_TI, weight_OI = ctx.saved_tensors
        return grad_TO @ weight_OI, grad_TO.t() @ x_TI, grad_TO.sum(0)


# Operators of their own, not functions: selective checkpointing then keeps their results and does none of their parts
# again, and torch.compile leaves the order of products and communication as it is here.


@torch.library.custom_op("foreword::column_product", mutates_args=())
def _column_product(
    x_RI: Tensor, weight_OI: Tensor, bias_O: Tensor, name: str, size: int, sequence_parallel: bool
) -> Tensor:
    x_TI = _wait(_gather(x_RI, size, name)) if sequence_parallel else x_RI
    return torch.addmm(bias_O, x_TI, weight_OI.t())


@torch.library.custom_op("foreword::column_product_backward", mutates_args=())
def _column_product_backward(
    grad_TO: Tensor, x_RI: Tensor, weight_OI: Tensor, name: str, size: int, sequence_parallel: bool
) -> tuple[Tensor, Tensor, Tensor]:
    if sequence_parallel:
        gathering_TI = _gather(x_RI, size, name)  # again: kept since the forward pass, it would be all tokens
        summing_RI = _reduce_scatter(grad_TO @ weight_OI, size, name)
        x_TI = _wait(gathering_TI)
    else:
        summing_RI = _all_reduce(grad_TO @ weight_OI, name)
        x_TI = x_RI
    grad_weight_OI, grad_bias_O = grad_TO.t() @ x_TI, grad_TO.sum(0)
    return _wait(summing_RI), grad_weight_OI, grad_bias_O


@torch.library.custom_op("foreword::row_product", mutates_args=())
def _row_product(
    x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor, name: str, size: int, sequence_parallel: bool
) -> Tensor:
    return _summed(x_TI @ weight_OI.t(), name, size, sequence_parallel) + bias_O


@torch.library.custom_op("foreword::row_product_backward", mutates_args=())
def _row_product_backward(
    grad_RO: Tensor, x_TI: Tensor, weight_OI: Tensor, name: str, size: int, sequence_parallel: bool
) -> tuple[Tensor, Tensor, Tensor]:
    # over all tokens on every rank: so the gradient of the bias needs no sum over the ranks
    grad_TO = _wait(_gather(grad_RO, size, name)) if sequence_parallel else grad_RO
    return grad_TO @ weight_OI, grad_TO.t() @ x_TI, grad_TO.sum(0)


@_column_product.register_fake
def _(x_RI: Tensor, weight_OI: Tensor, bias_O: Tensor, name: str, size: int, sequence_parallel: bool) -> Tensor:
    return x_RI.new_empty(x_RI.shape[0] * (size if sequence_parallel else 1), weight_OI.shape[0])


@_row_product.register_fake
def _(x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor, name: str, size: int, sequence_parallel: bool) -> Tensor:
    return x_TI.new_empty(x_TI.shape[0] // (size if sequence_parallel else 1), weight_OI.shape[0])


@_column_product_backward.register_fake
@_row_product_backward.register_fake
def _(
    grad: Tensor, x: Tensor, weight_OI: Tensor, name: str, size: int, sequence_parallel: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight_OI.new_empty(weight_OI.shape), grad.new_empty(grad.shape[1])


def _save_factors(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, weight_OI, _, *ctx.ranks = inputs
    ctx.save_for_backward(x, weight_OI)


def _column_gradients(ctx: Any, grad_TO: Tensor) -> tuple[Tensor | None, ...]:
    return *_column_product_backward(grad_TO, *ctx.saved_tensors, *ctx.ranks), None, None, None


def _row_gradients(ctx: Any, grad_RO: Tensor) -> tuple[Tensor | None, ...]:
    return *_row_product_backward(grad_RO, *ctx.saved_tensors, *ctx.ranks), None, None, None


_column_product.register_autograd(_column_gradients, setup_context=_save_factors)
_row_product.register_autograd(_row_gradients, setup_context=_save_factors)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part_TO: Tensor, name: str, size: int, sequence_parallel: bool) -> Tensor:
        ctx.name, ctx.size, ctx.sequence_parallel = name, size, sequence_parallel
        return _summed(part_TO, name, size, sequence_parallel)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_RO,) = grads
        return (_wait(_gather(grad_RO, ctx.size, ctx.name)) if ctx.sequence_parallel else grad_RO), None, None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_RO: Tensor, name: str, size: int) -> Tensor:
        ctx.name, ctx.size = name, size
        return _wait(_gather(x_RO, size, name))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_TO,) = grads
        return _wait(_reduce_scatter(grad_TO, ctx.size, ctx.name)), None, None


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str) -> Tensor:
        ctx.name = name
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        return _wait(_all_reduce(grad, ctx.name)), None


class _SharedByTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, name: str, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.name = name
        return tuple(parameter.view_as(parameter) for parameter in parameters)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        together = torch.cat([grad.flatten().float() for grad in grads])
        sums = _wait(_all_reduce(together, ctx.name)).split([grad.numel() for grad in grads])
        return None, *(total.view_as(grad).to(grad.dtype) for total, grad in zip(sums, grads, strict=True))


def _summed(part_TO: Tensor, name: str, size: int, sequence_parallel: bool) -> Tensor:
    return _wait(_reduce_scatter(part_TO, size, name) if sequence_parallel else _all_reduce(part_TO, name))


def _all_reduce(x: Tensor, name: str) -> Tensor:
    return _collectives.all_reduce(x.contiguous(), "sum", name)


def _reduce_scatter(x_TO: Tensor, size: int, name: str) -> Tensor:
    return _collectives.reduce_scatter_tensor(x_TO.contiguous(), "sum", size, name)


def _gather(x_RO: Tensor, size: int, name: str) -> Tensor:
    return _collectives.all_gather_into_tensor(x_RO.contiguous(), size, name)


def _wait(result: Tensor) -> Tensor:
    """What a collective has begun, done: it is to be called once for each, and before the result is read."""
    return _collectives.wait_tensor(result)
