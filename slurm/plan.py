"""A training run on a cluster: what would be started, checked before anything is.

What comes in: the run's TrainConfig and the ClusterConfig. What goes out: a TrainPlan. Promise: a plan that was made
can be started as far as the machine that submits can see; what cannot work is a ConfigError or DataError here and not
an hour later in the queue. A corpus that jobs in the queue before will have made is taken at its configuration's word.
"""

from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal

from data_prep.config import PrepConfig
from data_prep.shards import Corpus
from foreword.errors import ConfigError
from pipeline.config import TrainConfig
from pipeline.data.corpora import open_corpora, refuse_unsuitable, splits_read
from pipeline.data.share import Share
from pipeline.schedule import Schedule
from slurm.checks import (
    SAVED_BYTES_PER_S,
    checkpoint_bytes,
    node_memory_bytes,
    printable_directory,
    refuse_no_time_to_train,
    training_warnings,
)
from slurm.config import ClusterConfig


@dataclass(frozen=True)
class TrainPlan:
    """Sizes of a training job; batches are in rows (sequences)."""

    nodes: int
    processes_per_node: int
    gpus_per_node: int
    tensor_parallel_size: int
    data_parallel_size: int
    zero_stage: int
    global_batch_size: int
    micro_batch_size: int
    gradient_accumulation_steps: int
    total_steps: int
    global_batch_tokens: int
    """Tokens that one optimizer step reads: global_batch_size x the corpus's sequence_length."""
    total_tokens: int
    corpora: tuple[Path, ...]
    run_dir: Path
    checkpoint_bytes: int
    node_memory_bytes: int
    """About how much main memory the processes of a node take."""
    warnings: tuple[str, ...] = ()

    @property
    def world_size(self) -> int:
        """Processes of the whole job."""
        return self.nodes * self.processes_per_node

    def describe(self) -> str:
        """The plan for a person, one line a topic."""
        kind = "GPU" if self.gpus_per_node else "CPU"
        return "\n".join(
            (
                f"processes  {self.world_size} = {self.nodes} node(s) x {self.processes_per_node} {kind} process(es)",
                f"parallel   tensor {self.tensor_parallel_size} x data {self.data_parallel_size},"
                f" ZeRO {self.zero_stage}",
                f"batch      {self.global_batch_size} rows = {self.micro_batch_size} a forward pass"
                f" x {self.data_parallel_size} data-parallel x {self.gradient_accumulation_steps} accumulated;"
                f" {self.global_batch_tokens:,} tokens",
                f"steps      {self.total_steps:,}, {self.total_tokens:,} tokens in all",
                *(f"corpus     {corpus}" for corpus in self.corpora),
                f"run        {self.run_dir}",
            )
        )

    def estimate(self) -> str:
        """What the run will need, about, one line a topic."""
        save_s = self.checkpoint_bytes / SAVED_BYTES_PER_S
        return "\n".join(
            (
                f"checkpoint about {decimal(self.checkpoint_bytes)}, {save_s:,.0f} s at {decimal(SAVED_BYTES_PER_S)}/s",
                f"memory     about {decimal(self.node_memory_bytes)} of main memory a node",
            )
        )


@dataclass(frozen=True)
class ComingCorpus:
    """A corpus that other jobs will have made when training starts.

    Attributes:
        path: absolute.
        sequence_length: tokens of a row.
        vocab_size: of its tokenizer.
        splits: those that it will have.
    """

    path: Path
    sequence_length: int
    vocab_size: int
    splits: frozenset[str]

    @classmethod
    def of(cls, prep: PrepConfig, vocab_size: int) -> "ComingCorpus":
        """What a preparation will make."""
        held_out = {name for name, share in prep.splits.model_dump().items() if share}
        return cls(Path(prep.output).absolute(), prep.sequence_length, vocab_size, frozenset({"train", *held_out}))


@dataclass(frozen=True)
class _Data:
    """What the plan needs to know of the data."""

    paths: tuple[Path, ...]
    sequence_length: int
    vocab_size: int


