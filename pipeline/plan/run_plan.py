"""What a run would be, and whether it can be: for any number of processes, without starting one and without a GPU.

What comes in: a TrainConfig, its data and a number of processes. What goes out: a RunPlan. Promise: what cannot work is
an error here, as it would be in training; what is printed is exact where it follows from sizes (parameters, batch,
steps, weights and optimizer state, checkpoints) and said to be about right where it does not.
"""

import os
from dataclasses import dataclass
from math import lcm
from pathlib import Path

from rich.filesize import decimal

from foreword.errors import ConfigError
from pipeline.checkpoint.find import complete_checkpoints
from pipeline.config.train import TrainConfig
from pipeline.data.corpora import Corpora
from pipeline.data.share import Share
from pipeline.plan.census import Census, take_census
from pipeline.plan.flops import training_flops
from pipeline.plan.memory import Memory, RankLoad, memory_of
from pipeline.plan.sizes import ParameterCounts, checkpoint_bytes, count_parameters
from pipeline.schedule import Schedule
from pipeline.vocabulary import VOCABULARY_MULTIPLE, padded_vocab_size

GIB, MIB = 2**30, 2**20


@dataclass(frozen=True)
class RunData:
    """What a plan needs to know of a run's data.

    Attributes:
        sequence_length: tokens of a row.
        vocab_size: ids in use.
        census: what a row asks for.
        corpora: name -> where it is.
        epoch_rows: name -> how many rows of the run go by until all of its rows were read; empty when nobody knows.
    """

    sequence_length: int
    vocab_size: int
    census: Census
    corpora: dict[str, Path]
    epoch_rows: dict[str, float]

    @classmethod
    def of(cls, corpora: Corpora, config: TrainConfig) -> "RunData":
        """Of corpora that are there.

        Raises:
            DataError: a row is not what the manifest says.
        """
        total_weight = sum(corpora.weights.values())
        return cls(
            sequence_length=corpora.sequence_length,
            vocab_size=corpora.tokenizer.vocab_size,
            census=take_census(corpora, config),
            corpora={name: corpus.path.absolute() for name, corpus in corpora.by_name.items()},
            epoch_rows={
                name: len(corpus.split(config.data.train_split)) * total_weight / corpora.weights[name]
                for name, corpus in corpora.by_name.items()
            },
        )


@dataclass(frozen=True)
class RunPlan:
    """A run that was checked; batches are in rows (sequences).

    Attributes:
        world_size: processes.
        on_gpus: whether each of them has a GPU.
        data: what it reads.
        gradient_accumulation_steps: micro-batches of one rank in a step of full size.
        total_steps, total_rows: of the whole run.
        attention: the backend that memory is computed for.
        flops_per_step, attention_flops_per_step: of a step of full size, forward and backward.
        total_flops: of the whole run.
        checkpoint_bytes: of one.
        checkpoints: how many are on the disk at once at most, one of them being written.
    """

    config: TrainConfig
    world_size: int
    on_gpus: bool
    data: RunData
    data_parallel_size: int
    global_batch_size: int
    gradient_accumulation_steps: int
    total_steps: int
    total_rows: int
    parameters: ParameterCounts
    attention: str
    memory: Memory
    flops_per_step: float
    attention_flops_per_step: float
    total_flops: float
    checkpoint_bytes: int
    checkpoints: int

    @property
    def global_batch_tokens(self) -> int:
        """Inputs of a step of full size."""
        return self.global_batch_size * self.data.sequence_length

    @property
    def total_tokens(self) -> int:
        """Inputs of the whole run."""
        return self.total_rows * self.data.sequence_length


