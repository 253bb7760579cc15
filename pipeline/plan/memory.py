"""What training needs of one GPU's memory, by part, from arithmetic alone: no model, no processes, no torch.

State (weights, gradients, optimizer) follows from where DeepSpeed 0.19 keeps it at each ZeRO stage, and activations
from what the model's operations save for the backward pass; the tests hold both to live engines and to autograd. What
is not in it: the CUDA context and NCCL's buffers (about 1 GiB), and what the allocator loses in gaps.

To add something (another optimizer, another cut): each part is one function below, and `memory_of` puts them together.
In the comments T is the tokens of a micro-batch, D the hidden size.
"""

from dataclasses import dataclass

from pipeline.config.model import ModelConfig
from pipeline.config.parallel import ParallelConfig
from pipeline.plan.sizes import ParameterSize, parameter_sizes
from pipeline.vocabulary import padded_vocab_size

FP32_BYTES, FP64_BYTES = 4, 8
COMPUTE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
# what DeepSpeed takes where its settings say nothing, in elements
REDUCE_BUCKET = 500_000_000
STAGE_3_MAX_LIVE = 1_000_000_000
POSITIONS_PER_CHUNK = {"cpu": 512, "cuda": 4096}  # of the loss, see pipeline.model.loss
FLEX_BLOCK = 128  # see pipeline.attention.flex

# activation checkpointing -> what of `block_activation_bytes` is kept from the forward to the backward pass
KEPT = {
    "none": {
        "input",
        "input of ln_2",
        "statistics of layer norms",
        "input of qkv",
        "queries, keys, values",
        "copies for attention",
        "input of projection",
        "input of mlp.up",
        "input of gelu",
        "input of mlp.down",
    },
    "selective": {"input", "queries, keys, values", "input of projection", "result of projection", "input of gelu"},
    "full": {"input"},
}


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
        activation_checkpointing: none, selective or full.
        device: cuda or cpu.
        compiled: whether layers and loss are.
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
    activation_checkpointing: str = "none"
    device: str = "cuda"
    compiled: bool = False

    @property
    def compute_bytes(self) -> int:
        """Of an element of weights and activations."""
        return COMPUTE_BYTES[self.precision]

    @property
    def tokens(self) -> int:
        """Inputs of a micro-batch."""
        return self.rows * self.sequence_length

    @property
    def hidden_bytes(self) -> int:
        """The hidden states of all tokens, T D elements."""
        return self.tokens * self.model.hidden_size * self.compute_bytes

    @property
    def own_hidden_bytes(self) -> int:
        """Those that a rank has between the cut matrices: sequence parallelism cuts them too."""
        return self.hidden_bytes // (self.parallel.tensor_parallel_size if self.parallel.sequence_parallel else 1)

    @property
    def cut_hidden_bytes(self) -> int:
        """As much of T D elements as tensor parallelism leaves to a rank where matrices are cut."""
        return self.hidden_bytes // self.parallel.tensor_parallel_size

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
    """What is held when the forward pass of a micro-batch has ended."""
    kept = KEPT[load.activation_checkpointing]
    block = sum(size for name, size in block_activation_bytes(load).items() if name in kept)
    if load.activation_checkpointing == "selective" and not load.compiled:
        block += load.own_hidden_bytes  # the result of mlp.down, which nobody needs
    last_layer_norm = load.own_hidden_bytes + norm_statistics_bytes(load)
    return load.model.num_layers * block + last_layer_norm


def block_activation_bytes(load: RankLoad) -> dict[str, int]:
    """What autograd saves in one transformer block without checkpointing: 16 T D elements, and attention's.

    Each operation saves its input; layer norms also mean and standard deviation. `result of projection` is the one part
    that is held for another reason: with selective checkpointing it takes the place of the second layer norm's input,
    which it is a summand of. See `pipeline.engine.recompute`.
    """
    own, cut = load.own_hidden_bytes, load.cut_hidden_bytes
    return {
        "input": own,
        "input of ln_2": own,
        "statistics of layer norms": 2 * norm_statistics_bytes(load),
        "input of qkv": own,
        "queries, keys, values": 3 * cut + log_sum_bytes(load),
        "copies for attention": attention_copy_bytes(load),
        "input of projection": cut,
        "result of projection": own,
        "input of mlp.up": own,
        "input of gelu": 4 * cut,
        "input of mlp.down": 4 * cut,
    }


def norm_statistics_bytes(load: RankLoad) -> int:
    """Mean and standard deviation of each token, in fp32."""
    return 2 * FP32_BYTES * load.own_hidden_bytes // (load.model.hidden_size * load.compute_bytes)


def log_sum_bytes(load: RankLoad) -> int:
    """What flash attention keeps in place of scores: a number in fp32 for each query and head."""
    return load.tokens * load.model.num_attention_heads * FP32_BYTES // load.parallel.tensor_parallel_size


def attention_copy_bytes(load: RankLoad) -> int:
    """What a backend keeps besides: `sdpa` the mask as numbers, for each layer; `flex` rows padded to whole blocks.

    `varlen` sorts queries into two calls and their results back, and copies keys and values inside of prefixes.
    """
    cut = load.cut_hidden_bytes
    if load.attention == "sdpa":
        return load.rows * load.sequence_length**2 * load.compute_bytes
    if load.attention == "varlen" and load.prefix_tokens:
        return 2 * cut + 2 * cut * load.prefix_tokens // load.tokens
    if load.attention == "flex" and load.sequence_length % FLEX_BLOCK:
        padded = -(-load.sequence_length // FLEX_BLOCK) * FLEX_BLOCK
        return 4 * cut * padded // load.sequence_length
    return 0


def backward_bytes(load: RankLoad) -> int:
    """What one block's backward pass works with: gradients, most of them at the MLP; and what it computes again."""
    gradients = 2 * load.own_hidden_bytes + 8 * load.cut_hidden_bytes
    kept = KEPT[load.activation_checkpointing]
    again = sum(
        size for name, size in block_activation_bytes(load).items() if name in KEPT["none"] and name not in kept
    )
    return gradients + again


def logits_bytes(load: RankLoad) -> int:
    """The logits of one chunk and their gradients: in fp32 one in place of the other, in low precision through fp32.

    Compiled, the loss makes no numbers in between.
    """
    columns = padded_vocab_size(load.vocab_size) // load.parallel.tensor_parallel_size
    positions = min(POSITIONS_PER_CHUNK[load.device], load.targets)
    between = 0 if load.compiled else FP32_BYTES
    each = 2 * load.compute_bytes + between if load.precision != "fp32" or load.compiled else FP32_BYTES
    return positions * columns * each


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


def persistence_threshold(model: ModelConfig) -> int:
    """Elements up to which ZeRO 3 keeps a parameter whole: biases and layer norms, see `pipeline.engine.deepspeed`."""
    return 4 * model.hidden_size


def _persistent_numel(load: RankLoad) -> int:
    """Elements of parameters that ZeRO 3 keeps whole on every rank; one rank alone has them anyway."""
    if load.data_parallel_size == 1:
        return 0
    sizes = [size.numel(load.parallel.tensor_parallel_size) for size in load.parameters]
    return sum(numel for numel in sizes if numel <= persistence_threshold(load.model))
