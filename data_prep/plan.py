"""What a preparation is going to do, written down before it does it, so that it can be continued.

What comes in: a configuration, its tokenizer and the input files as they are now. What goes out: a `Plan` with the
slices of the input, and how they are shared between tasks. Promise: continuing with another configuration, another
tokenizer or changed files is refused, saying what changed.
"""

import heapq
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from data_prep.config import MegatronSource, PrepConfig
from data_prep.manifest import MANIFEST_NAME, Manifest
from foreword.errors import ConfigError, DataError
from foreword.files import atomic_write

if TYPE_CHECKING:
    from data_prep.tokenizers import Tokenizer

PLAN_NAME = "plan.json"
SLICES = 64
SMALLEST_SLICE_BYTES, LARGEST_SLICE_BYTES = 2**22, 2**26


class PlannedFile(BaseModel):
    """An input file and what it looked like when the plan was made."""

    source: int
    path: str
    size_bytes: int
    fingerprint: str


class PlannedSlice(BaseModel):
    """A range of `files[file]`, in the source module's own units; `size_bytes` is its share of the progress shown."""

    file: int
    begin: int
    end: int
    size_bytes: int


class Plan(BaseModel):
    """The whole of the input in slices, in canonical order.

    Attributes:
        config: the values that decide the corpus.
        tokenizer: name of a property -> its value, as far as they decide the corpus.
        slice_bytes: how the slices were cut; a later run keeps them.
    """

    config: dict[str, Any]
    tokenizer: dict[str, Any]
    slice_bytes: int
    files: list[PlannedFile]
    slices: list[PlannedSlice]

    def slice_name(self, number: int) -> str:
        """The name of a slice's files in the work directory."""
        return f"{number:06d}"

    def begins_file(self, number: int) -> bool:
        """Whether a slice is the first one of its file."""
        return number == 0 or self.slices[number - 1].file != self.slices[number].file

    def shares(self, tasks: int) -> list[list[int]]:
        """The numbers of the slices that each of `tasks` tasks does, in order; every slice belongs to one task.

        The largest slice first, each to the task that has least to do so far.
        """
        load = [(0, task) for task in range(tasks)]
        shares: list[list[int]] = [[] for _ in range(tasks)]
        for number in sorted(range(len(self.slices)), key=lambda number: (-self.slices[number].size_bytes, number)):
            size_bytes, lightest = load[0]
            heapq.heapreplace(load, (size_bytes + max(self.slices[number].size_bytes, 1), lightest))
            shares[lightest].append(number)
        return [sorted(share) for share in shares]


def make_plan(config: PrepConfig, tokenizer: "Tokenizer | None") -> Plan:
    """Look at the input files (not into them) and cut them into slices.

    Args:
        config: what is to be prepared.
        tokenizer: None when it is not there yet; nobody can work by such a plan, but it tells what there will be to do.

    Raises:
        ConfigError: a file that does not exist, or ids of another tokenizer.
    """
    from data_prep.sources import module_of

    files: list[PlannedFile] = []
    slices: list[PlannedSlice] = []
    found = [module_of(source.kind).list_files(source) for source in config.sources]
    slice_bytes = config.slice_bytes or _slice_bytes(sum(file.size_bytes for files in found for file in files))
    for number, source in enumerate(config.sources):
        if tokenizer and isinstance(source, MegatronSource) and source.vocab_size != tokenizer.vocab_size:
            raise ConfigError(
                f"its ids are of a vocabulary of {source.vocab_size:,}, the tokenizer has {tokenizer.vocab_size:,} ids",
                where=source.name,
                remedy="name the tokenizer that made the ids, and its vocab_size without padding",
            )
        for file in found[number]:
            # every file has a slice
            ranges = module_of(source.kind).cut(file.path, file.size_bytes, slice_bytes) or [(0, 0)]
            total = sum(end - begin for begin, end in ranges) or 1
            for begin, end in ranges:
                share = file.size_bytes * (end - begin) // total
                slices.append(PlannedSlice(file=len(files), begin=begin, end=end, size_bytes=share))
            files.append(
                PlannedFile(source=number, path=file.path, size_bytes=file.size_bytes, fingerprint=file.fingerprint)
            )
    decisive = ("kind", "sha256", "vocab_size", "eod_id", "pad_id")
    return Plan(
        config=config.result_config(),
        tokenizer={key: getattr(tokenizer, key) for key in decisive} if tokenizer else {},
        slice_bytes=slice_bytes,
        files=files,
        slices=slices,
    )


def _slice_bytes(input_bytes: int) -> int:
    """So many slices that the last ones to finish are a small part of the work, and so few that each is worth it."""
    return min(max(input_bytes // SLICES, SMALLEST_SLICE_BYTES), LARGEST_SLICE_BYTES)


def settle_plan(work: Path, fresh: Plan) -> Plan:
    """The plan to work by: the one begun earlier when it is the same work, else `fresh`, which is written down.

    Raises:
        ConfigError: the work directory belongs to another configuration; what changed is named.
        DataError: an input file is not what it was.
    """
    begun = read_plan(work)
    if begun is None:
        with atomic_write(work / PLAN_NAME, "w") as file:
            file.write(fresh.model_dump_json())
        return fresh
    refuse_other_work(begun, fresh, work.parent)
    return begun


def refuse_other_work(begun: Plan, fresh: Plan, output: Path) -> None:
    """Check that what was `begun` at `output` is what `fresh` plans to do.

    Raises:
        ConfigError: it belongs to another configuration; what changed is named.
        DataError: an input file is not what it was.
    """
    refuse_changes(
        {"config": begun.config, "tokenizer": begun.tokenizer},
        {"config": fresh.config, "tokenizer": fresh.tokenizer},
        output,
    )
    before = {file.path: file for file in begun.files}
    now = {file.path: file for file in fresh.files}
    for name in before.keys() | now.keys():
        if before.get(name) != now.get(name):
            what = "is new" if name not in before else "is gone" if name not in now else "has changed"
            raise DataError(
                f"this input file {what} since the preparation began",
                where=name,
                remedy=f"put it back, or delete {output} and begin again",
            )


def read_plan(work: Path) -> Plan | None:
    """The plan that was begun in a work directory, or None.

    Raises:
        DataError: it is not valid.
    """
    path = work / PLAN_NAME
    try:
        return Plan.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise DataError("the plan of the earlier run is not valid", where=path, remedy=f"delete {work}") from None


def refuse_changes(before: dict[str, Any], now: dict[str, Any], output: Path) -> None:
    """ConfigError listing every value that differs between two nested configurations; nothing when none does.

    A key that is not there counts as null, so that an option that comes new with a default of null changes nothing.
    """
    old, new = _flatten(before), _flatten(now)
    changes = [
        f"{key.removeprefix('config.')}: {old.get(key, 'not set')} -> {new.get(key, 'not set')}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    ]
    if changes:
        raise ConfigError(
            "the output was begun with another configuration:\n     " + "\n     ".join(changes),
            where=output,
            remedy="go back to it, choose another output, or delete this one",
        )


def finished_corpus(output: Path) -> Manifest | None:
    """The manifest of a finished corpus at `output`, or None."""
    return Manifest.load(output) if (output / MANIFEST_NAME).is_file() else None


def _flatten(value: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(value, dict) and value:
        return {k: v for key, inner in value.items() for k, v in _flatten(inner, f"{prefix}{key}.").items()}
    if isinstance(value, list) and value:
        return {k: v for i, inner in enumerate(value) for k, v in _flatten(inner, f"{prefix}{i}.").items()}
    return {} if value is None else {prefix.removesuffix("."): json.dumps(value)}
