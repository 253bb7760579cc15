"""The configuration of a training run, as the user writes it in configs/train/*.yaml.

A row is a sequence of the corpus; a step is an optimizer step, whether its update was made or skipped; a token is an
input position, so that a row has the corpus's `sequence_length` of them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PlainSerializer,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    model_validator,
)

from foreword.config import Section

DecayRate = Annotated[float, Field(ge=0.0, lt=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
UnitFraction = Annotated[float, Field(ge=0.0, le=1.0)]
CorpusName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$")]
ObjectiveName = Literal["causal", "prefix", "bidirectional"]
OBJECTIVES: tuple[ObjectiveName, ...] = get_args(ObjectiveName)
PromptReading = Literal["causal", "prefix"]


def _one_alone(value: Any) -> Any:
    """The name of an objective is short for it alone."""
    if isinstance(value, str) and value not in OBJECTIVES:
        raise ValueError(f"an objective is one of {', '.join(OBJECTIVES)}, or a mapping of them to weights")
    return {value: 1.0} if isinstance(value, str) else value


def _with_weight(weights: dict[ObjectiveName, float]) -> dict[ObjectiveName, float]:
    mixed = {name: weights[name] for name in OBJECTIVES if weights.get(name)}
    if not mixed:
        raise ValueError("no objective has a weight above 0")
    return mixed if len(mixed) > 1 else dict.fromkeys(mixed, 1.0)


def _as_written(weights: dict[ObjectiveName, float]) -> Any:
    return next(iter(weights)) if len(weights) == 1 else weights


def _as_word(value: Any) -> Any:
    """YAML takes the words on and off for booleans."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(_as_word)]

# name -> weight, above 0 and in the order of OBJECTIVES; in YAML also the name of one alone
Objectives = Annotated[
    dict[ObjectiveName, NonNegativeFloat],
    BeforeValidator(_one_alone),
    AfterValidator(_with_weight),
    PlainSerializer(_as_written),
]


def describe_objectives(objectives: Mapping[ObjectiveName, float]) -> str:
    """For people: "prefix", or "causal 1, prefix 2"."""
    return next(iter(objectives)) if len(objectives) == 1 else ", ".join(f"{n} {w:g}" for n, w in objectives.items())


def prompt_reading(objectives: Mapping[ObjectiveName, float]) -> PromptReading:
    """How a model trained with these objectives reads a prompt: as a prefix if it was trained on prefixes at all."""
    return "prefix" if "prefix" in objectives else "causal"


class ModelConfig(Section):
    """The shape of a GPT-2. The vocabulary is the corpus's."""

    num_layers: PositiveInt
    hidden_size: PositiveInt
    num_attention_heads: PositiveInt
    max_position_embeddings: PositiveInt = 1024
    layer_norm_eps: PositiveFloat = 1e-5
    initializer_range: PositiveFloat = 0.02

    @model_validator(mode="after")
    def _heads_divide_hidden_size(self) -> "ModelConfig":
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        return self


class BlendedCorpus(Section):
    """One corpus of a blend: of all rows, `weight` over the sum of the weights come from it."""

    path: Path
    weight: PositiveFloat = 1.0


class DataConfig(Section):
    """Which corpus is read, or which blend of several, by name; and in which order."""

    corpus: Path | None = None
    corpora: dict[CorpusName, BlendedCorpus] = Field(default_factory=dict)
    train_split: str = "train"
    validation_split: str = "valid"
    seed: Seed = 1234

    @model_validator(mode="after")
    def _one_or_several(self) -> "DataConfig":
        if self.corpus is None and not self.corpora:
            raise ValueError("set corpus to the directory of one, or corpora to several with their weights")
        if self.corpus is not None and self.corpora:
            raise ValueError("corpus and corpora are both set; set corpus=null to read the blend")
        return self

    def sources(self) -> dict[str, BlendedCorpus]:
        """Name -> corpus; one alone is called "corpus"."""
        return self.corpora if self.corpus is None else {"corpus": BlendedCorpus(path=self.corpus)}


class BoundariesConfig(Section):
    """Where prefixes end in training: as the shards say, or drawn anew for each segment in each epoch.

    `uniform` draws from [1, length) (T5); `fraction` draws a share of the segment's length from the range `fraction`.
    """

    policy: Literal["shards", "uniform", "fraction"] = "shards"
    fraction: tuple[UnitFraction, UnitFraction] | None = None

    @model_validator(mode="after")
    def _a_range_for_fractions(self) -> "BoundariesConfig":
        if (self.policy == "fraction") != (self.fraction is not None):
            raise ValueError("policy: fraction and fraction: [LOWEST, HIGHEST] go together")
        if self.fraction is not None and self.fraction[0] > self.fraction[1]:
            raise ValueError(f"fraction {list(self.fraction)} is not [LOWEST, HIGHEST]")
        return self


