"""What training needs of one GPU's memory, by part, from arithmetic alone: no model, no processes, no torch.

State (weights, gradients, optimizer) follows from where DeepSpeed 0.19 keeps it at each ZeRO stage, and activations
from what the model's operations save for the backward pass; the tests hold both to live engines and to autograd. What
is not in it: the CUDA context and NCCL's buffers (about 1 GiB), and what the allocator loses in gaps.

To add something (activation checkpointing, another optimizer): each part is one function below, and `memory_of` puts
them together. In the comments T tokens of a micro-batch, D hidden size, P parameters of this rank, n data-parallel
ranks.
"""

from dataclasses import dataclass

from pipeline.config import ModelConfig, ParallelConfig
from pipeline.sizes import ParameterSize, parameter_sizes
from pipeline.vocabulary import padded_vocab_size

FP32_BYTES, FP64_BYTES = 4, 8
COMPUTE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
# what DeepSpeed takes where its settings say nothing, in elements
REDUCE_BUCKET = 500_000_000
STAGE_3_PERSISTENCE_THRESHOLD = 100_000
STAGE_3_MAX_LIVE = 1_000_000_000
POSITIONS_PER_CHUNK = 512  # of the loss, see pipeline.model.loss
FLEX_BLOCK = 128  # see pipeline.attention.flex


@dataclass(frozen=True)
class RankLoad:
    """What the memory of one process depends on.

    Attributes:
        model: its shape.
        vocab_size: ids in use.
        precision: fp32, bf16 or fp16.
        parallel: how state is cut.
        data_parallel_size: over how many ranks ZeRO cuts it.
        rows, sequence_length: of a micro-batch.
        targets: its scored positions.
        prefix_tokens: its tokens inside of prefixes.
        attention: varlen, flex or sdpa.
    """

    model: ModelConfig
    vocab_size: int
    precision: str
    parallel: ParallelConfig
    data_parallel_size: int
    rows: int
    sequence_length: int
    targets: int
    prefix_tokens: int
    attention: str

    @property
    def compute_bytes(self) -> int:
        """Of an element of weights and activations."""
        return COMPUTE_BYTES[self.precision]

    @property
    def tokens(self) -> int:
        """Inputs of a micro-batch."""
        return self.rows * self.sequence_length

    @property
    def parameters(self) -> list[ParameterSize]:
        """Of the model."""
        return parameter_sizes(self.model, self.vocab_size)

    @property
    def numel(self) -> int:
        """Elements of all parameters that a rank holds before ZeRO cuts them."""
        return sum(size.numel(self.parallel.tensor_parallel_size) for size in self.parameters)

    @property
    def has_reduce_bucket(self) -> bool:
        """Whether ZeRO's own optimizer is at work; bf16 at stages 0 and 1 has another, and fp32 at stage 0 has none."""
        stage, offload = self.parallel.zero_stage, self.parallel.offload_optimizer
        return stage > 1 or (stage == 1 and (self.precision != "bf16" or offload))

    @property
    def share(self) -> float:
        """Of what ZeRO cuts, a rank's part."""
        return 1 / self.data_parallel_size if self.parallel.zero_stage else 1.0


@dataclass(frozen=True)
class Memory:
    """Bytes of one process, by part.

    Attributes:
        weights: that the model computes with.
        gathered_weights: of other ranks (ZeRO 3), while they are used.
        gradients: sums over micro-batches, and where they stay beside them those of the micro-batch at hand.
        optimizer: AdamW's moments, and fp32 masters where the weights are not the masters themselves.
        activations: what the forward pass of a micro-batch leaves for the backward pass.
        logits: of one chunk of positions, with their copies.
        head: gradients of the head's matrix and of the hidden states, which the loss computes.
        backward: gradients of activations inside of one block.
        batch: the micro-batch itself.
        reduce_bucket: where DeepSpeed collects gradients for a collective, as large as its settings say.
        update: copies of gradients while they are summed over ranks, clipped and used; the activations are gone then.
        host: memory of the machine for each process: what is offloaded, and the image that checkpoints are copied to.
    """

    weights: int
    gathered_weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    head: int
    backward: int
    batch: int
    reduce_bucket: int
    update: int
    host: int

    @property
    def peak(self) -> int:
        """The most that is there at once, about: at the loss, in the first block's backward pass, or at the update."""
        state = self.weights + self.gradients + self.optimizer + self.batch
        passes = self.gathered_weights + self.activations + self.head
        return state + max(passes + self.logits, passes + self.backward + self.reduce_bucket, self.update)


