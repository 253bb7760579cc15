"""Configurations -> a training job that is ready to be submitted; nothing is written."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from foreword.config import dump_config, load_config
from pipeline.config.train import TrainConfig
from pipeline.run.start import Start
from slurm.checks import path_warnings, refuse_damaged
from slurm.config import ClusterConfig, load_cluster
from slurm.container import launch
from slurm.events import JOBS_DIRECTORY
from slurm.plan import ComingCorpus, TrainPlan, plan_training
from slurm.script import render_training
from slurm.submit import CLUSTER_PREFIX, Prepared, Submission, split_overrides


def prepare_training(
    config_path: Path,
    cluster_path: Path,
    overrides: Sequence[str],
    working_directory: Path,
    start: Start = Start(),  # noqa: B008 - frozen
    verify_corpora: bool = False,
) -> Prepared:
    """Load, check and render.

    Args:
        config_path: a training configuration.
        cluster_path: a cluster configuration.
        overrides: `key=value` for the training configuration, `cluster.key=value` for the cluster's.
        working_directory: where the job will start; relative paths are read from there.
        start: what the job's first start does with the checkpoints that are there.
        verify_corpora: compare every hash of the corpora, and not only their files' sizes.

    Raises:
        ConfigError: a configuration that is not valid, or that does not fit the cluster.
        DataError: the corpus is not there or not whole.
    """
    sorted_overrides = split_overrides(overrides, CLUSTER_PREFIX)
    cluster = load_cluster(cluster_path, sorted_overrides[CLUSTER_PREFIX])
    train = load_config(config_path, sorted_overrides[""], TrainConfig)
    plan, job = training_job(train, cluster, working_directory, start)
    if verify_corpora:
        refuse_damaged(plan.corpora)
    warnings = path_warnings(cluster, [plan.run_dir, *plan.corpora])
    return Prepared((plan,), (job,), (*plan.warnings, *warnings))


def training_job(
    train: TrainConfig,
    cluster: ClusterConfig,
    working_directory: Path,
    start: Start = Start(),  # noqa: B008 - frozen
    coming: ComingCorpus | None = None,
) -> tuple[TrainPlan, Submission]:
    """Check and render.

    Args:
        train, cluster: the configurations.
        working_directory, start: see `prepare_training`.
        coming: a corpus that other jobs will have made.

    Raises: as `prepare_training` does.
    """
    plan = plan_training(train, cluster, coming)
    resolved = dump_config(train)
    digest = hashlib.sha256("".join([resolved, *start.arguments()]).encode()).hexdigest()[:12]
    directory = plan.run_dir / JOBS_DIRECTORY
    resolved_path = directory / f"train-{digest}.yaml"
    needed = [plan.run_dir, *plan.corpora, *([train.init_from.path.absolute()] if train.init_from else [])]
    script = render_training(
        plan,
        cluster,
        launch(cluster, working_directory, needed, OMP_NUM_THREADS=str(cluster.cpus_per_task)),
        arguments=["train", *start.arguments(), str(resolved_path)],
        name=f"foreword-{plan.run_dir.name}",
        working_directory=working_directory,
    )
    job = Submission(
        kind="train",
        directory=plan.run_dir,
        script=script,
        script_path=directory / f"train-{digest}.sbatch",
        resolved_config=resolved,
        resolved_config_path=resolved_path,
    )
    return plan, job
