"""A run's directory: the resolved configuration, the tokenizer, and the checkpoint to continue from.

run/.lease/           who trains here, see `lease`
run/config.yaml       the resolved configuration of the latest start
run/tokenizer/        the corpora's tokenizer, so that the run can be evaluated and can generate without them
run/metrics.jsonl     see `telemetry`
run/checkpoints/      see `checkpoint`
run/set_aside/        what a start with --from or --fresh went back behind, see `set_aside`
run/start.json        which start asked for that, see `start`
"""

import os
import shutil
from pathlib import Path

from foreword.config import dump_config
from foreword.console import say, warn
from foreword.errors import ConfigError
from foreword.files import atomic_write
from pipeline.checkpoint.choose import choose_checkpoint
from pipeline.checkpoint.meta import BlendPart, CorpusIdentity, read_meta
from pipeline.checkpoint.restore import changed_settings, refuse_other_run
from pipeline.checkpoint.workspace import remove_leftovers
from pipeline.config import TrainConfig
from pipeline.data.corpora import Corpora
from pipeline.distributed.agreement import main_rank
from pipeline.set_aside import set_aside_later, set_aside_run
from pipeline.start import Start


def identify(corpora: Corpora) -> CorpusIdentity:
    """What a checkpoint remembers of its data."""
    parts = tuple(
        BlendPart(
            name=name,
            path=str(corpus.path),
            manifest_sha256=corpus.manifest_sha256,
            weight=corpora.weights[name],
        )
        for name, corpus in corpora.by_name.items()
    )
    tokenizer = corpora.tokenizer
    return CorpusIdentity(
        parts=parts,
        tokenizer_sha256=tokenizer.sha256,
        vocab_size=tokenizer.vocab_size,
        sequence_length=corpora.sequence_length,
    )


def prepare_run_directory(config: TrainConfig, corpora: Corpora, start: Start, number: int) -> Path | None:
    """Find the checkpoint to continue from (None: a new run), then lay out the directory. Every rank must call this.

    Args:
        config: the resolved configuration.
        corpora: the data.
        start: what was asked for.
        number: the fencing number of this start. What earlier ones have not published by now, they never will.

    Raises:
        CheckpointError: the run was started with other data or another model, or none of its checkpoints is whole.
        ConfigError: the directory cannot be written, or there is a checkpoint and `start` refuses to resume.
    """
    main_rank(lambda: _remove_leftovers(config.run_dir, number))
    start = main_rank(lambda: start.as_first_or_again(config.run_dir, os.environ))
    checkpoint = None if start.fresh else choose_checkpoint(config.run_dir, start)
    main_rank(lambda: _lay_out(config, corpora, start, checkpoint))
    return checkpoint


def _lay_out(config: TrainConfig, corpora: Corpora, start: Start, checkpoint: Path | None) -> None:
    if checkpoint is not None:
        meta = read_meta(checkpoint)
        refuse_other_run(checkpoint, meta, config, identify(corpora))
        for change in changed_settings(meta, config):
            warn(f"changed since the checkpoint: {change}")
    try:
        aside = None
        if start.fresh:
            aside = set_aside_run(config.run_dir)
        elif start.from_step is not None:
            aside = set_aside_later(config.run_dir, start.from_step)
        if aside is not None:
            say(f"set aside, and yours to remove: {aside}")
        with atomic_write(config.run_dir / "config.yaml", "w") as file:
            file.write(dump_config(config))
        shutil.copytree(corpora.first.path / "tokenizer", config.run_dir / "tokenizer", dirs_exist_ok=True)
        start.record(config.run_dir, os.environ)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=config.run_dir) from None


def _remove_leftovers(run_dir: Path, number: int) -> None:
    try:
        for path in remove_leftovers(run_dir, number):
            say(f"removed what an interrupted save left behind: {path}")
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=run_dir) from None
