"""The data of a run, one corpus or a blend: all that could end the run later is looked at before it starts."""

import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.manifest import TokenizerInfo
from data_prep.shards import Corpus, Split
from foreword.errors import ConfigError, DataError, MachineError
from pipeline.config.train import TrainConfig
from pipeline.data.blend import whole_weights
from pipeline.vocabulary import mask_token_id

FILES_PER_SHARD = 3  # a mapped file stays open
OTHER_FILES = 256  # of the process: sockets, libraries, logs
OTHER_MAPS = 8192  # of the process: libraries, stacks, memory
MAX_MAP_COUNT = Path("/proc/sys/vm/max_map_count")


@dataclass(frozen=True)
class Corpora:
    """The open corpora of a run; they share their tokenizer and sequence length.

    Attributes:
        by_name: in the order of their manifests' hashes, so that neither names nor their order decide anything.
        weights: name -> whole number; a corpus gives `weight` of every sum(weights) rows.
    """

    by_name: dict[str, Corpus]
    weights: dict[str, int]

    @property
    def first(self) -> Corpus:
        """Any of them, for what they share."""
        return next(iter(self.by_name.values()))

    @property
    def tokenizer(self) -> TokenizerInfo:
        """The one that has encoded all of them."""
        return self.first.manifest.tokenizer

    @property
    def sequence_length(self) -> int:
        """Tokens of a row that go into the model."""
        return self.first.manifest.sequence_length

    @property
    def without_prefixes(self) -> list[str]:
        """Those that were prepared without any: the objective `prefix` reads them causally, unless it draws its own."""
        policies = {
            name: {source.prefix["policy"] for source in corpus.manifest.sources}
            for name, corpus in self.by_name.items()
        }
        return sorted(name for name, found in policies.items() if found == {"none"})

    def token_bytes(self) -> np.ndarray:
        """See `Corpus.token_bytes`."""
        return self.first.token_bytes()


def open_corpora(config: TrainConfig) -> Corpora:
    """Open the corpora and check that the run can use them, from their manifests and their files' sizes alone.

    Raises:
        DataError: a corpus is not intact, or a split that the run reads is empty.
        ConfigError: a split that the run reads is not there; rows are longer than the model's positions; corpora differ
            in tokenizer or sequence length, or are the same; weights that cannot be used; no mask token.
        MachineError: more shards than files that a process may hold open.
    """
    sources = config.data.sources()
    weights = whole_weights({name: source.weight for name, source in sources.items()})
    opened = {name: Corpus.open(source.path) for name, source in sources.items()}
    names = sorted(opened, key=lambda name: opened[name].manifest_sha256)
    corpora = Corpora({name: opened[name] for name in names}, {name: weights[name] for name in names})
    _refuse_differences(corpora)
    refuse_unsuitable(config, corpora.sequence_length, corpora.tokenizer.vocab_size)
    read = [require_rows(corpus.split(name)) for corpus in opened.values() for name in splits_read(config)]
    _allow_mapped_files(sum(len(split.info.shards) for split in read) * FILES_PER_SHARD)
    return corpora


def splits_read(config: TrainConfig) -> list[str]:
    """The splits that the run reads of each corpus: for training, and for validation where it evaluates."""
    names = [config.data.train_split]
    if config.evaluation.every_steps is not None:
        names.append(config.data.validation_split)
    return names


def refuse_unsuitable(config: TrainConfig, sequence_length: int, vocab_size: int) -> None:
    """Check that rows and ids are such as the run can use.

    Raises:
        ConfigError: rows are longer than the model's positions, or there is no mask token.
    """
    positions = config.model.max_position_embeddings
    if sequence_length > positions:
        raise ConfigError(
            f"the corpus has rows of {sequence_length} tokens and the model {positions} positions",
            where="model.max_position_embeddings",
            remedy=f"set it to {sequence_length} or more, or prepare the corpus with a smaller sequence_length",
        )
    if "bidirectional" in config.objective:
        mask_token_id(config.masking, vocab_size)


def require_rows(split: Split) -> Split:
    """The split itself.

    Raises:
        DataError: it has no rows.
    """
    if not len(split):
        raise DataError(
            f"the split {split.name!r} has no rows",
            where=split.corpus,
            remedy="prepare the corpus with a larger share for it",
        )
    return split


def _refuse_differences(corpora: Corpora) -> None:
    """Rows of all corpora stand in one batch: ids must mean the same, and rows be equally long."""
    first_name, first = next(iter(corpora.by_name.items()))
    names: dict[str, str] = {}
    for name, corpus in corpora.by_name.items():
        ours, theirs = first.manifest, corpus.manifest
        difference: tuple[str, Any, Any] | None = None
        if theirs.tokenizer.sha256 != ours.tokenizer.sha256:
            difference = "tokenizer", _named(ours.tokenizer), _named(theirs.tokenizer)
        elif theirs.sequence_length != ours.sequence_length:
            difference = "sequence_length", ours.sequence_length, theirs.sequence_length
        if difference:
            what, of_first, of_this = difference
            raise ConfigError(
                f"the corpora differ in their {what}: {first_name} has {of_first}, {name} has {of_this}",
                where="data.corpora",
                remedy=f"prepare them with the same {what}",
            )
        if corpus.manifest_sha256 in names:
            raise ConfigError(
                f"{names[corpus.manifest_sha256]} and {name} are the same corpus",
                where="data.corpora",
                remedy="name it once, with a larger weight",
            )
        names[corpus.manifest_sha256] = name


def _named(tokenizer: TokenizerInfo) -> str:
    return f"{tokenizer.name} (sha256 {tokenizer.sha256[:12]})"


def _allow_mapped_files(files: int) -> None:
    """Let this process keep every shard mapped; many systems allow 1024 open files until one asks for more."""
    with suppress(OSError, ValueError):  # no Linux: then the other limit is the only one
        _refuse_more_than(int(MAX_MAP_COUNT.read_text()), files + OTHER_MAPS, "maps", "`sysctl vm.max_map_count`")
    needed = files + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= needed:
        return
    if hard != unlimited:
        _refuse_more_than(hard, needed, "open files", "`ulimit -Hn`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _refuse_more_than(limit: int, needed: int, what: str, where: str) -> None:
    if needed > limit:
        raise MachineError(
            f"the corpora have so many shards that a process needs {needed} {what}, and may have {limit}",
            remedy=f"raise the limit ({where}), or prepare the corpora with a larger shard_tokens",
        )
