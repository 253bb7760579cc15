"""Model + configuration -> a DeepSpeed engine: ZeRO over the data-parallel group, with megatron-core's groups.

Precision is the same at every stage: the model computes in fp32, bf16 or fp16; gradients are summed over micro-batches
and ranks in fp32; AdamW updates fp32 masters, which the low-precision weights are rounded from.
"""

import logging
import os
from typing import Any

import torch

from foreword.errors import ConfigError
from pipeline.config.train import TrainConfig
from pipeline.distributed.parallel import Parallel
from pipeline.engine.optimizer import GatedAdamW
from pipeline.model import GPT2
from pipeline.model.gpt2 import Block

# read when DeepSpeed is imported, which otherwise announces each of its choices
os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
import deepspeed  # noqa: E402
from deepspeed.accelerator import get_accelerator  # noqa: E402
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer  # noqa: E402
from deepspeed.runtime.config import DeepSpeedConfig  # noqa: E402
from deepspeed.runtime.engine import DeepSpeedEngine  # noqa: E402
from deepspeed.utils import set_z3_leaf_modules  # noqa: E402

# a collective for inference over shared memory, which DeepSpeed would compile for a minute at the first start
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


class ReplicatedMastersEngine(DeepSpeedEngine):
    """ZeRO 0 in bf16: what DeepSpeed does for ZeRO 1, but every rank keeps all masters and moments.

    DeepSpeed's own stage 0 sums gradients in bf16. Its BF16_Optimizer sums them in fp32 and cuts the masters over a
    group of ranks: here a group of this rank alone, while the gradients are still averaged over the data-parallel one.
    """

    def _configure_bf16_optimizer(self, optimizer: torch.optim.Optimizer) -> BF16_Optimizer:
        alone = torch.distributed.new_group([torch.distributed.get_rank()], use_local_synchronization=True)
        return BF16_Optimizer(
            optimizer,
            self.param_names,
            bfloat16_config=self._config.bfloat16_config,
            mpu=self.mpu,
            clip_grad=self.gradient_clipping(),
            allgather_bucket_size=self.zero_allgather_bucket_size(),
            dp_process_group=alone,
            timers=self.timers,
            grad_acc_dtype=torch.float32,
        )


def start_deepspeed(
    model: GPT2, optimizer: GatedAdamW, config: TrainConfig, parallel: Parallel, max_accumulation_steps: int
) -> Any:
    """Wrap the model and the optimizer; from here on DeepSpeed owns the parameters.

    Args:
        model: on its device, in fp32.
        optimizer: over the model's parameters.
        config: of the run.
        parallel: this process's place.
        max_accumulation_steps: micro-batches per rank of the largest optimizer step.

    Raises:
        ConfigError: the device cannot compute in the configured precision.
    """
    if config.precision == "fp16" and not get_accelerator().is_fp16_supported():
        raise ConfigError(
            f"{parallel.device.type} here does not compute in fp16", where="precision", remedy="use bf16 or fp32"
        )
    settings = deepspeed_settings(config, max_accumulation_steps)
    if config.parallel.zero_stage == 3:  # a layer's weights are gathered and freed together
        set_z3_leaf_modules(model, [Block])
    if config.parallel.zero_stage == 0 and config.precision == "bf16":
        deepspeed.init_distributed(dist_init_required=False)
        return ReplicatedMastersEngine(
            args=None,
            model=model,
            optimizer=optimizer,
            mpu=parallel.mpu,
            dist_init_required=False,
            config=settings,
            config_class=DeepSpeedConfig(settings, parallel.mpu),
        )
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=settings, mpu=parallel.mpu, dist_init_required=False
    )
    if config.precision == "fp16":
        # at its least scale an overflow is a step like any other that is refused: the guard counts it
        engine.optimizer.loss_scaler.raise_error_at_min_scale = False
    return engine


def whole_parameter(parameter: torch.nn.Parameter) -> Any:
    """A context in which a parameter that ZeRO 3 has cut is whole; all ranks must enter it together."""
    return deepspeed.zero.GatheredParameters([parameter])


def deepspeed_settings(config: TrainConfig, max_accumulation_steps: int) -> dict:
    """The part of DeepSpeed's configuration that Foreword decides."""
    stage = config.parallel.zero_stage
    zero: dict = {"stage": max(stage, 1) if config.precision == "bf16" else stage}
    if stage == 3:  # matrices are cut, however small; biases and layer norms stay whole
        zero["stage3_param_persistence_threshold"] = 4 * config.model.hidden_size
    if config.parallel.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if config.parallel.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    settings: dict = {
        "train_micro_batch_size_per_gpu": config.batch.micro_batch_size,
        "gradient_accumulation_steps": max_accumulation_steps,
        "gradient_clipping": config.optimizer.clip_grad_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # torch's fused AdamW runs on the CPU as well, and needs no compiler
        "steps_per_print": 10**9,
    }
    if config.precision != "fp32":
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
        settings["communication_data_type"] = "fp32"
    if config.precision == "bf16":
        settings["bf16"] = {"enabled": True}
    if config.precision == "fp16":
        settings["fp16"] = {
            "enabled": True,
            "initial_scale_power": config.loss_scaling.initial_scale_power,
            "loss_scale_window": config.loss_scaling.window,
            "hysteresis": config.loss_scaling.hysteresis,
        }
    return settings
