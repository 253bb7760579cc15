"""`foreword prep`: the stages in order, over many processes, continued where a killed run stopped.

    plan       input files -> slices                     (plan.json)
    tokenize   slice -> ids and content hashes           (slices/)
    dedup      hashes of all slices -> what to leave out
    pack       window of documents -> shard              (SPLIT/, shards/)
    finish     verify, report, manifest; the work directory is removed

Everything but the shards and the tokenizer lies in OUTPUT/.work until the manifest is written. Over a cluster, tasks do
the first two stages, each its share of the slices, and a finishing run does the rest.

Here it is decided what there is to do and who may do it; `stages` does it, and is imported only then: a corpus that is
finished is told at once.
"""

from dataclasses import dataclass
from pathlib import Path

from data_prep.config import PrepConfig
from data_prep.machine import machine_errors
from data_prep.manifest import Manifest
from data_prep.plan import finished_corpus, read_plan, refuse_changes
from data_prep.stopping import stop_on_signals
from data_prep.work import WORK_DIRECTORY, task_work, whole_work
from foreword.console import say
from foreword.errors import ConfigError


@dataclass(frozen=True)
class TaskDone:
    """What a task has to its name: its slices, and their share of the input in bytes."""

    slices: int
    size_bytes: int


def prepare(config: PrepConfig) -> Manifest:
    """Prepare a corpus, or continue one, or find that it is there already.

    Raises:
        ConfigError: the configuration cannot be used, or the output belongs to another one.
        DataError: input that is refused.
        MachineError: the disk is full or cannot be written, or a worker was killed.
        StoppedOnRequest: SIGINT or SIGTERM; the same command continues.
    """
    return _whole(config, only_finish=False)


def prepare_task(config: PrepConfig, task: int, tasks: int) -> TaskDone:
    """Do one task's share of the first stage; what is there already is not done again. Other tasks may run beside.

    Args:
        task: in [0, tasks).
        tasks: into how many shares the slices are divided; it does not show in the corpus.

    Raises: as `prepare` does.
    """
    output = Path(config.output)
    with machine_errors(output), stop_on_signals():
        if _finished(config, output):
            say(f"{output} is finished already, nothing to do")
            return TaskDone(0, 0)
        from data_prep.stages import run_task

        with task_work(output, task, tasks) as work:
            sizes_bytes = run_task(config, output, work, task, tasks)
        return TaskDone(len(sizes_bytes), sum(sizes_bytes))


def finish(config: PrepConfig) -> Manifest:
    """Make the corpus of slices that tasks have done.

    Raises: as `prepare` does, and
        ConfigError: no task has run.
        DataError: some tasks are not done; they are named.
    """
    return _whole(config, only_finish=True)


def _whole(config: PrepConfig, only_finish: bool) -> Manifest:
    output = Path(config.output)
    with machine_errors(output), stop_on_signals():
        finished = _finished(config, output)
        if finished is None and only_finish and read_plan(output / WORK_DIRECTORY) is None:
            raise ConfigError("no task has run on this output", where=output, remedy="run `foreword prep` with --task")
        if finished is None or (output / WORK_DIRECTORY).is_dir():
            from data_prep.stages import run_whole

            with whole_work(output) as work:  # a run killed at its very end leaves its work directory to be removed
                return _finished(config, output) or run_whole(config, output, work, only_finish)
        say(f"{output} is finished already, nothing to do")
        return finished


def _finished(config: PrepConfig, output: Path) -> Manifest | None:
    finished = finished_corpus(output)
    if finished is not None:
        refuse_changes({"config": finished.config}, {"config": config.result_config()}, output)
    return finished