def plan_training(train: TrainConfig, cluster: ClusterConfig, coming: ComingCorpus | None = None) -> TrainPlan:
    """Check that `train` fits on `cluster` and that its files are there.

    Args:
        train: the run.
        cluster: where it is to run.
        coming: the one of its corpora that is not there yet.

    Raises:
        ConfigError: sizes that do not divide each other, a tensor-parallel group that would span nodes, a path that is
            not there or that a `#SBATCH` line cannot hold, a corpus that the run cannot use (see `open_corpora`), a
            time limit that leaves no time for training.
        DataError: the corpus is not there, or a file of it is missing or has another size than it should.
    """
    tensor_parallel_size = train.parallel.tensor_parallel_size
    if cluster.processes_per_node % tensor_parallel_size:
        raise ConfigError(
            f"a node runs {cluster.processes_per_node} processes: groups of {tensor_parallel_size} would span nodes",
            where="parallel.tensor_parallel_size",
            remedy="choose a tensor_parallel_size that divides the processes of one node",
        )
    data_parallel_size = cluster.world_size // tensor_parallel_size
    if train.init_from is not None and not train.init_from.path.exists():
        raise ConfigError("no such checkpoint", where=f"init_from: {train.init_from.path}", remedy="check the path")
    data = _with_coming(train, coming) if coming else _at_hand(train)
    refuse_no_time_to_train(train, cluster, data.vocab_size)
    schedule = Schedule(train.schedule, train.optimizer.lr, train.batch, data.sequence_length)
    share = Share(0, data_parallel_size, schedule.all_batch_sizes, train.batch.micro_batch_size)
    return TrainPlan(
        nodes=cluster.nodes,
        processes_per_node=cluster.processes_per_node,
        gpus_per_node=cluster.gpus_per_node,
        tensor_parallel_size=tensor_parallel_size,
        data_parallel_size=data_parallel_size,
        zero_stage=train.parallel.zero_stage,
        global_batch_size=schedule.global_batch_size,
        micro_batch_size=train.batch.micro_batch_size,
        gradient_accumulation_steps=share.max_accumulation_steps,
        total_steps=schedule.total_steps(),
        global_batch_tokens=schedule.global_batch_size * data.sequence_length,
        total_tokens=schedule.total_samples() * data.sequence_length,
        corpora=data.paths,
        run_dir=printable_directory(train.run_dir.absolute(), "run_dir"),
        checkpoint_bytes=checkpoint_bytes(train, data.vocab_size),
        node_memory_bytes=node_memory_bytes(train, cluster, data.vocab_size),
        warnings=tuple(training_warnings(train, cluster, data.vocab_size)),
    )


def _at_hand(train: TrainConfig) -> _Data:
    corpora = open_corpora(train)
    paths = tuple(corpus.path.absolute() for corpus in corpora.by_name.values())
    return _Data(paths, corpora.sequence_length, corpora.tokenizer.vocab_size)


def _with_coming(train: TrainConfig, coming: ComingCorpus) -> _Data:
    """What can be told of a corpus that is not there, and of those beside it that are."""
    paths = [source.path.absolute() for source in train.data.sources().values()]
    if coming.path.resolve() not in [path.resolve() for path in paths]:
        raise ConfigError(
            f"training reads {', '.join(map(str, paths))}, and the preparation makes {coming.path}",
            where="data.corpus",
            remedy="set it to the preparation's output",
        )
    for path in paths:
        if path.resolve() == coming.path.resolve():
            continue
        length = Corpus.open(path).manifest.sequence_length
        if length != coming.sequence_length:
            raise ConfigError(
                f"its rows have {length} tokens, and those of {coming.path} will have {coming.sequence_length}",
                where=path,
                remedy="prepare them with the same sequence_length",
            )
    refuse_unsuitable(train, coming.sequence_length, coming.vocab_size)
    for split in splits_read(train):
        if split not in coming.splits:
            raise ConfigError(
                f"the preparation makes no split {split!r}",
                where="data",
                remedy=f"give it a share there, or read one of {', '.join(sorted(coming.splits))}",
            )
    return _Data(tuple(paths), coming.sequence_length, coming.vocab_size)
