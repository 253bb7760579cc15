"""A run's directory: the resolved configuration, the tokenizer, and the checkpoint to continue from.

run/.lock             held while a process trains here
run/config.yaml       the resolved configuration of the latest start
run/tokenizer/        the corpus's tokenizer, so that the run can be evaluated and can generate without the corpus
run/metrics.jsonl     see `telemetry`
run/checkpoints/      see `checkpoint`
run/set_aside/        what a start with --from or --fresh went back behind, see `set_aside`
run/start.json        which start asked for that, see `start`
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from data_prep.shards import Corpus
from foreword.config import dump_config
from foreword.console import say, warn
from foreword.errors import ConfigError
from foreword.files import atomic_write, locked
from pipeline.checkpoint.choose import choose_checkpoint
from pipeline.checkpoint.meta import CorpusIdentity, read_meta
from pipeline.checkpoint.restore import changed_settings, refuse_other_run
from pipeline.checkpoint.save import remove_leftovers
from pipeline.config import TrainConfig
from pipeline.distributed.agreement import main_rank
from pipeline.set_aside import set_aside_later, set_aside_run
from pipeline.start import Start


@contextmanager
def held(run_dir: Path) -> Iterator[None]:
    """Create the directory where it is missing, and let no second run train in it; for one rank.

    Raises:
        ConfigError: another run is training in it, or it cannot be written.
    """
    with ExitStack() as stack:
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(run_dir / ".lock", refusal="another process is training in this directory"))
        except OSError as error:
            raise ConfigError(f"cannot be written: {error.strerror}", where=run_dir) from None
        yield


def identify(corpus: Corpus) -> CorpusIdentity:
    """What a checkpoint remembers of its data."""
    tokenizer = corpus.manifest.tokenizer
    return CorpusIdentity(
        path=str(corpus.path),
        manifest_sha256=corpus.manifest_sha256,
        tokenizer_sha256=tokenizer.sha256,
        vocab_size=tokenizer.vocab_size,
        sequence_length=corpus.manifest.sequence_length,
    )


def prepare_run_directory(config: TrainConfig, corpus: Corpus, start: Start) -> Path | None:
    """Find the checkpoint to continue from (None: a new run), then lay out the directory. Every rank must call this.

    Raises:
        CheckpointError: the run was started with other data or another model, or none of its checkpoints is whole.
        ConfigError: the directory cannot be written, or there is a checkpoint and `start` refuses to resume.
    """
    start = main_rank(lambda: start.as_first_or_again(config.run_dir, os.environ))
    checkpoint = None if start.fresh else choose_checkpoint(config.run_dir, start)
    main_rank(lambda: _lay_out(config, corpus, start, checkpoint))
    return checkpoint


def _lay_out(config: TrainConfig, corpus: Corpus, start: Start, checkpoint: Path | None) -> None:
    if checkpoint is not None:
        meta = read_meta(checkpoint)
        refuse_other_run(checkpoint, meta, config, identify(corpus))
        for change in changed_settings(meta, config):
            warn(f"changed since the checkpoint: {change}")
    try:
        for path in remove_leftovers(config.run_dir):
            say(f"removed what an interrupted save left behind: {path}")
        aside = None
        if start.fresh:
            aside = set_aside_run(config.run_dir)
        elif start.from_step is not None:
            aside = set_aside_later(config.run_dir, start.from_step)
        if aside is not None:
            say(f"set aside, and yours to remove: {aside}")
        with atomic_write(config.run_dir / "config.yaml", "w") as file:
            file.write(dump_config(config))
        shutil.copytree(corpus.path / "tokenizer", config.run_dir / "tokenizer", dirs_exist_ok=True)
        start.record(config.run_dir, os.environ)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=config.run_dir) from None