def memory_of(load: RankLoad) -> Memory:
    """The memory of one process under a load."""
    return Memory(
        weights=weight_bytes(load),
        gathered_weights=gathered_weight_bytes(load),
        gradients=gradient_bytes(load),
        optimizer=0 if load.parallel.offload_optimizer else optimizer_bytes(load),
        activations=activation_bytes(load),
        logits=logits_bytes(load),
        head=head_bytes(load),
        backward=backward_bytes(load),
        batch=batch_bytes(load),
        reduce_bucket=reduce_bucket_bytes(load),
        update=update_bytes(load),
        host=host_bytes(load),
    )


def weight_bytes(load: RankLoad) -> int:
    """Weights in the precision of computing. ZeRO 3 keeps a part of each, and small ones whole besides."""
    if load.parallel.zero_stage < 3:
        return load.numel * load.compute_bytes
    kept = 0 if load.parallel.offload_parameters else load.numel / load.data_parallel_size
    return round((kept + _persistent_numel(load)) * load.compute_bytes)


def gathered_weight_bytes(load: RankLoad) -> int:
    """ZeRO 3: the others' parts, which stay from the forward to the backward pass while fewer than 10^9 are there."""
    if load.parallel.zero_stage < 3 or load.data_parallel_size == 1:
        return 0
    return min(load.numel - _persistent_numel(load), STAGE_3_MAX_LIVE) * load.compute_bytes


def gradient_bytes(load: RankLoad) -> int:
    """fp32 sums of all parameters, or of a rank's part (ZeRO 2 and 3), which offload moves to the machine's memory.

    Without ZeRO's own optimizer low-precision gradients stay beside their sums until the update.
    """
    if load.parallel.zero_stage > 1:
        return 0 if load.parallel.offload_optimizer else round(load.numel * load.share * FP32_BYTES)
    rounded = load.compute_bytes if load.precision != "fp32" and not load.has_reduce_bucket else 0
    return load.numel * (FP32_BYTES + rounded)


def optimizer_bytes(load: RankLoad) -> int:
    """AdamW's two moments and the master weights, which are the weights themselves for ZeRO 0 in fp32."""
    masters = 0 if load.parallel.zero_stage == 0 and load.precision == "fp32" else 1
    return round(load.numel * load.share * (2 + masters) * FP32_BYTES)


def activation_bytes(load: RankLoad) -> int:
    """What autograd holds when the forward pass of a micro-batch has ended."""
    last_layer_norm = load.tokens * (load.model.hidden_size * load.compute_bytes + 2 * FP32_BYTES)
    return load.model.num_layers * sum(block_activation_bytes(load).values()) + last_layer_norm


def block_activation_bytes(load: RankLoad) -> dict[str, int]:
    """The same for one transformer block, by what it is: 16 T D elements without tensor parallelism, and attention's.

    Each operation saves its input; of layer norms also mean and standard deviation. What stands before the cuts of
    tensor parallelism (4 T D) is whole on every rank.
    """
    hidden = load.tokens * load.model.hidden_size * load.compute_bytes
    of_rank = hidden // load.parallel.tensor_parallel_size
    statistics = 2 * load.tokens * FP32_BYTES
    return {
        "inputs of layer norms": 2 * (hidden + statistics),
        "inputs of qkv and mlp.up": 2 * hidden,
        "attention": attention_activation_bytes(load),
        "input of projection": of_rank,
        "input of gelu": 4 * of_rank,
        "input of mlp.down": 4 * of_rank,
    }


