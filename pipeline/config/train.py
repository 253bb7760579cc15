"""The configuration of a training run, as the user writes it in configs/train/*.yaml.

A row is a sequence of the corpus; a step is an optimizer step, whether its update was made or skipped; a token is an
input position, so that a row has the corpus's `sequence_length` of them.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, NonNegativeFloat, model_validator

from foreword.config import Section
from pipeline.config.data import DataConfig, Seed
from pipeline.config.model import ModelConfig
from pipeline.config.objective import BoundariesConfig, MaskingConfig, Objectives
from pipeline.config.optimization import BatchConfig, GuardConfig, LossScalingConfig, OptimizerConfig, ScheduleConfig
from pipeline.config.parallel import ParallelConfig
from pipeline.config.run import CheckpointConfig, EvaluationConfig, InitFrom, LoggingConfig, WatchdogConfig

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def _as_word(value: Any) -> Any:
    """YAML takes the words on and off for booleans."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(_as_word)]


class TrainConfig(Section):
    """Everything that decides a run. The resolved form is saved with the run and with each checkpoint.

    `z_loss` is the weight of log(Z)^2, where Z is the softmax's normaliser (PaLM has 1e-4). It acts through the
    gradient alone; reported losses are without it.

    `activation_checkpointing` saves memory for time, and changes no result: `selective` keeps the results of matrix
    products and of attention for the backward pass and computes what is between them again; `full` keeps the input of
    each layer alone, and does a third more work.

    `compile` makes one graph of each layer with torch.compile. `auto` does so on CUDA where that works, and says so
    where it does not; `on` ends the run then.
    """

    run_dir: Path
    data: DataConfig
    model: ModelConfig
    objective: Objectives = Field("prefix", validate_default=True)
    boundaries: BoundariesConfig = BoundariesConfig()
    masking: MaskingConfig = MaskingConfig()
    z_loss: NonNegativeFloat = 0.0
    attention: Literal["auto", "sdpa", "varlen", "flex"] = "auto"
    precision: Precision = "fp32"
    loss_scaling: LossScalingConfig = LossScalingConfig()
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    compile: Switch = "auto"
    batch: BatchConfig
    parallel: ParallelConfig = ParallelConfig()
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    guard: GuardConfig = GuardConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    watchdog: WatchdogConfig = WatchdogConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    logging: LoggingConfig = LoggingConfig()
    seed: Seed = 1234
    init_from: InitFrom | None = None

    @model_validator(mode="after")
    def _tensor_parallel_size_divides_the_heads(self) -> "TrainConfig":
        heads, size = self.model.num_attention_heads, self.parallel.tensor_parallel_size
        if heads % size:
            raise ValueError(f"parallel.tensor_parallel_size {size} does not divide model.num_attention_heads {heads}")
        return self

    @model_validator(mode="after")
    def _samples_have_positions(self) -> "TrainConfig":
        if self.evaluation.samples and self.evaluation.sample_tokens >= self.model.max_position_embeddings:
            raise ValueError(
                f"evaluation.sample_tokens {self.evaluation.sample_tokens} leaves no position for a prompt: "
                f"model.max_position_embeddings is {self.model.max_position_embeddings}"
            )
        return self

    @model_validator(mode="after")
    def _fp16_has_masters(self) -> "TrainConfig":
        if self.precision == "fp16" and self.parallel.zero_stage == 0:
            raise ValueError(
                "precision fp16 needs parallel.zero_stage 1, 2 or 3: without them DeepSpeed sums gradients in fp16"
            )
        return self
