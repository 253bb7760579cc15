"""What a new run begins with in place of drawn weights: those of another run, or of no run; see `config.InitFrom`.

    weights      always: the logical fp32 parameters, of a checkpoint its masters
    optimizer    keep: Adam's moments and step count; reset: as if no update had ever been made
    position     keep: the other run's `Progress` (steps, rows, tokens), so the schedule and the order of the data go on
                 from there; reset: the schedule begins at step 0, and the data at the first row of its order

The guard's memory and fp16's loss scale always begin anew: they are about losses of another objective.

A run begins once. As soon as it has a checkpoint of its own it goes on from that, and what is said here has no effect;
the checkpoint remembers it as its `Origin`.
"""

from pathlib import Path

from foreword.errors import CheckpointError, ConfigError
from foreword.files import sha256_of
from pipeline.checkpoint.fragments import finish_restore, fragments_of
from pipeline.checkpoint.meta import KINDS, MASTER, META_NAME, CheckpointMeta, CorpusIdentity, Origin, Progress
from pipeline.checkpoint.restore import read_into
from pipeline.config.run import InitFrom
from pipeline.config.train import TrainConfig
from pipeline.distributed.agreement import all_ranks
from pipeline.engine import Engine
from pipeline.schedule import Schedule
from pipeline.vocabulary import padded_vocab_size
from pipeline.weights.directory import is_weights
from pipeline.weights.hf_directory import is_hugging_face
from pipeline.weights.pretrained import Pretrained, open_pretrained
from pipeline.weights.stored import open_stored


def find_origin(
    init: InitFrom, config: TrainConfig, corpus: CorpusIdentity, schedule: Schedule, *, verify: bool = False
) -> Origin:
    """Look at what a run is to begin with, and whether it can; no tensor is loaded.

    Args:
        init: what is asked for.
        config, corpus, schedule: of the new run.
        verify: whether to read every file and compare its hash.

    Raises:
        CheckpointError: nothing usable is at the path, a file is not intact, or its model or tokenizer is another one;
            says every difference.
        ConfigError: an optimizer or a position that is not there or means nothing in this run; says why.
    """
    if init.path.resolve().is_relative_to(config.run_dir.resolve()):
        raise ConfigError(
            f"{init.path} lies in the run's own directory, and a run continues its own checkpoints by itself",
            where="init_from.path",
            remedy="use another run_dir for the new run",
        )
    pretrained = open_pretrained(init.path)
    if is_hugging_face(pretrained.path):
        raise ConfigError(
            f"{init.path} is in the Hugging Face layout",
            where="init_from.path",
            remedy=f"`foreword import {init.path} OUT`, and begin from OUT",
        )
    _refuse_another_model(pretrained, config, corpus)
    if pretrained.checkpoint is None:
        _refuse_without_a_run(init)
    elif init.position == "keep":
        _refuse_position(pretrained.path, pretrained.checkpoint, config, corpus, schedule)
    if verify:
        with open_stored(pretrained.path, hashes=True):
            pass
    return Origin(
        path=str(pretrained.path.absolute()),
        meta_sha256=sha256_of(pretrained.path / META_NAME),
        objective=pretrained.objective,
        progress=None if pretrained.checkpoint is None else pretrained.checkpoint.progress,
        optimizer=init.optimizer,
        position=init.position,
    )


def begin_from(origin: Origin, engine: Engine) -> Progress:
    """Write what `origin` names into `engine`, and return the position to begin at; every rank must call this.

    Raises:
        CheckpointError: a file is unreadable or lacks something; on all ranks.
    """
    path, steps = Path(origin.path), 0
    if is_weights(path):
        all_ranks(lambda: _read_weights_into(engine, path))
    else:
        kinds = KINDS if origin.optimizer == "keep" else (MASTER,)
        meta = all_ranks(lambda: read_into(engine, path, kinds))
        steps = meta.optimizer_steps if origin.optimizer == "keep" else 0
    finish_restore(engine, steps=steps)
    return origin.progress if origin.progress is not None and origin.position == "keep" else Progress()


def _refuse_another_model(pretrained: Pretrained, config: TrainConfig, corpus: CorpusIdentity) -> None:
    theirs, ours = (
        {f"model.{key}": value for key, value in model.model_dump(exclude={"initializer_range"}).items()}
        | {"rows of the embedding": padded_vocab_size(vocab_size), "tokenizer sha256": tokenizer_sha256}
        for model, vocab_size, tokenizer_sha256 in (
            (pretrained.config, pretrained.vocab_size, pretrained.tokenizer_sha256),
            (config.model, corpus.vocab_size, corpus.tokenizer_sha256),
        )
    )
    differences = [f"{key}: {theirs[key]} there, {ours[key]} in this run" for key in ours if theirs[key] != ours[key]]
    if differences:
        raise CheckpointError(
            "these weights are of another model:\n  " + "\n  ".join(differences),
            where=pretrained.path,
            remedy=f"train the same model, on a corpus prepared with the tokenizer in {pretrained.tokenizer_dir}",
        )


def _refuse_without_a_run(init: InitFrom) -> None:
    kept = [key for key in ("optimizer", "position") if getattr(init, key) == "keep"]
    if kept:
        raise ConfigError(
            f"{init.path} holds weights alone: there is no {' and no '.join(kept)} to keep",
            where=f"init_from.{kept[0]}",
            remedy="reset it, or begin from a checkpoint",
        )


def _refuse_position(
    checkpoint: Path, saved: CheckpointMeta, config: TrainConfig, corpus: CorpusIdentity, schedule: Schedule
) -> None:
    """A position is a place in one order of one data, and in a schedule that goes on behind it."""
    differences = saved.corpus.differences(corpus)
    for key in ("seed", "train_split"):
        then, now = saved.config["data"].get(key), getattr(config.data, key)
        if then != now:
            differences.append(f"data.{key}: {then} in the checkpoint, {now} now")
    if differences:
        raise ConfigError(
            f"the position of {checkpoint} is one in the order of other data:\n  " + "\n  ".join(differences),
            where="init_from.position",
            remedy="reset it, or train on the data of that run",
        )
    if schedule.is_over(*saved.progress.position):
        raise ConfigError(
            f"the schedule, of {config.schedule.total:,} {config.schedule.unit}, is over at the position of "
            f"{checkpoint}: step {saved.progress.step:,}, {saved.progress.tokens_consumed:,} tokens",
            where="init_from.position",
            remedy=f"reset it, or make schedule.total_{config.schedule.unit} larger",
        )


def _read_weights_into(engine: Engine, path: Path) -> None:
    """Each rank reads one logical tensor after another, and keeps its part of it."""
    parallel = engine.parallel
    with open_stored(path) as stored:
        if stored.shapes != {name: tuple(layout.full_shape) for name, layout in engine.layout.items()}:
            raise CheckpointError(
                "its tensors are not those that its foreword.json describes", where=path, remedy="import them again"
            )
        for fragment in fragments_of(engine):
            full = stored.read(fragment.name, MASTER)
            own = engine.layout[fragment.name].cut(full, parallel.tensor_parallel_rank, parallel.tensor_parallel_size)
            fragment.state[MASTER].copy_(own.reshape(-1)[fragment.start : fragment.start + fragment.numel])
