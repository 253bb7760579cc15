"""A run's directory: the resolved configuration, the tokenizer, and what to continue or to begin from.

run/.lease/           who trains here, see `lease`
run/config.yaml       the resolved configuration of the latest start
run/tokenizer/        the corpora's tokenizer, so that the run can be evaluated and can generate without them
run/metrics.jsonl     see `telemetry`
run/checkpoints/      see `checkpoint`
run/set_aside/        what a start with --from or --fresh went back behind, see `set_aside`
run/slurm/            scripts, logs and events of its jobs, from `foreword submit`
run/start.json        which start asked for that, see `start`
"""

import os
import shutil
from pathlib import Path

from foreword.config import dump_config
from foreword.console import say, warn
from foreword.errors import ConfigError
from pipeline.checkpoint.choose import choose_checkpoint
from pipeline.checkpoint.meta import BlendPart, CorpusIdentity, Origin, read_meta
from pipeline.checkpoint.restore import changed_settings, refuse_other_run
from pipeline.checkpoint.workspace import remove_leftovers
from pipeline.config.train import TrainConfig
from pipeline.data.corpora import Corpora
from pipeline.distributed.agreement import main_rank
from pipeline.run.init_from import find_origin
from pipeline.run.lease import Lease
from pipeline.run.set_aside import number_leftovers, set_aside_later, set_aside_run
from pipeline.run.start import Start
from pipeline.schedule import Schedule


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


def prepare_run_directory(
    config: TrainConfig, corpora: Corpora, schedule: Schedule, start: Start, lease: Lease | None
) -> tuple[Path | None, Origin | None]:
    """Find what to continue or to begin from, then lay out the directory. Every rank must call this.

    Args:
        config: the resolved configuration.
        corpora: the data.
        schedule: of the run.
        start: what was asked for.
        lease: on the directory; held on rank 0. What earlier starts have not published by now, they never will.

    Returns:
        The checkpoint to continue from, None for a new run; and what a new run begins with, None for drawn weights.

    Raises:
        CheckpointError: the run was started with other data or another model, or none of its checkpoints is whole; a
            new run cannot begin with `init_from`.
        ConfigError: the directory cannot be written, or there is a checkpoint and `start` refuses to resume; a new run
            cannot keep what `init_from` asks for.
        MachineError: another process has taken the run over meanwhile.
    """
    main_rank(lambda: _take_over(_held(lease)))
    start = main_rank(lambda: start.as_first_or_again(config.run_dir, os.environ))
    checkpoint = None if start.fresh else choose_checkpoint(config.run_dir, start)
    origin = main_rank(lambda: _check(config, corpora, schedule, start, checkpoint))
    main_rank(lambda: _lay_out(config, corpora, start, _held(lease)))
    return checkpoint, origin


def _held(lease: Lease | None) -> Lease:
    assert lease is not None  # on rank 0
    return lease


def _check(
    config: TrainConfig, corpora: Corpora, schedule: Schedule, start: Start, checkpoint: Path | None
) -> Origin | None:
    """Whether the run can go on from `checkpoint`, or begin as `init_from` says; nothing has been changed so far."""
    init, corpus = config.init_from, identify(corpora)
    if "prefix" in config.objective and config.boundaries.policy == "shards" and corpora.without_prefixes:
        names = ", ".join(corpora.without_prefixes)
        warn(f"{names}: prepared without prefixes, so the objective prefix is causal; boundaries.policy can draw some")
    if checkpoint is None:
        return None if init is None else find_origin(init, config, corpus, schedule, verify=start.verify)
    meta = read_meta(checkpoint)
    refuse_other_run(checkpoint, meta, config, corpus)
    for change in changed_settings(meta, config):
        warn(f"changed since the checkpoint: {change}")
    if init is not None and init.model_dump(mode="json") != meta.config.get("init_from"):
        warn("init_from has no effect: the run continues from its own checkpoint, and it did not begin with this")
    return None


def _lay_out(config: TrainConfig, corpora: Corpora, start: Start, lease: Lease) -> None:
    lease.verify()
    try:
        with lease.blamed_if_lost():
            aside = None
            if start.fresh:
                aside = set_aside_run(lease)
            elif start.from_step is not None:
                aside = set_aside_later(lease, start.from_step)
            if aside is not None:
                say(f"set aside, and yours to remove: {aside}")
            with lease.write("config.yaml") as file:
                file.write(dump_config(config).encode())
            shutil.copytree(corpora.first.path / "tokenizer", config.run_dir / "tokenizer", dirs_exist_ok=True)
            start.record(lease, os.environ)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=config.run_dir) from None


def _take_over(lease: Lease) -> None:
    """From earlier starts, what they were in the middle of."""
    run_dir = lease.run_dir
    try:
        for path in remove_leftovers(run_dir, lease.number):
            say(f"removed what an interrupted save left behind: {path}")
        for path in number_leftovers(run_dir):
            say(f"set aside by a start that was interrupted, and yours to remove: {path}")
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=run_dir) from None
