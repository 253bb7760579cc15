"""torch.compile for the model's layers and for its loss, where it works; and if not, one line that says why.

All layers share one graph of their forward pass and one of their backward pass. These do not depend on what is in a
batch: a micro-batch has a fixed shape, and what varies in an attention plan, the number of segments and their lengths,
is symbolic from the second batch on. A batch without any prefix has graphs of its own.

A layer that breaks into several graphs counts as one that cannot be compiled. Whether it works is tried before the
first step, on a layer apart from the model, and all ranks do the same: compiled or not, they have to meet in the same
collectives.
"""

import logging
from collections.abc import Callable
from functools import partial

import torch

from foreword.console import say, warn
from foreword.errors import ConfigError
from pipeline.config.train import TrainConfig
from pipeline.data.batch import Batch
from pipeline.distributed.agreement import gather
from pipeline.distributed.parallel import Parallel
from pipeline.engine.recompute import RUNS, Run, run_blocks
from pipeline.model import GPT2
from pipeline.model.gpt2 import Block
from pipeline.model.loss import ChunkLoss, chunk_loss, own_ids

# it asks whoever compiles selective checkpointing to look for in-place operations, and layers have none
logging.getLogger("torch._higher_order_ops.wrap").setLevel(logging.ERROR)
RECOMPILE_LIMIT = 64  # a handful of graphs is all that is needed, but at its own limit of 8 Dynamo would raise


def compile_model(model: GPT2, config: TrainConfig, batch: Batch, parallel: Parallel) -> None:
    """Compile the layers and the loss if the configuration wants that and it works; every rank must call this.

    Args:
        model: on its device, in the precision it computes in.
        config: of the run.
        batch: a micro-batch to try it with.
        parallel: this process's place.

    Raises:
        ConfigError: `compile` is on, and it does not work on some rank; on all ranks.
    """
    if not is_wanted(config.compile, parallel.device):
        return
    if parallel.is_main:
        say("compiling the layers and the loss, which may take a minute")
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
    run: Run = torch.compile(RUNS[config.activation_checkpointing], fullgraph=True)
    compute: ChunkLoss = torch.compile(chunk_loss, fullgraph=True)

    trials: list[Callable[[], None]] = [
        partial(_try_compiler, parallel.device),  # first, and without the other ranks: what this machine may lack
        partial(_try_block, run, model, batch),
        partial(_try_loss, compute, model),
    ]
    for trial in trials:
        failure = _first_failure(trial)
        if failure is None:
            continue
        if config.compile == "on":
            raise ConfigError(
                f"torch.compile does not work {failure}",
                where="compile",
                remedy="compile=off goes on without it",
                on_all_ranks=True,
            )
        if parallel.is_main:
            warn(f"nothing is compiled: torch.compile does not work {failure}")
        return
    run_blocks(model, run)
    model.chunk_loss = compute


def is_wanted(switch: str, device: torch.device) -> bool:
    """Whether `compile: switch` asks for it on `device`."""
    return switch == "on" or (switch == "auto" and device.type == "cuda")


def _first_failure(trial: Callable[[], None]) -> str | None:
    """On which rank a trial failed first, and why; None when it worked on all. Every rank must call this."""
    own = _why_not(trial)
    reasons = gather(lambda: own)
    return next((f"on rank {rank}: {reason}" for rank, reason in enumerate(reasons) if reason is not None), None)


def _why_not(trial: Callable[[], None]) -> str | None:
    try:
        trial()
    except torch.OutOfMemoryError:  # training would find no room either
        raise
    except Exception as error:  # of Dynamo, of Inductor, of a compiler that is not there
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return None


def _try_compiler(device: torch.device) -> None:
    from torch._inductor.utils import fresh_cache  # takes seconds to import

    with fresh_cache():  # what an earlier run has left there says nothing about this machine
        torch.compile(torch.sin)(torch.zeros(2, device=device))


def _try_block(run: Run, model: GPT2, batch: Batch) -> None:
    """Forward and backward through a layer of its own, in the shapes and with the kind of plan that it will have."""
    weight = model.ln_f.weight
    block = Block(model.config, model.ranks).to(weight.device, weight.dtype)
    for parameter in block.parameters():
        torch.nn.init.ones_(parameter)
    num_rows, num_tokens = batch.tokens_BS.shape[0], batch.tokens_BS.numel()
    own_tokens = len(model.ranks.own_tokens(torch.zeros(num_tokens)))
    x_RD = torch.zeros(own_tokens, model.config.hidden_size, device=weight.device, dtype=weight.dtype)
    out_RD = run(block, x_RD.requires_grad_(), num_rows, model.backend.prepare(batch), None, 0)
    out_RD.sum().backward()


@torch.no_grad()  # as in the forward pass of an autograd function
def _try_loss(compute: ChunkLoss, model: GPT2) -> None:
    weight, columns = model.ln_f.weight, model.wte.num_embeddings_per_partition
    first_id, first_padding = own_ids(columns, model.vocab_size, model.ranks)
    logits_CV = torch.zeros(8, columns, device=weight.device, dtype=weight.dtype)
    labels_C = torch.zeros(8, device=weight.device, dtype=torch.int64)
    for tensor in (logits_CV, labels_C):
        torch._dynamo.maybe_mark_dynamic(tensor, 0)  # the last chunk of a micro-batch has any number of positions
    compute(logits_CV, labels_C, first_id, first_padding, model.z_loss, model.ranks)
