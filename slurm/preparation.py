"""Configurations -> the jobs of a preparation, and the chain from raw text to a trained model; nothing is written."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from data_prep.config import PrepConfig
from data_prep.tokenizers import load_tokenizer
from foreword.config import dump_config, load_config
from foreword.errors import ConfigError
from pipeline.config.train import TrainConfig
from pipeline.run.start import Start
from slurm.checks import path_warnings
from slurm.config import ClusterConfig, load_cluster
from slurm.container import launch
from slurm.events import JOBS_DIRECTORY
from slurm.plan import ComingCorpus
from slurm.prep_plan import PrepPlan, PrepStage, plan_preparation
from slurm.script import render_preparation
from slurm.submit import CLUSTER_PREFIX, Prepared, Submission, split_overrides
from slurm.training import training_job

PREP_PREFIX, TRAIN_PREFIX = "prep.", "train."


def prepare_preparation(
    config_path: Path, cluster_path: Path, overrides: Sequence[str], tasks: int, working_directory: Path
) -> Prepared:
    """Load, check and render the jobs that make a corpus; none when it is finished.

    Args:
        config_path: a preparation's configuration.
        cluster_path: a cluster configuration.
        overrides: `key=value` for the preparation's configuration, `cluster.key=value` for the cluster's.
        tasks: into how many tasks the input is divided.
        working_directory: where the jobs will start; relative paths are read from there.

    Raises:
        ConfigError: a configuration that is not valid; sources or a tokenizer that are not there.
        DataError: an input file is not what it was when the preparation began.
    """
    sorted_overrides = split_overrides(overrides, CLUSTER_PREFIX)
    cluster = load_cluster(cluster_path, sorted_overrides[CLUSTER_PREFIX])
    plan = _plan(config_path, sorted_overrides[""], cluster, tasks)
    if plan.trains_tokenizer:
        raise ConfigError(
            "no such tokenizer",
            where=f"tokenizer.path: {plan.config.tokenizer.path}",
            remedy="make it with `foreword tokenizer train`, or let `foreword submit all` do so in a job",
        )
    jobs = tuple(_jobs(plan, working_directory))
    return Prepared((plan,), jobs, tuple(path_warnings(plan.cluster, plan.needed_directories())) if jobs else ())


def prepare_all(
    prep_path: Path,
    train_path: Path,
    cluster_path: Path,
    overrides: Sequence[str],
    tasks: int,
    working_directory: Path,
    start: Start = Start(),  # noqa: B008 - frozen
) -> Prepared:
    """Load, check and render tokenizer, tasks, finish and training, those that are still to do.

    Args:
        prep_path, train_path, cluster_path: the configurations.
        overrides: `prep.key=value`, `train.key=value` and `cluster.key=value`.
        tasks: into how many tasks the input is divided.
        working_directory: where the jobs will start; relative paths are read from there.
        start: what the training job's first start does with the checkpoints that are there.

    Raises: as `prepare_preparation` and `prepare_training` do.
    """
    sorted_overrides = split_overrides(overrides, CLUSTER_PREFIX, PREP_PREFIX, TRAIN_PREFIX)
    if sorted_overrides[""]:
        raise ConfigError(
            f"{sorted_overrides[''][0]!r} does not say which configuration it belongs to",
            remedy="write prep.KEY=VALUE, train.KEY=VALUE or cluster.KEY=VALUE",
        )
    cluster = load_cluster(cluster_path, sorted_overrides[CLUSTER_PREFIX])
    train = load_config(train_path, sorted_overrides[TRAIN_PREFIX], TrainConfig)
    plan = _plan(prep_path, sorted_overrides[PREP_PREFIX], cluster, tasks)
    coming = None
    if plan.manifest is None:
        coming = ComingCorpus.of(plan.config, _vocab_size(plan))
    train_plan, train_job = training_job(train, cluster, working_directory, start, coming)
    paths = [*plan.needed_directories(), train_plan.run_dir, *train_plan.corpora]
    return Prepared(
        plans=(plan, train_plan),
        jobs=(*_jobs(plan, working_directory), train_job),
        warnings=(*train_plan.warnings, *path_warnings(cluster, paths)),
    )


def _plan(path: Path, overrides: Sequence[str], cluster: ClusterConfig, tasks: int) -> PrepPlan:
    workers_are_set = any(override.startswith("workers=") for override in overrides)
    return plan_preparation(load_config(path, overrides, PrepConfig), cluster, tasks, workers_are_set)


def _vocab_size(plan: PrepPlan) -> int:
    config = plan.config
    if plan.trains_tokenizer:
        return config.tokenizer_training.vocab_size
    return load_tokenizer(config.tokenizer.path, config.tokenizer.eod, config.tokenizer.pad).vocab_size


def _jobs(plan: PrepPlan, working_directory: Path) -> list[Submission]:
    resolved = dump_config(plan.config)
    digest = hashlib.sha256(resolved.encode()).hexdigest()[:12]
    directory = plan.output / JOBS_DIRECTORY
    resolved_path = directory / f"prep-{digest}.yaml"
    started = launch(plan.cluster, working_directory, plan.needed_directories())
    return [
        Submission(
            kind=stage.kind,
            directory=plan.output,
            script=render_preparation(
                stage,
                plan.cluster,
                started,
                directory=plan.output,
                arguments=_arguments(stage, plan, resolved_path),
                name=f"foreword-{plan.output.name}-{stage.kind}",
                working_directory=working_directory,
            ),
            script_path=directory / f"{stage.kind}-{digest}.sbatch",
            resolved_config=resolved,
            resolved_config_path=resolved_path,
            log_name="JOB_*.log" if stage.tasks else "JOB.log",
            # it says which tasks are missing, where a job that never starts says nothing
            waits="afterany" if stage.kind == "finish" else "afterok",
        )
        for stage in plan.stages
    ]


def _arguments(stage: PrepStage, plan: PrepPlan, resolved_path: Path) -> list[str]:
    if stage.kind == "tokenizer":
        return ["tokenizer", "train", str(resolved_path)]
    if stage.kind == "finish":
        return ["prep", str(resolved_path), "--finish"]
    return ["prep", str(resolved_path), "--tasks", str(plan.tasks)]
