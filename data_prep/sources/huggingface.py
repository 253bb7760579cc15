"""Hugging Face datasets, through the `datasets` library: a name on the hub, a directory with data files, or a dataset
saved by `save_to_disk`.

The library says which files a dataset has; each is a unit, and a file on the hub is named with the commit it is read
at, so that nothing changes on the way. Parquet, the hub's own format, is read by `sources.parquet`, in slices and only
the columns that are needed; saved datasets are Arrow files; everything else is streamed by the library. Nothing is
stored, and nothing is downloaded twice: the hub knows the hashes of its large files.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.config import HuggingFaceSource
from data_prep.documents import Documents
from data_prep.sources import BadRecords, InputFile, parquet
from data_prep.sources.files import DamagedFile, arrow_errors, byte_ranges, find_files, open_stored, sha256_of_input
from data_prep.sources.records import columns_of, missing_field, required_fields
from data_prep.sources.tables import Place, documents_of
from foreword.errors import ConfigError, DataError, ForewordError, MachineError

BATCH_ROWS = 1000


def list_files(source: HuggingFaceSource) -> list[InputFile]:
    """The data files of the dataset's split.

    Raises:
        ConfigError: no such dataset, subset, split or revision.
        MachineError: the hub cannot be reached.
    """
    return find_files(_saved_files(source) if _is_saved(source) else list(_resolve(source).files))


def sha256(path: str) -> str:
    """Hash of the file's bytes."""
    return sha256_of_input(path)


def cut(path: str, size_bytes: int, slice_bytes: int) -> list[tuple[int, int]]:
    """Byte ranges of a Parquet file; another file is one range."""
    return byte_ranges(path, size_bytes, slice_bytes) if _is_parquet(path) else [(0, size_bytes)]


def read(source: HuggingFaceSource, path: str, begin: int, end: int, bad: BadRecords) -> Iterator[Documents]:
    """The documents of a range of a Parquet file, or of another file."""
    if _is_parquet(path):
        yield from parquet.read(source, path, begin, end, bad)
        return
    batches = _saved_batches(source, path) if _is_saved(source) else _streamed_batches(source, path)
    row = 0
    try:
        for batch, input_bytes in batches:
            names = batch.schema.names
            missing = next((name for name in required_fields(source) if name not in names), None)
            if missing is None:
                documents = documents_of(source, batch.select(columns_of(source, names)), Place(path, row), bad)
                yield replace(documents, input_bytes=input_bytes)
            else:
                fault = missing_field(missing, names)
                bad.found(partial(str, path), fault.reason, fault.detail, count=len(batch))
            row += len(batch)
    except DamagedFile as error:
        bad.found(lambda: f"{path}, from row {row} on", "damaged_file", str(error))


@dataclass(frozen=True)
class _Resolved:
    """A split of a dataset that is not a saved one.

    Attributes:
        builder: the library's, which can stream it.
        split: its name.
        files: paths, or hf:// URLs that name a commit.
    """

    builder: Any
    split: str
    files: tuple[str, ...]

    @cached_property
    def stream(self) -> Any:
        """The library's streaming dataset: one shard per file, in Arrow tables."""
        stream = self.builder.as_streaming_dataset(split=self.split).with_format("arrow")
        if stream.num_shards != len(self.files):
            raise DataError(f"{len(self.files)} data files, and the library reads them as {stream.num_shards} shards")
        return stream


def _resolve(source: HuggingFaceSource, commit: str | None = None) -> _Resolved:
    return _resolve_names(source.dataset, source.subset, source.split, commit or source.revision)


@lru_cache(maxsize=4)
def _resolve_names(dataset: str, subset: str | None, split: str, revision: str | None) -> _Resolved:
    import datasets  # half a second, for those who use it only

    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    with _library_errors(dataset):
        builder = datasets.load_dataset_builder(dataset, name=subset, revision=revision)
    files = {str(name): tuple(map(str, names)) for name, names in (builder.config.data_files or {}).items()}
    if split not in files:
        raise ConfigError(f"no split {split!r}; there are: {', '.join(files) or 'none'}", where=dataset)
    return _Resolved(builder, split, files[split])


def _streamed_batches(source: HuggingFaceSource, path: str) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Batches of one data file through the library; raises DamagedFile for what it cannot parse."""
    commit = re.match(r"hf://datasets/[^@]+@([0-9a-f]{40})/", path)
    resolved = _resolve(source, commit[1] if commit else None)
    if path not in resolved.files:
        raise DataError("the dataset has no such data file any more", where=path, remedy="name a commit as `revision`")
    try:
        shard = resolved.stream.shard(num_shards=len(resolved.files), index=resolved.files.index(path))
        for table in shard.iter(batch_size=BATCH_ROWS):
            for batch in table.to_batches():
                yield batch, batch.nbytes
    except ForewordError:
        raise
    except (ValueError, pa.ArrowException, EOFError) as error:  # the parsers' words for what is not in their format
        raise DamagedFile(f"cannot be parsed: {error}") from None
    except Exception as error:  # the hub's and the network's
        raise DataError(f"cannot be read: {type(error).__name__}: {error}", where=path) from None


def _is_saved(source: HuggingFaceSource) -> bool:
    return any((Path(source.dataset) / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _saved_files(source: HuggingFaceSource) -> list[str]:
    """The Arrow files of a split that `save_to_disk` wrote."""
    import datasets

    if source.subset is not None or source.revision is not None:
        raise ConfigError("a saved dataset has neither subsets nor revisions", where=source.dataset)
    with _library_errors(source.dataset):
        saved = datasets.load_from_disk(source.dataset)
    splits = dict(saved) if isinstance(saved, datasets.DatasetDict) else {str(saved.split or source.split): saved}
    if source.split not in splits:
        raise ConfigError(f"no split {source.split!r}; there are: {', '.join(splits)}", where=source.dataset)
    return [file["filename"] for file in splits[source.split].cache_files]


def _saved_batches(source: HuggingFaceSource, path: str) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Batches of an Arrow stream, checked for damage."""
    position = 0
    with arrow_errors(path, "an Arrow file"), open_stored(path) as stored, pa.ipc.open_stream(stored) as batches:
        for batch in batches:
            for name in columns_of(source, batch.schema.names):
                _check(batch.column(name))
            position, before = stored.tell(), position
            yield batch, position - before


def _check(column: pa.Array) -> None:
    """ArrowInvalid when following the column's offsets would leave its memory; UTF-8 is looked at later, by row."""
    kinds = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
    (column.view(kinds[column.type]) if column.type in kinds else column).validate(full=True)


def _is_parquet(path: str) -> bool:
    return path.endswith(".parquet")


@contextmanager
def _library_errors(dataset: str) -> Iterator[None]:
    """Name the dataset in what the library raises while it looks for it."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:  # no such dataset, revision, subset; no data files
        remedy = "check dataset, subset and revision; a private dataset needs a token in HF_TOKEN"
        raise ConfigError(f"cannot be found: {error}", where=dataset, remedy=remedy) from None
    except Exception as error:
        remedy = "check the network; or download the dataset and give its directory as `dataset`"
        raise MachineError(f"the hub cannot be reached: {error}", where=dataset, remedy=remedy) from None
