"""A live engine -> a checkpoint directory that is whole or does not exist, written while training goes on.

A save has three parts:

    begin      every rank copies its fragments to host memory; training stands still for this only
    write      a thread of every rank writes and hashes its file, and flushes it to the disk
    publish    when all ranks have, a thread of rank 0 writes foreword.json and renames the directory; then it removes
               the checkpoints that are not kept

The threads take part in no collective. Whether they are done is asked by the training loop at each step (`done`,
`failed`: numbers for an all-reduce that it makes anyway), and `advance`, which all ranks then call, hands the results
over. At most one save is in flight.
"""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from foreword.errors import CheckpointError, ForewordError
from pipeline.checkpoint.fragments import Fragment, fragments_of
from pipeline.checkpoint.image import HostImage
from pipeline.checkpoint.meta import CheckpointMeta, FileEntry, FragmentRange, write_meta
from pipeline.checkpoint.retention import apply_retention
from pipeline.checkpoint.workspace import Workspace
from pipeline.checkpoint.write import write_and_hash
from pipeline.config.run import CheckpointConfig
from pipeline.distributed.agreement import gather, main_rank
from pipeline.engine import Engine
from pipeline.run.lease import Lease

POLL_INTERVAL_S = 0.02

NamedFiles = dict[str, FileEntry]


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was published.

    Attributes:
        step: of the checkpoint.
        path: its directory.
        size_bytes: of its files.
        stall_s: how long training stood still for it.
        save_s: from the beginning of the copy until it was published and old ones were removed.
    """

    step: int
    path: Path
    size_bytes: int
    stall_s: float
    save_s: float


@dataclass
class _InFlight:
    """A save between `begin` and its end; `publishing` is None while files are being written."""

    meta: CheckpointMeta
    began: float
    writing: Future[NamedFiles]
    stall_s: float
    publishing: Future[tuple[Path, int]] | None = None

    @property
    def work(self) -> Future:
        """What is going on now."""
        return self.publishing or self.writing


class Saver:
    """Saves checkpoints of `engine`, one at a time. A context manager: at its end what is in flight is given up.

    Args:
        engine: what is saved. Host memory for this rank's fragments is taken here, once.
        workspace: where checkpoints are prepared; open, and closed at the end by rank 0.
        config: which checkpoints are kept.
        lease: asked before anything is published or removed; on rank 0.
    """

    def __init__(self, engine: Engine, workspace: Workspace, config: CheckpointConfig, lease: Lease | None) -> None:
        self._engine, self._workspace, self._config, self._lease = engine, workspace, config, lease
        sizes = {fragment.name: fragment.numel for fragment in _written_here(engine)}
        self._image = HostImage(sizes, engine.parallel.device)
        self._in_flight: _InFlight | None = None
        self._given_up = threading.Event()
        self._pool = ThreadPoolExecutor(1, "checkpoint")

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, *_: object) -> None:
        self._given_up.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._engine.parallel.is_main:
            self._workspace.close()

    @property
    def in_flight(self) -> bool:
        """Whether a save has begun and not ended; the same on all ranks."""
        return self._in_flight is not None

    @property
    def done(self) -> int:
        """1 when this rank's thread has nothing to do any more for the save in flight, else 0."""
        return int(self._in_flight is not None and self._in_flight.work.done())

    @property
    def failed(self) -> int:
        """1 when this rank's thread met an error, else 0."""
        return int(bool(self.done) and self._in_flight.work.exception() is not None)  # type: ignore[union-attr]

    def begin(self, meta: CheckpointMeta) -> None:
        """Begin to save the engine as it is now; every rank must call this, with nothing in flight. Never raises.

        Args:
            meta: the contents of foreword.json but for its files; rank 0's counts.
        """
        began = time.perf_counter()
        self._given_up.clear()
        try:
            fragments = _written_here(self._engine)
            self._image.fill(fragments)
            writing = self._pool.submit(self._write, meta.progress.step, fragments)
        except Exception as error:  # told where the ranks meet
            writing = Future()
            writing.set_exception(error)
        self._in_flight = _InFlight(meta, began, writing, stall_s=time.perf_counter() - began)

    def advance(self) -> Saved | None:
        """Take the save in flight one part further, waiting for all ranks' threads; every rank must call this.

        Returns:
            The checkpoint, when it has been published.

        Raises:
            CheckpointError: a rank could not write or rank 0 not publish; on all ranks. The save is over, and earlier
                checkpoints are untouched.
            ForewordError: another error of a rank; on all ranks.
        """
        save = self._in_flight
        assert save is not None
        started = time.perf_counter()
        try:
            if save.publishing is None:
                self._await_writing()
                files = {name: entry for written in gather(save.writing.result) for name, entry in written.items()}
                save.publishing = self._publish_later(save.meta.model_copy(update={"files": files}))
                save.stall_s += time.perf_counter() - started
                return None
            path, size_bytes = main_rank(save.publishing.result)
        except ForewordError:
            self._in_flight = None
            main_rank(lambda: self._workspace.abandon(save.meta.progress.step))
            raise
        self._in_flight = None
        now = time.perf_counter()
        return Saved(save.meta.progress.step, path, size_bytes, save.stall_s + now - started, now - save.began)

    def _await_writing(self) -> None:
        """Return when all ranks have written, or as soon as one could not: the others give up then."""
        while True:
            counts = torch.tensor([self.done, self.failed])
            dist.all_reduce(counts)
            done, failed = counts.tolist()
            if failed:
                self._given_up.set()
            if failed or done == self._engine.parallel.world_size:
                return
            time.sleep(POLL_INTERVAL_S)

    def _write(self, step: int, fragments: list[Fragment]) -> NamedFiles:
        """This rank's file, if it has anything to write; runs in the thread."""
        if not fragments:
            return {}
        parallel = self._engine.parallel
        name = f"tp_{parallel.tensor_parallel_rank:02d}_dp_{parallel.data_parallel_rank:03d}.safetensors"
        path = self._workspace.path
        try:
            path = self._workspace.prepare(step) / name
            sha256 = write_and_hash(path, self._image.content, self._given_up)
        except OSError as error:
            raise _unwritable(path, error) from None
        if sha256 is None:
            return {}
        return {
            name: FileEntry(
                size=len(self._image.content),
                sha256=sha256,
                tensor_parallel_rank=parallel.tensor_parallel_rank,
                fragments={f.name: FragmentRange(start=f.start, numel=f.numel) for f in fragments},
            )
        }

    def _publish_later(self, meta: CheckpointMeta) -> Future[tuple[Path, int]]:
        if self._engine.parallel.is_main:
            return self._pool.submit(self._publish, meta)
        nothing: Future = Future()
        nothing.set_result(None)
        return nothing

    def _publish(self, meta: CheckpointMeta) -> tuple[Path, int]:
        """Runs in rank 0's thread."""
        assert self._lease is not None
        self._lease.verify()
        path = self._workspace.path
        try:
            with self._lease.blamed_if_lost():
                path = self._workspace.prepare(meta.progress.step)
                write_meta(path, meta)
                published = self._workspace.publish(meta.progress.step)
        except OSError as error:
            raise _unwritable(path, error) from None
        self._lease.verify()
        apply_retention(self._workspace.run_dir, self._config, self._workspace.discard)
        return published, sum(entry.size for entry in meta.files.values())


def _written_here(engine: Engine) -> list[Fragment]:
    """What this rank writes of what it holds: of what several ranks hold alike, one writes it."""
    return [fragment for fragment in fragments_of(engine) if _is_written_here(engine, fragment)]


def _is_written_here(engine: Engine, fragment: Fragment) -> bool:
    parallel = engine.parallel
    if engine.layout[fragment.name].partition_dim is None and parallel.tensor_parallel_rank != 0:
        return False
    if engine.zero_stage == 0:
        writer = list(engine.layout).index(fragment.name) % parallel.data_parallel_size
        return writer == parallel.data_parallel_rank
    return True


def _unwritable(where: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"could not be written: {error.strerror}",
        where=where,
        remedy="earlier checkpoints are untouched; make room and resume",
    )
