"""The preparation of a corpus on a cluster: what would be started, checked before anything is.

What comes in: a PrepConfig, the cluster, a number of tasks. What goes out: a PrepPlan with the stages that are still to
do: the tokenizer where it has to be trained first, the tasks whose share of the input is not done, and the finishing
job. Promise: nothing is written; what cannot work is an error here and not an hour later in the queue.
"""

import glob
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.filesize import decimal

from data_prep.config import HuggingFaceSource, PrepConfig
from data_prep.manifest import Manifest
from data_prep.plan import Plan, finished_corpus, make_plan, refuse_changes, refuse_other_work
from data_prep.predict import predict, show_prediction
from data_prep.tokenizers import load_tokenizer
from data_prep.work import refuse_foreign_output
from data_prep.work_progress import read_progress
from foreword.errors import ConfigError
from slurm.checks import printable_directory
from slurm.config import ClusterConfig

PrepKind = Literal["tokenizer", "prep", "finish"]
WIDTH = 120


@dataclass(frozen=True)
class PrepStage:
    """One kind of job.

    Attributes:
        kind: what it does: train the tokenizer, do tasks, or finish.
        tasks: the numbers of the elements of its job array; none where it is one job.
    """

    kind: PrepKind
    tasks: tuple[int, ...] = ()


@dataclass(frozen=True)
class PrepPlan:
    """Sizes of a preparation.

    Attributes:
        config: with as many workers as a job has.
        output: the corpus, absolute.
        manifest: of the corpus when it is finished; then there are no stages.
        input: files and slices of all sources; None when the corpus is finished.
        tasks: into how many tasks the input is divided.
        stages: what is to be submitted, in order.
        cluster: what each job asks for.
    """

    config: PrepConfig
    output: Path
    manifest: Manifest | None
    input: Plan | None
    tasks: int
    stages: tuple[PrepStage, ...]
    cluster: ClusterConfig

    @property
    def trains_tokenizer(self) -> bool:
        """Whether the tokenizer has to be trained first."""
        return any(stage.kind == "tokenizer" for stage in self.stages)

    def needed_directories(self) -> list[Path]:
        """Directories that the jobs read or write, as far as they are on this file system."""
        config = self.config
        tokenizer = Path(config.tokenizer.path).absolute()
        paths = [self.output, tokenizer if tokenizer.is_dir() else tokenizer.parent]
        for source in config.sources:
            named = source.dataset if isinstance(source, HuggingFaceSource) else source.path
            for name in [named] if isinstance(named, str) else named:
                paths += _directories_of(name)
        return paths

    def describe(self) -> str:
        """The plan for a person, one line a topic."""
        if self.input is None:
            return f"corpus     {self.output} is finished already, nothing to do"
        size = decimal(sum(file.size_bytes for file in self.input.files))
        to_do = next((stage.tasks for stage in self.stages if stage.kind == "prep"), ())
        idle = sum(not share for share in self.input.shares(self.tasks))
        cluster = self.cluster
        memory = f", {cluster.memory_per_node_gb} GB" if cluster.memory_per_node_gb else ""
        settings, trained = self.config.tokenizer_training, ""
        if self.trains_tokenizer:
            trained = f", to be trained first: {settings.model_type}, {settings.vocab_size:,} pieces"
        return "\n".join(
            (
                f"tokenizer  {Path(self.config.tokenizer.path).absolute()}{trained}",
                f"input      {size} in {len(self.input.files):,} file(s), {len(self.input.slices):,} slice(s)",
                f"tasks      {len(to_do)} of {self.tasks} to do"
                + (f"; {idle} of {self.tasks} have no share, the input has fewer slices" if idle else ""),
                f"each job   {cluster.cpus_per_task} CPU(s) on one node{memory}, {cluster.time_limit},"
                f" {self.config.workers} worker(s)",
                f"corpus     {self.output}",
            )
        )

    def estimate(self) -> str:
        """What `foreword prep --dry-run` says, from a sample of the input; a task's share is one of `tasks`."""
        if self.input is None:
            return ""
        if self.trains_tokenizer:
            return "estimate   none, because the tokenizer is trained first"
        page = Console(file=io.StringIO(), width=WIDTH)
        show_prediction(predict(self.config), self.config, page)
        assert isinstance(page.file, io.StringIO)
        return page.file.getvalue().rstrip()


def plan_preparation(config: PrepConfig, cluster: ClusterConfig, tasks: int, workers_are_set: bool = False) -> PrepPlan:
    """Look at what there is to prepare, and at what has been done of it.

    Args:
        config: the preparation.
        cluster: the whole configuration of the cluster.
        tasks: into how many tasks the input is divided.
        workers_are_set: keep the configuration's number of workers; else it becomes the number of CPUs of a job.

    Raises:
        ConfigError: sources or the tokenizer are not there, or the output belongs to another configuration.
        DataError: an input file is not what it was when the preparation began.
    """
    jobs = cluster.for_preparation()
    if not workers_are_set:
        config = config.model_copy(update={"workers": jobs.cpus_per_task})
    output = printable_directory(Path(config.output).absolute(), "output")
    if output.exists() and not output.is_dir():
        raise ConfigError("the output is not a directory", where=output, remedy="choose another")
    refuse_foreign_output(output)
    manifest = finished_corpus(output)
    if manifest is not None:
        refuse_changes({"config": manifest.config}, {"config": config.result_config()}, output)
        return PrepPlan(config, output, manifest, None, tasks, (), jobs)

    tokenizer = None
    if not _is_to_be_trained(config):
        tokenizer = load_tokenizer(config.tokenizer.path, config.tokenizer.eod, config.tokenizer.pad)
    plan = make_plan(config, tokenizer)
    progress = read_progress(output)
    to_do = list(range(tasks))
    if progress is not None:
        if tokenizer is None:
            raise ConfigError(
                "the tokenizer that this preparation began with is gone",
                where=config.tokenizer.path,
                remedy=f"put it back, or delete {output} and begin again",
            )
        refuse_other_work(progress.plan, plan, output)
        plan, to_do = progress.plan, progress.unfinished_tasks(tasks)
    stages = [PrepStage("tokenizer")] if tokenizer is None else []
    if to_do:
        stages.append(PrepStage("prep", tuple(to_do)))
    return PrepPlan(config, output, None, plan, tasks, (*stages, PrepStage("finish")), jobs)


def _is_to_be_trained(config: PrepConfig) -> bool:
    path = Path(config.tokenizer.path)
    return path.suffix == ".model" and not path.exists()


def _directories_of(name: str) -> list[Path]:
    """The directory that a source's path, glob or URL lies in; none when that is not on this file system."""
    fixed = Path(name)
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    fixed = fixed.absolute()
    if "://" in name or not os.path.lexists(fixed):
        return []
    return [fixed if fixed.is_dir() else fixed.parent]
