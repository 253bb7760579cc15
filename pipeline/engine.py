"""Model + configuration -> a DeepSpeed engine: ZeRO over the data-parallel group, AdamW, clipping.

The loss handed to `backward` is a sum over this rank's scored tokens. It is divided by the number of scored tokens in
the whole global batch, so the update does not depend on how the batch is cut into ranks and micro-batches: DeepSpeed's
own averaging (over ranks and accumulation steps) is multiplied out again.
"""

import logging
import os
from typing import Any

import torch
from torch import nn

from pipeline.config import OptimizerConfig, TrainConfig
from pipeline.data.batch import Batch
from pipeline.distributed.parallel import Parallel
from pipeline.model import GPT2, parameter_layout

# read when DeepSpeed is imported, which otherwise announces each of its choices
os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
import deepspeed  # noqa: E402

# a collective for inference over shared memory, which DeepSpeed would compile for a minute at the first start
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


class Engine:
    """One optimizer step at a time, over any ZeRO stage.

    Attributes:
        model: the module with its (possibly partitioned) parameters.
        layout: every parameter's full shape and tensor-parallel cut.
        deepspeed: the DeepSpeed engine underneath.
    """

    def __init__(self, model: GPT2, config: TrainConfig, parallel: Parallel, max_accumulation_steps: int) -> None:
        self.model = model
        self.layout = parameter_layout(model)  # before ZeRO 3 takes the parameters' shapes away
        self.parallel = parallel
        self.zero_stage = config.parallel.zero_stage
        optimizer = torch.optim.AdamW(
            parameter_groups(model, config.optimizer),
            lr=config.optimizer.lr,
            betas=config.optimizer.betas,
            eps=config.optimizer.eps,
            fused=parallel.device.type == "cuda",
        )
        self.deepspeed, *_ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            config=deepspeed_config(config, max_accumulation_steps),
            mpu=parallel.mpu,
            dist_init_required=False,
        )

    @property
    def optimizer(self) -> Any:
        """DeepSpeed's optimizer: plain AdamW for ZeRO 0 in fp32, a ZeRO optimizer around it elsewhere."""
        return self.deepspeed.optimizer

    def step(self, micro_batches: list[Batch], global_targets: int, lr: float) -> tuple[torch.Tensor, float]:
        """Run one optimizer step.

        Args:
            micro_batches: this rank's, as many as every other rank has, on this rank's device.
            global_targets: scored tokens in the global batch, over all data-parallel ranks.
            lr: learning rate of this step.

        Returns:
            This rank's sum of the negative log-likelihoods (float64 scalar tensor, in nats) and the global gradient
            norm before clipping.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        scale = self.parallel.data_parallel_size / global_targets
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.parallel.device)
        for index, batch in enumerate(micro_batches):
            self.deepspeed.set_gradient_accumulation_boundary(index == len(micro_batches) - 1)
            loss = self.deepspeed(batch)
            self.deepspeed.backward(loss * scale, scale_wrt_gas=False)
            loss_sum += loss.detach()
        grad_norm = self._full_gradient_norm() if self.zero_stage == 0 else None
        self.deepspeed.step()
        return loss_sum, float(self.deepspeed.get_global_grad_norm() if grad_norm is None else grad_norm)

    def _full_gradient_norm(self) -> torch.Tensor:
        """Global norm of the averaged gradients, which every rank holds without ZeRO (DeepSpeed tells it only with)."""
        squares = torch.zeros(2, dtype=torch.float64, device=self.parallel.device)  # cut parameters, replicated ones
        for name, parameter in self.model.named_parameters():
            replicated = self.layout[name].partition_dim is None
            if parameter.grad is not None:
                squares[int(replicated)] += parameter.grad.double().square().sum()
        torch.distributed.all_reduce(squares[0], group=self.parallel.mpu.get_tensor_model_parallel_group())
        return squares.sum().sqrt()


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict]:
    """Matrices with weight decay; biases and layer norms without."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.requires_grad and p.dim() < 2]
    return [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def deepspeed_config(config: TrainConfig, max_accumulation_steps: int) -> dict:
    """The part of DeepSpeed's configuration that Foreword decides."""
    settings: dict = {
        "train_micro_batch_size_per_gpu": config.batch.micro_batch_size,
        "gradient_accumulation_steps": max_accumulation_steps,
        "gradient_clipping": config.optimizer.clip_grad_norm,
        "zero_optimization": {"stage": config.parallel.zero_stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }
    if config.precision == "bf16":
        settings["bf16"] = {"enabled": True}
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    return settings
