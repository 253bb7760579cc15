"""How a run is cut -> what each GPU sends in a step, and how long that takes.

A collective over several nodes is done in levels: within each node, between nodes on each GPU's part, within each node
again. Each level is a ring, where of S bytes over n ranks a rank sends (n - 1) / n S for a reduce-scatter or an
all-gather, and twice that for an all-reduce (Patarasuk and Yuan 2009; as NCCL's tests count, doc/PERFORMANCE.md of
github.com/NVIDIA/nccl-tests). Only between nodes an all-reduce takes the steps of a tree, because NCCL has one for it.

What is sent when follows DeepSpeed 0.19 as `pipeline.engine.deepspeed` sets it up, not the least that ZeRO needs
(Rajbhandari et al. 2020, section 7): gradients travel in fp32, and at stages 1 and 2 as an all-reduce.
"""

import math
from dataclasses import dataclass
from typing import Literal

from pipeline.config.train import TrainConfig
from pipeline.plan.hardware import (
    ACHIEVED_BANDWIDTH,
    COLLECTIVE_LATENCY_S,
    NVLINK_LATENCY_S,
    Hardware,
)
from pipeline.plan.memory import COMPUTE_BYTES, FP32_BYTES, REDUCE_BUCKET

Kind = Literal["all-reduce", "reduce-scatter", "all-gather"]
PASSES = {"all-reduce": 2, "reduce-scatter": 1, "all-gather": 1}  # over the ring
AGREEMENTS = 4  # of all ranks in a step: its counts, its loss, the gradients' norm, whether it may be made


@dataclass(frozen=True)
class Group:
    """Ranks that communicate with each other.

    Attributes:
        per_node: of them on each node.
        nodes: that they are on.
    """

    per_node: int
    nodes: int


@dataclass(frozen=True)
class Collective:
    """Equal collectives of a step.

    Attributes:
        bytes: of the whole tensor, all of them together.
        messages: how many they are.
        is_hidden: whether DeepSpeed lets them run beside the arithmetic.
    """

    kind: Kind
    bytes: float
    messages: int
    group: Group
    is_hidden: bool = False


@dataclass(frozen=True)
class Sent:
    """What one GPU sends."""

    within_node_bytes: float
    between_nodes_bytes: float

    @property
    def bytes(self) -> float:
        """Together."""
        return self.within_node_bytes + self.between_nodes_bytes


def groups(world_size: int, tensor_parallel_size: int, gpus_per_node: int) -> tuple[Group, Group]:
    """The data-parallel group and the tensor-parallel group of a rank; neighbours are tensor-parallel.

    Partly filled nodes are taken as full ones and a part: the number of nodes is rounded up.
    """
    tensor_per_node = min(tensor_parallel_size, gpus_per_node)
    tensor = Group(tensor_per_node, math.ceil(tensor_parallel_size / gpus_per_node))
    data_parallel_size = world_size // tensor_parallel_size
    per_node = min(max(gpus_per_node // tensor_parallel_size, 1), data_parallel_size)
    return Group(per_node, math.ceil(data_parallel_size / per_node)), tensor


def data_parallel(config: TrainConfig, numel: int, micro_batches: int, group: Group) -> list[Collective]:
    """Gradients and weights that travel in a step.

    Args:
        config: the run.
        numel: parameters that a rank holds before ZeRO cuts them.
        micro_batches: of a rank in a step.
        group: the data-parallel one.
    """
    stage, width = config.parallel.zero_stage, COMPUTE_BYTES[config.precision]
    gradients, weights = numel * FP32_BYTES, numel * width
    buckets = math.ceil(numel / REDUCE_BUCKET)
    layers = config.model.num_layers + 2  # the embeddings and the last layer norm are gathered by themselves
    if stage == 0:
        return [Collective("all-reduce", gradients, buckets, group)]
    if stage < 3:
        times = micro_batches if stage == 2 else 1
        return [
            Collective("all-reduce", times * gradients, times * buckets, group),
            Collective("all-gather", weights, buckets, group),
        ]
    twice = 2 * micro_batches  # before the forward and before the backward pass
    return [
        Collective("all-gather", twice * weights, twice * layers, group, is_hidden=True),
        Collective("reduce-scatter", micro_batches * gradients, micro_batches * buckets, group, is_hidden=True),
    ]


def tensor_parallel(config: TrainConfig, sequence_length: int, micro_batches: int, group: Group) -> list[Collective]:
    """Hidden states that travel in a step, all micro-batches together; none where layers are not cut.

    Four all-reduces a layer, two of them in the backward pass (Narayanan et al. 2021, section 3.2), one at the
    embedding and one at the head. With sequence parallelism each is a reduce-scatter and an all-gather, and two more
    all-gathers a layer are done in the backward pass (Korthikanti et al. 2022). Full activation checkpointing repeats
    the forward pass.
    """
    if config.parallel.tensor_parallel_size == 1:
        return []
    layers = config.model.num_layers
    tokens = config.batch.micro_batch_size * sequence_length
    hidden = tokens * config.model.hidden_size * COMPUTE_BYTES[config.precision]
    count = micro_batches * (layers * (6 if config.activation_checkpointing == "full" else 4) + 2)
    if not config.parallel.sequence_parallel:
        return [Collective("all-reduce", count * hidden, count, group)]
    gathers = count + micro_batches * 2 * layers
    return [
        Collective("reduce-scatter", count * hidden, count, group),
        Collective("all-gather", gathers * hidden, gathers, group),
    ]


def agreements(world_size: int, gpus_per_node: int) -> Collective:
    """The few numbers that all ranks agree on in each step: nothing but latency."""
    per_node = min(world_size, gpus_per_node)
    return Collective("all-reduce", 0, AGREEMENTS, Group(per_node, math.ceil(world_size / per_node)))


def sent(collective: Collective) -> Sent:
    """Bytes that one GPU sends."""
    passes, group = PASSES[collective.kind], collective.group
    within = passes * (group.per_node - 1) / group.per_node * collective.bytes
    between = passes * (group.nodes - 1) / group.nodes * collective.bytes / group.per_node
    return Sent(within, between)


def bandwidth_s(collective: Collective, hardware: Hardware) -> float:
    """Seconds that the bytes take."""
    volume = sent(collective)
    network = hardware.network.bytes_per_s(hardware.gpus_per_node)
    return (
        volume.within_node_bytes / hardware.gpu.nvlink_bytes_per_s + volume.between_nodes_bytes / network
    ) / ACHIEVED_BANDWIDTH


def latency_s(collective: Collective, hardware: Hardware) -> float:
    """Seconds that the messages take however small they are."""
    group, passes = collective.group, PASSES[collective.kind]
    if group.per_node * group.nodes == 1:
        return 0.0
    between = math.ceil(math.log2(group.nodes)) if collective.kind == "all-reduce" else group.nodes - 1
    steps_s = (group.per_node - 1) * NVLINK_LATENCY_S + between * hardware.network.latency_s
    return collective.messages * (COLLECTIVE_LATENCY_S + passes * steps_s)
