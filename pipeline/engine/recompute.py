"""Activation checkpointing: what a layer keeps for its backward pass, and what it computes again then.

It is put on from outside, on the function that a layer is and not on the module: so DeepSpeed's hooks, which at ZeRO 3
gather a layer's weights before it and free them after it, stay outside of what is done again (and of what is compiled).

What `selective` keeps follows from bytes beside FLOPs. For its backward pass a layer keeps of each token, in units of
hidden_size numbers: its input 1, the two normalised states 2, queries, keys and values 3, the attention's result 1, the
sum behind it 1, and of the MLP 4 before and 4 behind the GELU; 16 in all. Normalising and the GELU are 6 of these, and
some ten operations for each number to do again, where the products have 24 x hidden_size for each. So the results of
products and of attention are kept and the rest is not: 10, or uncompiled 11, because the last product's result, which
nobody needs, is kept there too. Attention keeps no scores in any case (Dao et al. 2022), which is what Korthikanti et
al. 2022 do selectively.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import varlen  # noqa: F401 - brings an operator that is named below
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from pipeline.model import GPT2
from pipeline.model.gpt2 import Block

Run = Callable[..., Tensor]  # what `Block.forward` is: (block, hidden states, ...) -> hidden states

_aten = torch.ops.aten
PRODUCTS_AND_ATTENTION = {
    _aten.addmm.default,
    torch.ops.foreword.column_product.default,
    torch.ops.foreword.row_product.default,
    torch.ops.torch_attn._varlen_attn.default,
    torch.ops.higher_order.flex_attention,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
}


def _keep_products_and_attention(_: Any, operator: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    keep = operator in PRODUCTS_AND_ATTENTION
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE


def _selective(block: Block, *inputs: Any) -> Tensor:
    contexts = partial(create_selective_checkpoint_contexts, _keep_products_and_attention)
    return checkpoint(Block.forward, block, *inputs, **_EXACT, context_fn=contexts)


def _full(block: Block, *inputs: Any) -> Tensor:
    return checkpoint(Block.forward, block, *inputs, **_EXACT)


_EXACT: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}  # a layer draws no random numbers
RUNS: dict[str, Run] = {"none": Block.forward, "selective": _selective, "full": _full}


def run_blocks(model: GPT2, run: Run) -> None:
    """Let the model's layers run through `run` where there are gradients; without, in an evaluation, as they are."""
    for block in model.blocks:
        block.forward = partial(_forward, run, block)


def _forward(run: Run, block: Any, *inputs: Any) -> Tensor:
    return (run if torch.is_grad_enabled() else Block.forward)(block, *inputs)
