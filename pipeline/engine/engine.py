"""The optimizer step: forward and backward over this rank's micro-batches, then one update, made or refused.

The loss handed to `backward` is a sum over this rank's scored tokens. It is divided by the number of scored tokens in
the whole global batch, so the update does not depend on how the batch is cut into ranks and micro-batches: DeepSpeed's
own average over ranks is multiplied out again.

Before the update, all ranks know the loss and the gradient norm of the whole global batch and agree on whether it may
be made (`guard`). The gate is in the innermost optimizer, behind ZeRO's reduction and clipping and before anything that
lasts, so a refused step leaves weights, moments and step counts untouched at every stage.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist

from pipeline.checkpoint.meta import EngineState, LossScalerState
from pipeline.config.train import TrainConfig
from pipeline.data.batch import Batch
from pipeline.distributed.parallel import Parallel
from pipeline.engine.compilation import compile_model
from pipeline.engine.deepspeed import start_deepspeed, whole_parameter
from pipeline.engine.guard import StepGuard
from pipeline.engine.optimizer import make_optimizer
from pipeline.engine.recompute import RUNS, run_blocks
from pipeline.model import GPT2, parameter_layout


@dataclass(frozen=True)
class StepResult:
    """What a step was, the same on all ranks.

    Attributes:
        loss: mean negative log-likelihood of the global batch's scored tokens, in nats.
        grad_norm: global norm of the gradient before clipping; infinite when it is no number.
        skipped: why the update was not made; None where it was.
    """

    loss: float
    grad_norm: float
    skipped: str | None


class Engine:
    """One optimizer step at a time, over any ZeRO stage.

    Attributes:
        model: the module with its (possibly partitioned) parameters.
        layout: every parameter's full shape and tensor-parallel cut.
        deepspeed: the DeepSpeed engine underneath.
        guard: judges each step.
    """

    def __init__(self, model: GPT2, config: TrainConfig, parallel: Parallel, max_accumulation_steps: int) -> None:
        self.model = model
        self.layout = parameter_layout(model)  # before ZeRO 3 takes the parameters' shapes away
        self.config = config
        self.parallel = parallel
        self.zero_stage = config.parallel.zero_stage
        self.guard = StepGuard(config.guard)
        fused = parallel.device.type == "cuda" or config.parallel.offload_optimizer
        self.adam = make_optimizer(model, config.optimizer, fused=fused)
        self.deepspeed = start_deepspeed(model, self.adam, config, parallel, max_accumulation_steps)
        run_blocks(model, RUNS[config.activation_checkpointing])
        if self.zero_stage == 3:
            model.whole = whole_parameter
        self._is_compiled = False
        self._result: StepResult | None = None

    @property
    def optimizer(self) -> Any:
        """DeepSpeed's optimizer: `adam` itself for ZeRO 0 in fp32, one that wraps it elsewhere."""
        return self.deepspeed.optimizer

    def step(self, micro_batches: list[Batch], global_targets: int, lr: float) -> StepResult:
        """Run one optimizer step.

        Args:
            micro_batches: this rank's, as many as every other rank has, on this rank's device.
            global_targets: scored tokens in the global batch, over all data-parallel ranks.
            lr: learning rate of this step.

        Raises:
            ConfigError: in the first step: the configuration wants the layers compiled, and that does not work.
        """
        if not self._is_compiled:  # now that there is a batch to try it with
            compile_model(self.model, self.config, micro_batches[0], self.parallel)
            self._is_compiled = True
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        scale = self.parallel.data_parallel_size / global_targets
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.parallel.device)
        for index, batch in enumerate(micro_batches):
            self.deepspeed.set_gradient_accumulation_boundary(index == len(micro_batches) - 1)
            loss = self.deepspeed(batch)
            self.deepspeed.backward(loss * scale, scale_wrt_gas=False)
            loss_sum += loss.detach()
        dist.all_reduce(loss_sum, group=self.parallel.data_parallel_group)
        return self._update(loss_sum / global_targets)

    def _update(self, loss: torch.Tensor) -> StepResult:
        own_norm = self._full_gradient_norm() if self.optimizer is self.adam else None
        self._result = None
        scaler = self._loss_scaler
        loss_scale = None if scaler is None or scaler.cur_scale <= scaler.min_scale else scaler.cur_scale

        def is_open() -> bool:  # asked once per flat buffer, when DeepSpeed knows the norm
            if self._result is None:
                self._result = self._judge(loss, own_norm if own_norm is not None else self.optimizer._global_grad_norm)
            return self._result.skipped is None

        self.adam.is_open = is_open
        self.deepspeed.step()
        result: StepResult | None = self._result
        if result is None:  # DeepSpeed has found a gradient that is not finite, on all ranks, and has not asked
            result = self._judge(loss, torch.tensor(math.inf))
        if result.skipped is None:
            self.guard.made(result.loss, result.grad_norm)
        elif loss_scale is not None and math.isfinite(result.loss) and math.isinf(result.grad_norm):
            # expected now and then, and dealt with by lowering the scale
            result = replace(result, skipped=f"fp16 overflow at loss scale {loss_scale:g}")
        else:
            self.guard.skipped()
        return result

    def _judge(self, loss: torch.Tensor, grad_norm: torch.Tensor) -> StepResult:
        """Agree with all ranks on the step's numbers, which may differ in their last bits, and on what they mean."""
        norm = torch.as_tensor(grad_norm, dtype=torch.float64, device=loss.device)
        norm = torch.where(norm >= 0, norm, torch.inf)  # DeepSpeed's word for "not finite" is -1
        loss = torch.nan_to_num(loss, nan=torch.inf, posinf=torch.inf, neginf=torch.inf)
        agreed = torch.stack((loss, norm))
        dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
        agreed_loss, agreed_norm = agreed.tolist()
        return StepResult(agreed_loss, agreed_norm, skipped=self.guard.objection(agreed_loss, agreed_norm))

    @property
    def _loss_scaler(self) -> Any:
        """DeepSpeed's dynamic loss scaler, of fp16, or None."""
        scaler = getattr(self.optimizer, "loss_scaler", None)
        return scaler if scaler is not None and scaler.dynamic else None

    @property
    def state(self) -> EngineState:
        """What a checkpoint keeps besides tensors; the same on all ranks."""
        scaler, loss_scaler = self._loss_scaler, None
        if scaler is not None:
            loss_scaler = LossScalerState(**{field: getattr(scaler, field) for field in LossScalerState.model_fields})
        return EngineState(guard=self.guard.state, loss_scaler=loss_scaler)

    def restore_state(self, state: EngineState) -> None:
        """Continue from a checkpoint's state; what this precision has no use for is left aside."""
        self.guard.restore(state.guard)
        if self._loss_scaler is not None and state.loss_scaler is not None:
            for field, value in state.loss_scaler:
                setattr(self._loss_scaler, field, value)

    def _full_gradient_norm(self) -> torch.Tensor:
        """Global norm of the averaged gradients, which every rank holds without ZeRO (DeepSpeed tells it only with)."""
        squares = torch.zeros(2, dtype=torch.float64, device=self.parallel.device)  # cut parameters, replicated ones
        for name, parameter in self.model.named_parameters():
            replicated = self.layout[name].partition_dim is None
            if parameter.grad is not None:
                squares[int(replicated)] += parameter.grad.double().square().sum()
        dist.all_reduce(squares[0], group=self.parallel.mpu.get_tensor_model_parallel_group())
        return squares.sum().sqrt()
