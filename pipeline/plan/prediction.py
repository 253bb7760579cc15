"""A plan and a cluster -> how long a step and the run would take, from arithmetic, bandwidth and latency.

What comes in: a RunPlan and a Hardware. What goes out: a Prediction. Promise: nothing is measured and nothing is looked
up but the tables of `pipeline.plan.hardware`; docs/scaling.md says what is assumed, what is left out, and how far off
published runs this is.
"""

from dataclasses import dataclass, replace
from math import lcm

from rich.filesize import decimal

from foreword.errors import ConfigError
from pipeline.plan.communication import (
    Sent,
    agreements,
    bandwidth_s,
    data_parallel,
    groups,
    latency_s,
    sent,
    tensor_parallel,
)
from pipeline.plan.hardware import Hardware
from pipeline.plan.run_plan import RunPlan
from pipeline.plan.sizes import parameter_sizes

RECOMPUTED = {"none": 1.0, "selective": 1.0, "full": 4 / 3}  # of forward and backward pass, with what is done again


@dataclass(frozen=True)
class Prediction:
    """Of one step of full size where nothing else is said.

    Attributes:
        utilisation: share of its peak that a GPU's arithmetic is taken to reach.
        compute_s: arithmetic.
        bandwidth_s, latency_s: of all communication, whether it waits or not.
        waiting_s: of it, what the arithmetic waits for.
        sent: by each GPU.
        node_tokens_per_s: of one node alone with as many rows for each GPU, or of what there is if that is less.
    """

    plan: RunPlan
    hardware: Hardware
    utilisation: float
    compute_s: float
    bandwidth_s: float
    latency_s: float
    waiting_s: float
    sent: Sent
    node_tokens_per_s: float

    @property
    def step_s(self) -> float:
        """One step."""
        return self.compute_s + self.waiting_s

    @property
    def tokens_per_s(self) -> float:
        """Of all GPUs together."""
        return self.plan.global_batch_tokens / self.step_s

    @property
    def total_s(self) -> float:
        """The whole run, as if all its steps were of full size."""
        return self.plan.total_tokens / self.tokens_per_s

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation of the step."""
        return self.plan.flops_per_step / (self.step_s * self.plan.world_size * self.hardware.gpu.peak_flops)

    @property
    def scaling_efficiency(self) -> float:
        """Tokens/s of a GPU, compared with one node that has as many rows for each."""
        per_node = min(self.plan.world_size, self.hardware.gpus_per_node)
        return (self.tokens_per_s / self.plan.world_size) / (self.node_tokens_per_s / per_node)

    @property
    def is_too_large(self) -> bool:
        """Whether the memory that the plan needs is more than the GPU has."""
        return self.plan.memory.peak > self.hardware.gpu.memory_bytes

    @property
    def bound(self) -> str:
        """What takes most of a step."""
        if self.compute_s >= self.waiting_s:
            return "arithmetic"
        return "bandwidth" if self.bandwidth_s >= self.latency_s else "latency"


def predict(plan: RunPlan, hardware: Hardware, utilisation: float | None = None) -> Prediction:
    """How long a run would take.

    Args:
        plan: the run.
        hardware: what it runs on.
        utilisation: share of its peak that a GPU's arithmetic reaches; by default the table's for the model's width.

    Raises:
        ConfigError: the run computes in fp32, or offloads to the CPU: no table has figures for either.
    """
    if plan.config.precision == "fp32":
        raise ConfigError("times are predicted for bf16 and fp16 only", where="precision", remedy="use precision=bf16")
    if plan.config.parallel.offload_optimizer or plan.config.parallel.offload_parameters:
        raise ConfigError(
            "times are not predicted for runs that offload to the CPU", where="parallel", remedy="leave out --network"
        )
    reached = hardware.gpu.utilisation_at(plan.config.model.hidden_size) if utilisation is None else utilisation
    whole = _step(plan, hardware, reached)
    node = min(plan.world_size, lcm(hardware.gpus_per_node, plan.config.parallel.tensor_parallel_size))
    if node == plan.world_size:
        return replace(whole, node_tokens_per_s=whole.tokens_per_s)
    part = node / plan.world_size
    alone = replace(
        plan,
        world_size=node,
        data_parallel_size=node // plan.config.parallel.tensor_parallel_size,
        flops_per_step=plan.flops_per_step * part,
    )
    tokens_per_s = plan.global_batch_tokens * part / _step(alone, hardware, reached).step_s
    per_node = min(plan.world_size, hardware.gpus_per_node)
    return replace(whole, node_tokens_per_s=tokens_per_s * per_node / node)


def _step(plan: RunPlan, hardware: Hardware, utilisation: float) -> Prediction:
    config, gpus = plan.config, hardware.gpus_per_node
    ways = config.parallel.tensor_parallel_size
    data_group, tensor_group = groups(plan.world_size, ways, gpus)
    numel = sum(size.numel(ways) for size in parameter_sizes(config.model, plan.data.vocab_size))
    micro_batches = plan.gradient_accumulation_steps
    collectives = [
        *data_parallel(config, numel, micro_batches, data_group),
        *tensor_parallel(config, plan.data.sequence_length, micro_batches, tensor_group),
        agreements(plan.world_size, gpus),
    ]
    flops = plan.flops_per_step / plan.world_size * RECOMPUTED[config.activation_checkpointing]
    compute_s = flops / (hardware.gpu.peak_flops * utilisation)
    times = {
        hidden: sum(bandwidth_s(c, hardware) + latency_s(c, hardware) for c in collectives if c.is_hidden == hidden)
        for hidden in (True, False)
    }
    volumes = [sent(collective) for collective in collectives]
    return Prediction(
        plan=plan,
        hardware=hardware,
        utilisation=utilisation,
        compute_s=compute_s,
        bandwidth_s=sum(bandwidth_s(collective, hardware) for collective in collectives),
        latency_s=sum(latency_s(collective, hardware) for collective in collectives),
        waiting_s=times[False] + max(0.0, times[True] - compute_s),
        sent=Sent(sum(v.within_node_bytes for v in volumes), sum(v.between_nodes_bytes for v in volumes)),
        node_tokens_per_s=0.0,
    )


def describe_prediction(made: Prediction) -> str:
    """What is predicted, for a person, a line or more a topic."""
    gpu, network = made.hardware.gpu, made.hardware.network
    lines = [
        f"predicted  {gpu.name}, {made.hardware.gpus_per_node} a node, {network.name};"
        f" arithmetic at {made.utilisation:.0%} of {gpu.peak_flops / 1e12:,.0f} TFLOP/s (see docs/scaling.md)",
        f"  step       {_milliseconds(made.step_s)}: arithmetic {_milliseconds(made.compute_s)},"
        f" waiting for communication {_milliseconds(made.waiting_s)}",
        f"             communication in all {_milliseconds(made.bandwidth_s)} for the bytes,"
        f" {_milliseconds(made.latency_s)} of latency; most of a step is {made.bound}",
        f"  sent       {decimal(round(made.sent.bytes))} by each GPU in a step,"
        f" {decimal(round(made.sent.between_nodes_bytes))} of it between nodes",
        f"  speed      {made.tokens_per_s:,.0f} tokens/s, MFU {made.mfu:.1%};"
        f" {made.scaling_efficiency:.1%} of what as many separate nodes would do",
        f"  run        {duration(made.total_s)} for {made.plan.total_tokens:,} tokens",
    ]
    if made.is_too_large:
        lines.append(f"  memory     more than the {decimal(round(gpu.memory_bytes))} of a {gpu.name}")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """In the unit that a person would take."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.0f} s"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms"