def attention_activation_bytes(load: RankLoad) -> int:
    """Queries, keys, values, and a log-sum for each query and head; and what a backend adds.

    The result is the projection's input and not counted here. `sdpa` keeps a mask as numbers for each layer. `varlen`
    sorts queries into two calls and their results back, and copies keys and values inside of prefixes. `flex` pads rows
    to whole blocks.
    """
    tensor_parallel_size = load.parallel.tensor_parallel_size
    hidden = load.tokens * load.model.hidden_size * load.compute_bytes // tensor_parallel_size
    log_sums = load.tokens * load.model.num_attention_heads * FP32_BYTES // tensor_parallel_size
    saved = 3 * hidden + log_sums
    if load.attention == "sdpa":
        saved += load.rows * load.sequence_length**2 * load.compute_bytes
    elif load.attention == "varlen" and load.prefix_tokens:
        saved += 2 * hidden + 2 * hidden * load.prefix_tokens // load.tokens
    elif load.attention == "flex" and load.sequence_length % FLEX_BLOCK:
        padded = -(-load.sequence_length // FLEX_BLOCK) * FLEX_BLOCK
        saved += 4 * hidden * padded // load.sequence_length
    return saved


def backward_bytes(load: RankLoad) -> int:
    """Gradients that one block's backward pass works with, at the MLP, where they are largest."""
    hidden = load.tokens * load.model.hidden_size * load.compute_bytes
    return 2 * hidden + 8 * hidden // load.parallel.tensor_parallel_size


def logits_bytes(load: RankLoad) -> int:
    """The logits of one chunk in fp32, in place of which their gradients come; in low precision with two copies."""
    columns = padded_vocab_size(load.vocab_size) // load.parallel.tensor_parallel_size
    copies = 0 if load.precision == "fp32" else 2 * load.compute_bytes
    return min(POSITIONS_PER_CHUNK, load.targets) * columns * (FP32_BYTES + copies)


def head_bytes(load: RankLoad) -> int:
    """The gradient of the head's matrix, in low precision with its fp32 sum; scored hidden states and theirs."""
    width, rows = load.model.hidden_size, padded_vocab_size(load.vocab_size) // load.parallel.tensor_parallel_size
    rounded = 0 if load.precision == "fp32" else load.compute_bytes
    return rows * width * (FP32_BYTES + rounded) + 2 * load.targets * width * load.compute_bytes


def batch_bytes(load: RankLoad) -> int:
    """The tensors of `pipeline.data.batch.Batch`: three int64, two int32 and a bool a token, an int64 a target."""
    return load.tokens * (3 * 8 + 2 * 4 + 1) + load.targets * 8


def reduce_bucket_bytes(load: RankLoad) -> int:
    """The bucket of ZeRO's own optimizer, which is taken whole however small the model."""
    if not load.has_reduce_bucket:
        return 0
    return REDUCE_BUCKET * (load.compute_bytes if load.parallel.zero_stage == 2 else FP32_BYTES)


def update_bytes(load: RankLoad) -> int:
    """Copies of gradients after the last backward pass: as they were summed, flattened, squared for their norm."""
    stage, low_precision = load.parallel.zero_stage, load.precision != "fp32"
    several = load.data_parallel_size > 1
    summed = min(load.numel, REDUCE_BUCKET) * FP32_BYTES
    own_part = 0 if load.parallel.offload_optimizer else round(load.numel * load.share * FP32_BYTES)
    if stage == 3:
        return 2 * summed + gathered_weight_bytes(load)
    if load.has_reduce_bucket:
        return load.numel * load.compute_bytes + summed if low_precision else max(summed * several, own_part)
    if low_precision:
        return max(summed * several, 2 * own_part)
    largest = max(size.numel(load.parallel.tensor_parallel_size) for size in load.parameters)
    return max(summed * several, 2 * FP64_BYTES * largest)


def host_bytes(load: RankLoad) -> int:
    """The image of a checkpoint (weights and two moments in fp32), and what is offloaded."""
    part = load.numel / load.data_parallel_size
    image = 3 * FP32_BYTES * part
    offloaded_weights = load.compute_bytes * part if load.parallel.offload_parameters else 0.0
    offloaded_state = 0.0
    if load.parallel.offload_optimizer:
        offloaded_state = optimizer_bytes(load) + part * (FP32_BYTES + load.compute_bytes)  # gradients, new weights
    return round(image + offloaded_weights + offloaded_state)


def _persistent_numel(load: RankLoad) -> int:
    """Elements of parameters that ZeRO 3 keeps whole on every rank; one rank alone has them anyway."""
    if load.data_parallel_size == 1:
        return 0
    sizes = [size.numel(load.parallel.tensor_parallel_size) for size in load.parameters]
    return sum(numel for numel in sizes if numel <= STAGE_3_PERSISTENCE_THRESHOLD)
