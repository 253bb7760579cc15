"""A live engine -> the fragments of training state that this process holds, as views that can be read and written.

Each ZeRO stage keeps the fp32 master weights and Adam's moments in flat buffers of its own making. This file is the one
place that knows where: everything else sees fragments. What it relies on in DeepSpeed 0.19:

    stage 0          nothing is partitioned; in fp32 the parameters are the masters, in bf16 it is as in stage 1 with
                     every range a whole parameter
    stage 1, 2       `param._hp_mapping` names this rank's range of the parameter and where it lies in the flat fp32
                     partition of its group; bf16 with stage 1 uses BF16_Optimizer, which does the same
    stage 3          every parameter is cut evenly over the ranks; `grad_position` tells where in the flat buffers
"""

from dataclasses import dataclass

import torch
from torch import nn

from pipeline.checkpoint.meta import MASTER, MOMENTS
from pipeline.engine import Engine


@dataclass(frozen=True)
class Fragment:
    """A range of one parameter's training state.

    Attributes:
        name: the parameter.
        start: first element, in the flattened tensor-parallel slice of this rank.
        state: KINDS -> fp32 view [numel] into the engine's own buffers.
    """

    name: str
    start: int
    state: dict[str, torch.Tensor]

    @property
    def numel(self) -> int:
        """Elements in the range."""
        return self.state[MASTER].numel()


def fragments_of(engine: Engine) -> list[Fragment]:
    """All fragments that this process holds; Adam's moments are created (as zeros) where no step has been taken yet."""
    flat_buffers = _flat_buffers(engine)
    _create_moments(engine, flat_buffers)
    state = engine.adam.state
    fragments = []
    for name, parameter in engine.model.named_parameters():
        place = _place(engine, parameter)
        if place is None:
            continue
        buffer_index, offset, start, numel = place
        buffer = parameter if buffer_index is None else flat_buffers[buffer_index]
        tensors = {MASTER: buffer.data, **{kind: state[buffer][kind] for kind in MOMENTS}}
        views = {kind: tensor.view(-1).narrow(0, offset, numel) for kind, tensor in tensors.items()}
        fragments.append(Fragment(name, start, views))
    return fragments


def optimizer_steps(engine: Engine) -> int:
    """How many updates Adam has made (its bias correction depends on it)."""
    states = list(engine.adam.state.values())
    return int(states[0]["step"]) if states else 0


def finish_restore(engine: Engine, steps: int) -> None:
    """After the fragments were written: set Adam's step count and renew every copy made from the masters."""
    for state in engine.adam.state.values():
        state["step"].fill_(steps)
    if engine.zero_stage == 3:
        _renew_stage3_copies(engine)
    elif not _parameters_are_masters(engine):
        engine.optimizer.update_lp_params()


def _parameters_are_masters(engine: Engine) -> bool:
    return engine.optimizer is engine.adam


def _place(engine: Engine, parameter: nn.Parameter) -> tuple[int | None, int, int, int] | None:
    """(flat buffer, offset in it, start in the parameter, elements) of this rank's part, or None when it has none."""
    if _parameters_are_masters(engine):
        return None, 0, 0, parameter.numel()
    if engine.zero_stage != 3:
        mapping = parameter._hp_mapping  # type: ignore[attr-defined]
        if mapping is None:
            return None
        in_parameter, in_buffer = mapping.lp_fragment_address, mapping.hp_fragment_address
        return mapping.param_group_index, in_buffer.start, in_parameter.start, in_buffer.numel
    optimizer = engine.optimizer
    buffer_index, offset, padded_numel = optimizer.grad_position[optimizer.get_param_id(parameter)]
    start = engine.parallel.data_parallel_rank * padded_numel
    numel = min(padded_numel, parameter.ds_numel - start)  # type: ignore[attr-defined]
    return (buffer_index, offset, start, numel) if numel > 0 else None


def _flat_buffers(engine: Engine) -> list[torch.Tensor]:
    if _parameters_are_masters(engine):
        return []
    if engine.zero_stage == 3:
        return engine.optimizer.fp32_partitioned_groups_flat
    if hasattr(engine.optimizer, "fp32_groups_flat_partition"):  # BF16_Optimizer
        return engine.optimizer.fp32_groups_flat_partition
    return engine.optimizer.single_partition_of_fp32_groups


def _create_moments(engine: Engine, flat_buffers: list[torch.Tensor]) -> None:
    optimizer = engine.adam
    fused = any(group.get("fused") for group in optimizer.param_groups)
    for buffer in flat_buffers or list(engine.model.parameters()):
        if MOMENTS[0] not in optimizer.state[buffer]:
            optimizer.state[buffer] = {
                "step": torch.zeros((), dtype=torch.float32, device=buffer.device if fused else "cpu"),
                **{kind: torch.zeros_like(buffer) for kind in MOMENTS},
            }


def _renew_stage3_copies(engine: Engine) -> None:
    optimizer = engine.optimizer
    for index, master in enumerate(optimizer.fp32_partitioned_groups_flat):
        flat = optimizer.fp16_partitioned_groups_flat[index]
        flat.data.copy_(master.data)
        partitions = optimizer.fp16_partitioned_groups[index]
        for partition, renewed in zip(partitions, optimizer.unflatten(flat, partitions), strict=True):
            partition.data = renewed.data
    # small parameters are kept whole on every rank and would stay as they were until the next step
    if persistent := optimizer.persistent_parameters:
        persistent[0].partition(persistent)
        persistent[0].all_gather(persistent)
