"""A training run on a cluster: what would be started, checked before anything is.

What comes in: the run's TrainConfig and the ClusterConfig. What goes out: a TrainPlan. Promise: a plan that was made
can be started as far as the machine that submits can see; what cannot work is a ConfigError or DataError here and not
an hour later in the queue.
"""

from dataclasses import dataclass
from pathlib import Path

from foreword.errors import ConfigError
from pipeline.config import TrainConfig
from pipeline.data.corpora import open_corpora
from pipeline.data.share import Share
from pipeline.schedule import Schedule
from slurm.config import ClusterConfig, require_single_line


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


def plan_training(train: TrainConfig, cluster: ClusterConfig) -> TrainPlan:
    """Check that `train` fits on `cluster` and that its files are there.

    Raises:
        ConfigError: sizes that do not divide each other, a tensor-parallel group that would span nodes, a path that is
            not there or that a `#SBATCH` line cannot hold, a corpus that the run cannot use (see `open_corpora`).
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
    corpora = open_corpora(train)
    sequence_length = corpora.sequence_length
    schedule = Schedule(train.schedule, train.optimizer.lr, train.batch, sequence_length)
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
        global_batch_tokens=schedule.global_batch_size * sequence_length,
        total_tokens=schedule.total_samples() * sequence_length,
        corpora=tuple(corpus.path.absolute() for corpus in corpora.by_name.values()),
        run_dir=_printable(train.run_dir.absolute()),
    )


def _printable(run_dir: Path) -> Path:
    try:
        require_single_line(str(run_dir))
    except ValueError as error:
        raise ConfigError(str(error), where=f"run_dir: {str(run_dir)!r}", remedy="choose another name") from None
    if "\\" in str(run_dir):
        raise ConfigError(
            "must not hold a backslash: sbatch then leaves the job's number out of the log's name",
            where=f"run_dir: {run_dir}",
            remedy="choose another name",
        )
    return run_dir