def plan_run(config: TrainConfig, data: RunData, world_size: int, *, on_gpus: bool = True) -> RunPlan:
    """Check a run and work out what it is.

    Args:
        config: the resolved configuration.
        data: what it reads.
        world_size: processes, one for each GPU.
        on_gpus: whether they have GPUs; a processor has another attention backend.

    Raises:
        ConfigError: sizes that do not divide each other, an attention backend that cannot compute in the precision, no
            such `init_from`, a run directory that cannot be written.
    """
    tensor_parallel_size, padded = config.parallel.tensor_parallel_size, padded_vocab_size(data.vocab_size)
    _refuse_sizes(world_size, tensor_parallel_size, padded)
    attention = _attention_backend(config, on_gpus)
    if config.init_from is not None and not config.init_from.path.exists():
        where = f"init_from.path: {config.init_from.path}"
        raise ConfigError("no such checkpoint", where=where, remedy="check the path")
    _refuse_unwritable(config.run_dir)
    _refuse_uneven_tokens(config, data.sequence_length)
    schedule = Schedule(config.schedule, config.optimizer.lr, config.batch, data.sequence_length)
    data_parallel_size = world_size // tensor_parallel_size
    share = Share(0, data_parallel_size, schedule.all_batch_sizes, config.batch.micro_batch_size)
    load = RankLoad(
        model=config.model,
        vocab_size=data.vocab_size,
        precision=config.precision,
        parallel=config.parallel,
        data_parallel_size=data_parallel_size,
        rows=config.batch.micro_batch_size,
        sequence_length=data.sequence_length,
        targets=round(data.census.targets * config.batch.micro_batch_size),
        prefix_tokens=round(data.census.prefix_tokens * config.batch.micro_batch_size),
        attention=attention,
        activation_checkpointing=config.activation_checkpointing,
        device="cuda" if on_gpus else "cpu",
        compiled=config.compile == "on" or (config.compile == "auto" and on_gpus),
    )
    parameters = count_parameters(config.model, data.vocab_size)
    pairs = data.census.attended_pairs
    row_flops = training_flops(config.model, padded, data.sequence_length, data.census.targets, pairs)
    total_rows = schedule.total_samples()
    return RunPlan(
        config=config,
        world_size=world_size,
        on_gpus=on_gpus,
        data=data,
        data_parallel_size=data_parallel_size,
        global_batch_size=schedule.global_batch_size,
        gradient_accumulation_steps=share.max_accumulation_steps,
        total_steps=schedule.total_steps(),
        total_rows=total_rows,
        parameters=parameters,
        attention=attention,
        memory=memory_of(load),
        flops_per_step=schedule.global_batch_size * row_flops,
        attention_flops_per_step=schedule.global_batch_size * training_flops(config.model, padded, 0, 0, pairs),
        total_flops=total_rows * row_flops,
        checkpoint_bytes=checkpoint_bytes(config.model, data.vocab_size),
        checkpoints=_checkpoints(config, schedule.total_steps()),
    )


def describe_beginning(config: TrainConfig, corpora: Corpora, *, fresh: bool = False) -> str:
    """What the run would begin with, or go on from.

    Args:
        config: the resolved configuration.
        corpora: its data.
        fresh: whether the run begins anew, whatever its directory holds.

    Raises:
        CheckpointError: the run directory holds a run with other data or another model; a new run cannot begin with
            `init_from`.
        ConfigError: a new run cannot keep what `init_from` asks for.
    """
    complete = [] if fresh else complete_checkpoints(config.run_dir)
    if not complete and config.init_from is None:
        return f"new, with weights drawn from seed {config.seed}"
    # these rooms bring torch, and most plans are of new runs
    from pipeline.checkpoint.meta import read_meta
    from pipeline.checkpoint.restore import refuse_other_run
    from pipeline.run.directory import identify
    from pipeline.run.init_from import find_origin

    if complete:
        step, checkpoint = complete[-1]
        refuse_other_run(checkpoint, read_meta(checkpoint), config, identify(corpora))
        return f"continues after step {step:,}"
    assert config.init_from is not None
    schedule = Schedule(config.schedule, config.optimizer.lr, config.batch, corpora.sequence_length)
    return f"new, with the weights of {find_origin(config.init_from, config, identify(corpora), schedule).path}"


def describe_run(plan: RunPlan) -> str:
    """What the run does, for a person, a line or two a topic."""
    config, parallel, data = plan.config, plan.config.parallel, plan.data
    targets = data.census.targets / data.sequence_length
    read = {name: plan.total_rows / rows for name, rows in data.epoch_rows.items()}
    lines = [
        f"parallel   tensor {parallel.tensor_parallel_size} x data {plan.data_parallel_size},"
        f" ZeRO {parallel.zero_stage}, {config.precision}",
        f"batch      {plan.global_batch_size} rows = {config.batch.micro_batch_size} a forward pass"
        f" x {plan.data_parallel_size} data-parallel x {plan.gradient_accumulation_steps} accumulated",
        f"           {plan.global_batch_tokens:,} tokens, about {plan.global_batch_tokens * targets:,.0f} of them"
        f" targets ({targets:.1%})",
        f"steps      {plan.total_steps:,}: {plan.total_tokens:,} tokens, about {plan.total_tokens * targets:,.0f}"
        " targets",
        *(
            f"corpus     {path}{f', read {read[name]:,.2f} times' if name in read else ''}"
            for name, path in data.corpora.items()
        ),
        f"run        {config.run_dir.absolute()}",
    ]
    return "\n".join(lines)


