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
from pipeline.config.train import TrainConfig
from pipeline.data.corpora import open_corpora, refuse_unsuitable, splits_read
from pipeline.plan.census import estimate_census
from pipeline.plan.hardware import Hardware, gpu_named, network_named
from pipeline.plan.prediction import describe_prediction, predict
from pipeline.plan.run_plan import RunData, RunPlan, describe_needs, describe_run, plan_run
from slurm.checks import (
    SAVED_BYTES_PER_S,
    node_memory_bytes,
    printable_directory,
    refuse_no_time_to_train,
    training_warnings,
)
from slurm.config import ClusterConfig


@dataclass(frozen=True)
class TrainPlan:
    """A training job.

    Attributes:
        run: what it does and takes.
        corpora, run_dir: absolute.
        node_memory_bytes: about how much main memory the processes of a node take.
        gpu_type, network: as the cluster's configuration names them; with a network, times are predicted.
    """

    nodes: int
    processes_per_node: int
    gpus_per_node: int
    run: RunPlan
    corpora: tuple[Path, ...]
    run_dir: Path
    node_memory_bytes: int
    warnings: tuple[str, ...] = ()
    gpu_type: str | None = None
    network: str | None = None

    @property
    def world_size(self) -> int:
        """Processes of the whole job."""
        return self.nodes * self.processes_per_node

    def describe(self) -> str:
        """The plan for a person, one line a topic."""
        kind = "GPU" if self.gpus_per_node else "CPU"
        processes = f"{self.world_size} = {self.nodes} node(s) x {self.processes_per_node} {kind} process(es)"
        return f"processes  {processes}\n{describe_run(self.run)}"

    def estimate(self) -> str:
        """What the run will need, about, one line a topic."""
        save_s = self.run.checkpoint_bytes / SAVED_BYTES_PER_S
        return "\n".join(
            (
                describe_needs(self.run),
                f"           about {save_s:,.0f} s for one at {decimal(SAVED_BYTES_PER_S)}/s",
                f"node       about {decimal(self.node_memory_bytes)} of main memory",
                *self._prediction(),
            )
        )

    def _prediction(self) -> list[str]:
        if self.network is None or not self.gpus_per_node:
            return []
        try:
            gpu = gpu_named(self.gpu_type or "")
            hardware = Hardware(gpu, self.gpus_per_node, network_named(self.network))
            return [describe_prediction(predict(self.run, hardware))]
        except ConfigError as error:  # the job can run all the same
            return [f"predicted  nothing: {error.what}"]


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
    run_dir = printable_directory(train.run_dir.absolute(), "run_dir")
    data = _with_coming(train, coming) if coming else RunData.of(open_corpora(train), train)
    refuse_no_time_to_train(train, cluster, data.vocab_size)
    return TrainPlan(
        nodes=cluster.nodes,
        processes_per_node=cluster.processes_per_node,
        gpus_per_node=cluster.gpus_per_node,
        run=plan_run(train, data, cluster.world_size, on_gpus=cluster.gpus_per_node > 0),
        corpora=tuple(data.corpora.values()),
        run_dir=run_dir,
        node_memory_bytes=node_memory_bytes(train, cluster, data.vocab_size),
        warnings=tuple(training_warnings(train, cluster, data.vocab_size)),
        gpu_type=cluster.gpu_type,
        network=cluster.network,
    )


def _with_coming(train: TrainConfig, coming: ComingCorpus) -> RunData:
    """What can be told of a corpus that is not there, and of those beside it that are."""
    corpora = {name: source.path.absolute() for name, source in train.data.sources().items()}
    paths = list(corpora.values())
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
    census = estimate_census(coming.sequence_length, train)
    return RunData(coming.sequence_length, coming.vocab_size, census, corpora, epoch_rows={})
