"""What a preparation is going to do, written down before it does it, so that it can be continued.

What comes in: a configuration, its tokenizer and the input files as they are now. What goes out: a `Plan` with the
slices of the input. Promise: continuing with another configuration, another tokenizer or changed files is refused,
saying what changed; two processes never work on one output.
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from data_prep.config import PrepConfig
from data_prep.manifest import MANIFEST_NAME, Manifest, TokenizerInfo
from data_prep.sources import module_of
from foreword.errors import ConfigError, DataError
from foreword.files import TEMPORARY_PREFIX, atomic_write

WORK_DIRECTORY = ".work"
PLAN_NAME = "plan.json"


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


def make_plan(config: PrepConfig, tokenizer: TokenizerInfo) -> Plan:
    """Look at the input files (not into them) and cut them into slices.

    Raises:
        ConfigError: a file that does not exist.
    """
    files: list[PlannedFile] = []
    slices: list[PlannedSlice] = []
    for number, source in enumerate(config.sources):
        module = module_of(source.kind)
        for file in module.list_files(source):
            ranges = module.cut(file.path, file.size_bytes, config.slice_bytes)
            total = sum(end - begin for begin, end in ranges) or 1
            for begin, end in ranges:
                share = file.size_bytes * (end - begin) // total
                slices.append(PlannedSlice(file=len(files), begin=begin, end=end, size_bytes=share))
            files.append(
                PlannedFile(source=number, path=file.path, size_bytes=file.size_bytes, fingerprint=file.fingerprint)
            )
    return Plan(
        config=config.result_config(),
        tokenizer=tokenizer.model_dump(include={"kind", "sha256", "vocab_size", "eod_id", "pad_id"}),
        slice_bytes=config.slice_bytes,
        files=files,
        slices=slices,
    )


def continue_or_begin(work: Path, fresh: Plan) -> tuple[Plan, bool]:
    """The plan to work by: the one begun earlier when it is the same work, else `fresh`, which is written down.

    Returns:
        The plan, and whether it was begun earlier.

    Raises:
        ConfigError: the work directory belongs to another configuration; what changed is named.
        DataError: an input file is not what it was.
    """
    path = work / PLAN_NAME
    if not path.is_file():
        with atomic_write(path, "w") as file:
            file.write(fresh.model_dump_json())
        return fresh, False
    try:
        begun = Plan.model_validate_json(path.read_bytes())
    except ValidationError:
        raise DataError("the plan of the earlier run is not valid", where=path, remedy=f"delete {work}") from None
    refuse_changes(
        {"config": begun.config, "tokenizer": begun.tokenizer},
        {"config": fresh.config, "tokenizer": fresh.tokenizer},
        work.parent,
    )
    before = {file.path: file for file in begun.files}
    now = {file.path: file for file in fresh.files}
    for name in before.keys() | now.keys():
        if before.get(name) != now.get(name):
            what = "is new" if name not in before else "is gone" if name not in now else "has changed"
            raise DataError(
                f"this input file {what} since the preparation began",
                where=name,
                remedy=f"put it back, or delete {work.parent} and begin again",
            )
    return begun, True


def refuse_changes(before: dict[str, Any], now: dict[str, Any], output: Path) -> None:
    """ConfigError listing every value that differs between two nested configurations; nothing when none does."""
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


@contextmanager
def work_directory(output: Path) -> Iterator[Path]:
    """Create the output with its work directory and hold it alone.

    Raises:
        ConfigError: another process works on this output, or it holds something else.
    """
    if output.is_dir() and not (output / WORK_DIRECTORY).is_dir() and any(output.iterdir()):
        raise ConfigError("the output directory is not empty and not a corpus", where=output, remedy="choose another")
    work = output / WORK_DIRECTORY
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError("another process is preparing this output", where=output, remedy="wait for it") from None
        for leftover in output.rglob(f"{TEMPORARY_PREFIX}*"):
            leftover.unlink(missing_ok=True)  # of a killed run
        yield work


def _flatten(value: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(value, dict) and value:
        return {k: v for key, inner in value.items() for k, v in _flatten(inner, f"{prefix}{key}.").items()}
    if isinstance(value, list) and value:
        return {k: v for i, inner in enumerate(value) for k, v in _flatten(inner, f"{prefix}{i}.").items()}
    return {prefix.removesuffix("."): json.dumps(value)}
