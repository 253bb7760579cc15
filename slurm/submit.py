"""Configs -> a job in the queue.

What comes in: the paths of a training and a cluster configuration with overrides. What goes out: a rendered script, and
with `submit` a job number. Promise: a job trains with the configuration as it was at submission, however often it comes
back from the queue: the resolved configuration is written into the run directory under its own hash, and the script
names that file. Nothing is written before every check has passed.
"""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from foreword.config import dump_config, load_config
from foreword.errors import ConfigError, MachineError
from foreword.files import atomic_write
from pipeline.config import TrainConfig
from pipeline.start import Start
from slurm.config import ClusterConfig
from slurm.plan import TrainPlan, plan_training
from slurm.script import render_training

CLUSTER_PREFIX = "cluster."


@dataclass(frozen=True)
class Submission:
    """A job that is ready to be submitted."""

    plan: TrainPlan
    script: str
    script_path: Path
    resolved_config: str
    resolved_config_path: Path


def prepare_training(
    config_path: Path,
    cluster_path: Path,
    overrides: Sequence[str],
    working_directory: Path,
    start: Start = Start(),  # noqa: B008 - frozen
) -> Submission:
    """Load, check and render; nothing is written.

    Args:
        config_path: a training configuration.
        cluster_path: a cluster configuration.
        overrides: `key=value` for the training configuration, `cluster.key=value` for the cluster's.
        working_directory: where the job will start; relative paths are read from there.
        start: what the job's first start does with the checkpoints that are there.

    Raises:
        ConfigError: a configuration that is not valid, or that does not fit the cluster.
        DataError: the corpus is not there or not whole.
    """
    cluster_overrides = [text.removeprefix(CLUSTER_PREFIX) for text in overrides if text.startswith(CLUSTER_PREFIX)]
    train_overrides = [text for text in overrides if not text.startswith(CLUSTER_PREFIX)]
    cluster = load_config(cluster_path, cluster_overrides, ClusterConfig)
    train = load_config(config_path, train_overrides, TrainConfig)
    plan = plan_training(train, cluster)

    resolved = dump_config(train)
    digest = hashlib.sha256("".join([resolved, *start.arguments()]).encode()).hexdigest()[:12]
    directory = plan.run_dir / "slurm"
    resolved_path = directory / f"train-{digest}.yaml"
    launcher = cluster.command or [sys.executable, "-m", "foreword"]
    try:
        script = render_training(
            plan,
            cluster,
            command=[*launcher, "train", *start.arguments(), str(resolved_path)],
            name=f"foreword-{plan.run_dir.name}",
            working_directory=working_directory,
        )
    except ValueError as error:
        raise ConfigError(str(error), where=working_directory) from None
    return Submission(
        plan=plan,
        script=script,
        script_path=directory / f"train-{digest}.sbatch",
        resolved_config=resolved,
        resolved_config_path=resolved_path,
    )


def submit(submission: Submission) -> str:
    """Write the resolved configuration and the script into the run directory and hand the script to sbatch.

    Returns:
        The job's number.

    Raises:
        MachineError: there is no sbatch on this machine.
        ConfigError: the run directory cannot be written, or sbatch refused the job; its own words are in the message.
    """
    if shutil.which("sbatch") is None:
        raise MachineError(
            "there is no sbatch on this machine", remedy="submit from a login node of the cluster, or use --dry-run"
        )
    try:
        submission.script_path.parent.mkdir(parents=True, exist_ok=True)
        for path, text in (
            (submission.resolved_config_path, submission.resolved_config),
            (submission.script_path, submission.script),
        ):
            with atomic_write(path, "w") as file:
                file.write(text)
    except OSError as error:
        where = submission.script_path.parent
        raise ConfigError(f"cannot be written: {error.strerror}", where=where, remedy="mend run_dir") from None
    answer = subprocess.run(
        ["sbatch", "--parsable", str(submission.script_path)], capture_output=True, text=True, check=False
    )
    if answer.returncode:
        raise ConfigError(
            f"sbatch refused the job: {answer.stderr.strip()}",
            where=submission.script_path,
            remedy="mend the cluster configuration",
        )
    return answer.stdout.strip().partition(";")[0]  # with several clusters sbatch answers "number;cluster"