class MaskingConfig(Section):
    """Masked-token prediction as in BERT (Devlin et al. 2019).

    Of a segment's tokens `chosen` are predicted; of these `masked` are read as the mask token, `random` as a random
    token, and the rest as they are. `token_id` is the mask token, by default the vocabulary's first padding id.
    """

    chosen: Annotated[float, Field(gt=0.0, le=1.0)] = 0.15
    masked: UnitFraction = 0.8
    random: UnitFraction = 0.1
    token_id: NonNegativeInt | None = None

    @model_validator(mode="after")
    def _shares_of_a_whole(self) -> "MaskingConfig":
        if self.masked + self.random > 1.0:
            raise ValueError(f"masked {self.masked} and random {self.random} are more than all")
        return self


class BatchWarmup(Section):
    """The global batch grows from `start_size` rows by `increment` rows at a time, at equal distances.

    It has its full size after `steps` steps or `tokens` tokens. `increment` is `start_size` unless set.
    """

    start_size: PositiveInt
    increment: PositiveInt | None = None
    steps: PositiveInt | None = None
    tokens: PositiveInt | None = None

    @model_validator(mode="after")
    def _one_length(self) -> "BatchWarmup":
        _exactly_one(self, "steps", "tokens")
        return self


class BatchConfig(Section):
    """Rows (or tokens) per optimizer step, and rows per forward pass of one data-parallel rank.

    The global batch is reached by gradient accumulation.
    """

    global_batch_size: PositiveInt | None = None
    global_batch_tokens: PositiveInt | None = None
    micro_batch_size: PositiveInt
    warmup: BatchWarmup | None = None

    @model_validator(mode="after")
    def _one_size(self) -> "BatchConfig":
        _exactly_one(self, "global_batch_size", "global_batch_tokens")
        return self


class ParallelConfig(Section):
    """How the model and its state are cut over the processes.

    `zero_stage` 1 cuts optimizer state and masters over the data-parallel ranks, 2 the gradients as well, 3 the weights
    too. `offload_optimizer` keeps optimizer state and masters in the memory of the CPU, which then makes the update;
    `offload_parameters` keeps the weights there between their uses.

    `tensor_parallel_size` neighbouring ranks share each layer. With `sequence_parallel` they also share the tokens
    between the cut matrices, where without it each keeps all of them: less memory for a quarter more communication. The
    tokens of a micro-batch must be a multiple of `tensor_parallel_size` then. Neither changes the result of a step or
    what a checkpoint holds.
    """

    tensor_parallel_size: PositiveInt = 1
    sequence_parallel: bool = False
    zero_stage: Literal[0, 1, 2, 3] = 1
    offload_optimizer: bool = False
    offload_parameters: bool = False

    @model_validator(mode="after")
    def _sequence_parallel_has_ranks(self) -> "ParallelConfig":
        if self.sequence_parallel and self.tensor_parallel_size == 1:
            raise ValueError("sequence_parallel needs a tensor_parallel_size above 1: it cuts tokens over those ranks")
        return self

    @model_validator(mode="after")
    def _offload_fits_the_stage(self) -> "ParallelConfig":
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3")
        if self.offload_parameters and self.zero_stage != 3:
            raise ValueError("offload_parameters needs zero_stage 3")
        return self


class OptimizerConfig(Section):
    """AdamW. Weight decay acts on matrices only, the embeddings among them; not on biases and layer norms."""

    lr: PositiveFloat
    betas: tuple[DecayRate, DecayRate] = (0.9, 0.95)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.1
    clip_grad_norm: NonNegativeFloat = 1.0


class ScheduleConfig(Section):
    """Linear warmup, then a decay to `min_lr_ratio` x lr at the end of the run; see `pipeline.schedule`.

    All lengths are in steps or all in tokens. `wsd` stays at the peak and decays over the last `decay_steps` or
    `decay_tokens`.
    """

    kind: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    total_steps: PositiveInt | None = None
    total_tokens: PositiveInt | None = None
    warmup_steps: NonNegativeInt | None = None
    warmup_tokens: NonNegativeInt | None = None
    decay_steps: PositiveInt | None = None
    decay_tokens: PositiveInt | None = None
    min_lr_ratio: NonNegativeFloat = Field(0.1, le=1.0)

    @property
    def unit(self) -> Literal["steps", "tokens"]:
        """What the lengths are counted in."""
        return "steps" if self.total_steps is not None else "tokens"

    @property
    def total(self) -> int:
        """Length of the run."""
        return getattr(self, f"total_{self.unit}")

    @property
    def warmup(self) -> int:
        """Length of the rise."""
        return getattr(self, f"warmup_{self.unit}") or 0

    @property
    def decay(self) -> int:
        """Length of the fall at the end, of `wsd`."""
        return getattr(self, f"decay_{self.unit}") or 0

    @model_validator(mode="after")
    def _lengths_fit(self) -> "ScheduleConfig":
        _exactly_one(self, "total_steps", "total_tokens")
        unit, other = self.unit, "tokens" if self.unit == "steps" else "steps"
        for length in ("warmup", "decay"):
            if getattr(self, f"{length}_{other}") is not None:
                raise ValueError(f"{length}_{other} beside total_{unit}: use {length}_{unit}")
        if self.kind == "wsd" and not self.decay:
            raise ValueError(f"kind wsd needs decay_{unit}")
        if self.kind != "wsd" and self.decay:
            raise ValueError(f"decay_{unit} belongs to kind wsd, not to {self.kind}")
        if self.warmup >= self.total:
            raise ValueError(f"warmup_{unit} {self.warmup} must be below total_{unit} {self.total}")
        if self.warmup + self.decay > self.total:
            raise ValueError(
                f"warmup_{unit} {self.warmup} and decay_{unit} {self.decay} do not fit into total_{unit} {self.total}"
            )
        return self


