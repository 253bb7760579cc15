"""The ranks together -> the checkpoint that a start continues from, its files checked."""

from pathlib import Path

import torch.distributed as dist

from foreword.console import say, warn
from foreword.errors import CheckpointError, ConfigError
from pipeline.checkpoint.find import all_checkpoints, complete_checkpoints, first_problem, step_directory
from pipeline.checkpoint.headers import header_problems
from pipeline.checkpoint.meta import damage, read_meta
from pipeline.distributed.agreement import gather, main_rank
from pipeline.run.start import Start

_NAMED = 20  # steps in a message


def choose_checkpoint(run_dir: Path, start: Start) -> Path | None:
    """The newest complete checkpoint, or the one that `start` asks for; None for a new run. Every rank must call this.

    Sizes and the files' headers are always compared with foreword.json; with `start.verify` all files are hashed. Each
    is looked at by one rank. Broken checkpoints are named in warnings and passed over.

    Raises:
        CheckpointError: there are checkpoints and none is complete, or the one that was asked for is not.
        ConfigError: there is a checkpoint, and the start was told not to resume.
    """
    candidates = main_rank(lambda: _candidates(run_dir, start))
    for checkpoint in candidates:
        problems = check_together(checkpoint, hashes=start.verify)
        if not problems:
            return checkpoint
        if start.from_step is not None:
            raise CheckpointError(problems[0], remedy=_choice(run_dir, start.from_step), on_all_ranks=True)
        if dist.get_rank() == 0:
            warn(f"checkpoint passed over: {problems[0]}")
    if candidates:
        raise _none_is_whole(run_dir)
    return None


def check_together(checkpoint: Path, *, hashes: bool) -> list[str]:
    """Look at every file of a checkpoint, each on one rank; returns a line for each problem. Every rank must call this.

    Args:
        checkpoint: whose files have the right sizes.
        hashes: whether to hash the files, or only to compare their headers.

    Raises:
        CheckpointError: foreword.json is not what was written; on all ranks.
    """
    return [problem for found in gather(lambda: _problems_of_own_files(checkpoint, hashes)) for problem in found]


def _problems_of_own_files(checkpoint: Path, hashes: bool) -> list[str]:
    meta, rank, world_size = read_meta(checkpoint), dist.get_rank(), dist.get_world_size()
    if rank == 0 and hashes:
        size_bytes = sum(entry.size for entry in meta.files.values())
        say(f"verifying {checkpoint}: {len(meta.files)} files, {size_bytes:,} bytes")
    largest_first = sorted(meta.files, key=lambda name: (-meta.files[name].size, name))
    own = meta.model_copy(update={"files": {name: meta.files[name] for name in largest_first[rank::world_size]}})
    return damage(checkpoint, own, hashes=True) if hashes else header_problems(checkpoint, own)


def _candidates(run_dir: Path, start: Start) -> list[Path]:
    """What may be continued from as far as file sizes tell, best first."""
    present = all_checkpoints(run_dir)
    if start.no_resume and present:
        raise ConfigError(
            f"there are checkpoints up to step {present[-1][0]}, and --no-resume was given",
            where=run_dir,
            remedy="use another run_dir, or --fresh, which sets them aside",
        )
    if start.from_step is not None:
        checkpoint = step_directory(run_dir, start.from_step)
        if problem := first_problem(checkpoint):
            raise CheckpointError(problem, remedy=_choice(run_dir, start.from_step))
        return [checkpoint]
    complete = complete_checkpoints(run_dir, warn)
    if present and not complete:
        raise _none_is_whole(run_dir)
    return [checkpoint for _, checkpoint in reversed(complete)]


def _none_is_whole(run_dir: Path) -> CheckpointError:
    return CheckpointError(
        "the run has checkpoints, and none is whole",
        where=run_dir,
        remedy="bring one back from a copy; or begin at step 0 with --fresh, which sets them aside",
        on_all_ranks=True,
    )


def _choice(run_dir: Path, refused: int) -> str:
    steps = [str(step) for step, _ in complete_checkpoints(run_dir) if step != refused]
    more = "..., " if len(steps) > _NAMED else ""
    return f"steps with a complete checkpoint: {more}{', '.join(steps[-_NAMED:])}" if steps else "there is no other"
