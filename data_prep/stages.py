"""A configuration and a held work directory -> a corpus, or one task's share of it: the stages one after the other."""

from pathlib import Path

from data_prep.assemble import assemble, timed
from data_prep.config import PrepConfig
from data_prep.first_stage import collect, refuse_missing, run_first_stage
from data_prep.manifest import TOKENIZER_DIRECTORY, Manifest, TokenizerInfo
from data_prep.plan import Plan, make_plan, settle_plan
from data_prep.tokenizers import load_tokenizer, save_tokenizer
from data_prep.work import Work
from data_prep.workers import Workers
from foreword.files import fsync_directory


def run_whole(config: PrepConfig, output: Path, work: Work, only_finish: bool) -> Manifest:
    """Do all stages; of each what is not there yet.

    Args:
        work: of `output`, held alone.
        only_finish: the first stage has been done by tasks, and is refused where it has not.

    Raises: as `prepare` and `finish` do.
    """
    seconds: dict[str, float] = {}
    with timed(seconds, "total"):
        plan, info = _begin(config, output, work)
        with Workers(config.workers) as workers, timed(seconds, "tokenize"):
            if only_finish:
                refuse_missing(plan, work, workers)
            else:
                every_slice = range(len(plan.slices))
                run_first_stage(config, plan, every_slice, output / TOKENIZER_DIRECTORY, work, workers)
        tokenized = collect(plan, work)
        with Workers(config.workers) as workers:  # fresh processes, without the tokenizer's memory
            manifest, shards = assemble(config, plan, info, tokenized, output, work, workers, seconds)
    from data_prep.report import write_report

    write_report(output, manifest, tokenized.records, shards, seconds)
    fsync_directory(output)
    manifest.save(output)
    return manifest


def run_task(config: PrepConfig, output: Path, work: Work, task: int, tasks: int) -> list[int]:
    """Do one task's share of the first stage; the sizes in bytes of its slices, those that were there included.

    Args:
        work: of `output`, held for this task.
        task, tasks: see `Plan.shares`.

    Raises: as `prepare_task` does.
    """
    with work.one_at_a_time():
        plan = _begin(config, output, work)[0]
    numbers = plan.shares(tasks)[task]
    with Workers(config.workers) as workers:
        run_first_stage(config, plan, numbers, output / TOKENIZER_DIRECTORY, work, workers)
    return [plan.slices[number].size_bytes for number in numbers]


def _begin(config: PrepConfig, output: Path, work: Work) -> tuple[Plan, TokenizerInfo]:
    """Settle the plan and put the tokenizer where workers find it."""
    tokenizer = load_tokenizer(config.tokenizer.path, config.tokenizer.eod, config.tokenizer.pad)
    plan = settle_plan(work.root, make_plan(config, tokenizer))
    return plan, save_tokenizer(tokenizer, output / TOKENIZER_DIRECTORY)
