"""What is looked at before a job goes into the queue, beside the sizes that `plan` divides.

Errors are for what cannot work; warnings are for what rests on an estimate or on a habit of clusters.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from data_prep.verify import verify_corpus
from foreword.errors import ConfigError, DataError
from pipeline.config.train import TrainConfig
from pipeline.plan.sizes import checkpoint_bytes
from slurm.config import ClusterConfig, require_single_line

SAVED_BYTES_PER_S = 10**9  # what one run can expect of a shared file system
PROCESS_BYTES = {"CPU": 10**9, "GPU": 3 * 10**9}  # libraries, buffers, and the driver's share, before there is a model
NODE_LOCAL = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))


def printable_directory(directory: Path, key: str) -> Path:
    """The directory itself, which can stand on an `#SBATCH` line and in a log's name.

    Raises:
        ConfigError: it cannot; `key` is where it was configured.
    """
    try:
        require_single_line(str(directory))
    except ValueError as error:
        raise ConfigError(str(error), where=f"{key}: {str(directory)!r}", remedy="choose another name") from None
    if "\\" in str(directory):
        raise ConfigError(
            "must not hold a backslash: sbatch then leaves the job's number out of the log's name",
            where=f"{key}: {directory}",
            remedy="choose another name",
        )
    return directory


def save_seconds(train: TrainConfig, vocab_size: int) -> float:
    """About how long a checkpoint takes to be written, at `SAVED_BYTES_PER_S`."""
    return checkpoint_bytes(train.model, vocab_size) / SAVED_BYTES_PER_S


def refuse_no_time_to_train(train: TrainConfig, cluster: ClusterConfig, vocab_size: int) -> None:
    """Check that between its start and the signal before its end a job can do more than save.

    Raises:
        ConfigError: it cannot.
    """
    save_s = save_seconds(train, vocab_size)
    if cluster.time_limit_s - cluster.signal_before_limit_s <= save_s:
        raise ConfigError(
            f"time_limit {cluster.time_limit} less signal_before_limit_s {cluster.signal_before_limit_s} leaves no more"
            f" than a save takes, about {save_s:.0f} s",
            where="cluster",
            remedy="raise time_limit",
        )


def training_warnings(train: TrainConfig, cluster: ClusterConfig, vocab_size: int) -> list[str]:
    """What the estimates say about the notice before the time limit, and about the memory of a node."""
    found = []
    save_s = save_seconds(train, vocab_size)
    if cluster.signal_before_limit_s < save_s:
        found.append(
            f"signal_before_limit_s {cluster.signal_before_limit_s} is shorter than a save, about {save_s:.0f} s"
            f" at {SAVED_BYTES_PER_S // 10**9} GB/s: a job may be killed in the middle of one"
        )
    needed_gb = node_memory_bytes(train, cluster, vocab_size) / 1e9
    if cluster.memory_per_node_gb is not None and cluster.memory_per_node_gb < needed_gb:
        found.append(
            f"memory_per_node_gb {cluster.memory_per_node_gb} is little for {cluster.processes_per_node} processes:"
            f" about {needed_gb:.0f} GB will be needed"
        )
    return found


def node_memory_bytes(train: TrainConfig, cluster: ClusterConfig, vocab_size: int) -> int:
    """About how much main memory the processes of a node take, without the pages of the corpus."""
    on_gpu = cluster.gpus_per_node > 0
    state = checkpoint_bytes(train.model, vocab_size) // cluster.nodes
    kept = 0 if on_gpu and not train.parallel.offload_optimizer else state
    image = state if train.checkpoint.asynchronous else 0  # the copy that is written while training goes on
    return cluster.processes_per_node * PROCESS_BYTES["GPU" if on_gpu else "CPU"] + kept + image


def refuse_damaged(corpora: Iterable[Path]) -> None:
    """Compare every hash of the corpora.

    Raises:
        DataError: some are not whole; every problem is named.
    """
    for path in corpora:
        problems = verify_corpus(path, workers=len(os.sched_getaffinity(0)))
        if problems:
            raise DataError("the corpus is not whole:\n     " + "\n     ".join(problems), where=path)


def path_warnings(cluster: ClusterConfig, needed: Iterable[Path]) -> list[str]:
    """What the nodes may not see, as far as it can be told from here.

    Args:
        cluster: whose image and command are looked for.
        needed: what else a job reads or writes.
    """
    found = []
    image = cluster.container.image if cluster.container else ""
    if image.startswith(("/", "./", "../")) and not Path(image).exists():
        found.append(f"there is no image {image} on this machine")
    program = Path(cluster.command[0] if cluster.command else sys.executable)
    if cluster.container is None and program.is_absolute() and not program.exists():
        found.append(f"there is no program {program} on this machine")
    paths = {*needed, *([] if cluster.container else [program])}
    local = sorted(path for path in paths if any(path.is_relative_to(directory) for directory in NODE_LOCAL))
    outermost = [
        str(path) for path in local if not any(path != outer and path.is_relative_to(outer) for outer in local)
    ]
    if outermost:
        what = "on most clusters each node has such a directory for itself, and the others do not see it"
        found.append(f"{what}: {', '.join(outermost)}")
    return found