class LossScalingConfig(Section):
    """Dynamic loss scaling, for precision fp16 alone.

    The scale starts at 2^`initial_scale_power`, doubles after `window` steps without an overflow, and is halved by one
    once `hysteresis` - 1 of them have been borne.
    """

    initial_scale_power: NonNegativeInt = 16
    window: PositiveInt = 1000
    hysteresis: PositiveInt = 2


class GuardConfig(Section):
    """Steps whose update is skipped, on all ranks together: see `pipeline.engine.guard`.

    A loss or gradient that is not finite is always skipped; with `spike_threshold` (in standard deviations) also one
    that far above the last `spike_window` accepted steps. More than `max_skipped_in_a_row` end the run.
    """

    max_skipped_in_a_row: NonNegativeInt = 10
    spike_threshold: PositiveFloat | None = None
    spike_window: Annotated[int, Field(ge=8)] = 128


class CheckpointConfig(Section):
    """When to save, and which checkpoints stay: the last `keep_last`, every `keep_every_steps`-th, and with `keep_best`
    the one with the lowest validation loss among those saved right after an evaluation.

    `asynchronous`: training goes on while a checkpoint is written. `takeover_after_s`: how long the heartbeat of the
    process that holds the run must have been missing before another start takes the run over.
    """

    every_steps: PositiveInt = 1000
    keep_last: PositiveInt = 3
    keep_every_steps: PositiveInt | None = None
    keep_best: bool = True
    asynchronous: bool = True
    takeover_after_s: PositiveFloat = Field(default=60.0, le=300.0)  # the other ranks wait for it, with a time limit


class WatchdogTimeouts(Section):
    """How long a process may make no progress: until its first step is taken; in a step, where every micro-batch is
    progress; in an evaluation, which counts as a whole; in a save, as far as training stands still for it.
    """

    start_up: PositiveFloat = 1800.0
    step: PositiveFloat = 600.0
    evaluation: PositiveFloat = 1800.0
    save: PositiveFloat = 1800.0


class WatchdogConfig(Section):
    """A run that makes no progress for so long ends, and says who holds it up; with null it waits."""

    timeout_s: WatchdogTimeouts | None = WatchdogTimeouts()

    @property
    def longest_s(self) -> float:
        """The longest of the times; 0 when there are none."""
        return max(self.timeout_s.model_dump().values()) if self.timeout_s else 0.0


class EvaluationConfig(Section):
    """Loss on fixed rows of the validation split; `rows` of them, or all with null.

    With `samples`, the model also continues so many prompts of that split by `sample_tokens` tokens each: one forward
    pass for each token, in which at ZeRO 3 all weights are gathered.
    """

    every_steps: PositiveInt | None = None
    rows: PositiveInt | None = 256
    samples: NonNegativeInt = 0
    sample_tokens: PositiveInt = 64

    @model_validator(mode="after")
    def _samples_have_a_time(self) -> "EvaluationConfig":
        if self.samples and self.every_steps is None:
            raise ValueError("samples are drawn at evaluations: set every_steps")
        return self


class InitFrom(Section):
    """What a new run begins with in place of drawn weights; in YAML the path alone is short for `path` and resets.

    `path` is a run (its newest complete checkpoint), a checkpoint, or a weights directory. Weights are always taken;
    `optimizer: keep` takes Adam's moments and step count too, and `position: keep` the place in the schedule and in the
    order of the data. See `pipeline.init_from`.
    """

    path: Path
    optimizer: Literal["reset", "keep"] = "reset"
    position: Literal["reset", "keep"] = "reset"

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str | Path) else value


class WandbConfig(Section):
    """Weights & Biases. `auto` is online where a key is set and offline elsewhere."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "foreword"
    name: str | None = None


class LoggingConfig(Section):
    """How often a metrics record is written, and where to besides metrics.jsonl."""

    every_steps: PositiveInt = 10
    wandb: WandbConfig = WandbConfig()


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
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
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


def _exactly_one(section: Section, first: str, second: str) -> None:
    if (getattr(section, first) is None) == (getattr(section, second) is None):
        raise ValueError(f"set either {first} or {second}")