def describe_needs(plan: RunPlan) -> str:
    """What the run takes, for a person, a line or more a topic."""
    counts, census = plan.parameters, plan.data.census
    share = plan.attention_flops_per_step / plan.flops_per_step
    looked_at = f"as in the first {census.rows:,} rows of the run" if census.rows else "estimated, for a document a row"
    lines = [
        f"parameters {counts.total:,} = embedding {counts.embedding:,} + positions {counts.positions:,}"
        f" + blocks {counts.blocks:,}",
        f"           {counts.total_with_padding:,} with the vocabulary padded to a multiple of {VOCABULARY_MULTIPLE}",
        f"compute    {plan.flops_per_step:.3g} FLOPs a step, {plan.total_flops:.3g} in all;"
        f" attention is {share:.1%} of it",
        f"           (targets and attention {looked_at})",
        *_memory_lines(plan),
        f"checkpoint {decimal(plan.checkpoint_bytes)}, at most {plan.checkpoints} at once:"
        f" {decimal(plan.checkpoints * plan.checkpoint_bytes)}",
    ]
    return "\n".join(lines)


def _memory_lines(plan: RunPlan) -> list[str]:
    memory = plan.memory
    parts = {
        "weights": memory.weights,
        "weights of other ranks": memory.gathered_weights,
        "gradients": memory.gradients,
        "optimizer and masters": memory.optimizer,
        f"activations ({plan.attention})": memory.activations,
        "a block's backward pass": memory.backward,
        "logits of a chunk": memory.logits,
        "gradients of the head": memory.head,
        "the micro-batch": memory.batch,
        "DeepSpeed's bucket": memory.reduce_bucket,
        "copies for the update": memory.update,
        "at once at most, about": memory.peak,
    }
    lines = [f"  {name:<28}{_binary(size):>12}" for name, size in parts.items() if size]
    of_what, besides = ("GPU", ", and about 1 GiB for CUDA and NCCL") if plan.on_gpus else ("process", "")
    host = f"  {'main memory beside Python':<28}{_binary(memory.host):>12}"
    return [f"memory     of one {of_what}{besides}", *lines, *[host] * plan.on_gpus]


def _binary(size: int) -> str:
    return f"{size / GIB:,.2f} GiB" if size >= GIB else f"{size / MIB:,.1f} MiB"


def _refuse_sizes(world_size: int, tensor_parallel_size: int, padded: int) -> None:
    if world_size % tensor_parallel_size:
        raise ConfigError(
            f"{world_size} processes cannot form groups of tensor_parallel_size {tensor_parallel_size}",
            where="parallel.tensor_parallel_size",
            remedy="start a number of processes that is a multiple of it",
        )
    if padded % tensor_parallel_size:
        raise ConfigError(
            f"{tensor_parallel_size} does not divide the padded vocabulary, {padded}",
            where="parallel.tensor_parallel_size",
            remedy=f"use a tensor-parallel size that divides both the heads and {VOCABULARY_MULTIPLE}",
        )


def _refuse_uneven_tokens(config: TrainConfig, sequence_length: int) -> None:
    tokens, ranks = config.batch.micro_batch_size * sequence_length, config.parallel.tensor_parallel_size
    if config.parallel.sequence_parallel and tokens % ranks:
        raise ConfigError(
            f"micro-batches of {tokens} tokens are not {ranks} equal parts",
            where="parallel.sequence_parallel",
            remedy=f"use a batch.micro_batch_size that is a multiple of {ranks}, or turn it off",
        )


def _attention_backend(config: TrainConfig, on_gpus: bool) -> str:
    """The backend that `auto` takes on such a machine, or the configured one.

    Raises:
        ConfigError: it cannot work there.
    """
    low_precision = config.precision != "fp32"
    if config.attention == "auto":
        return ("varlen" if low_precision else "flex") if on_gpus else "sdpa"
    if config.attention == "varlen" and not low_precision:
        raise ConfigError(
            "attention backend 'varlen' computes in bf16 and fp16, and the precision is fp32",
            where="attention",
            remedy="use precision=bf16, or attention auto, flex or sdpa",
        )
    if config.attention != "sdpa" and not on_gpus:
        raise ConfigError(
            f"attention backend {config.attention!r} needs a CUDA device", where="attention", remedy="use auto or sdpa"
        )
    return config.attention


def _refuse_unwritable(run_dir: Path) -> None:
    nearest = next(path for path in (run_dir.absolute(), *run_dir.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        problem = "is not a directory" if not nearest.is_dir() else "cannot be written"
        raise ConfigError(f"{nearest} {problem}", where=f"run_dir: {run_dir}", remedy="choose another run_dir")


def _checkpoints(config: TrainConfig, total_steps: int) -> int:
    """How many lie on the disk at once at most: those that are kept, and the one that is being written."""
    saving = config.checkpoint
    made = -(-total_steps // saving.every_steps)
    kept = saving.keep_last + (saving.keep_best and config.evaluation.every_steps is not None)
    if saving.keep_every_steps:
        kept += total_steps // lcm(saving.keep_every_steps, saving.every_steps)
    return min(made, kept + 1)
