"""What takes part in `make bench-checkpoint`: Foreword's saver, torch.save and torch.distributed.checkpoint (DCP).

Each turn is a process of its own that builds the same training state (fp32 weights and Adam's two moments, one
process, ZeRO 0), saves it twice, and reads the second one back from the disk. The first save is not counted: whoever
keeps host memory for the next save makes it then. Every contender's files are on the disk when its time ends.
"""

import mmap
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FUTURE_POLL_S = 0.002
MEMORY_POLL_S = 0.005
CHUNK_BYTES = 2**24


@dataclass
class Figures:
    """What one turn came to; times in seconds, memory in bytes beside the state itself at its highest.

    Attributes:
        size_bytes: of the files.
        stall_s: how long a training loop would have stood still.
        save_s: until the files were on the disk under their names.
        load_s: from the disk (not from the system's cache) into the state.
        reshape_s: from one tensor-parallel size to another; Foreword alone.
    """

    size_bytes: int
    stall_s: float
    save_s: float
    save_peak_bytes: int
    load_s: float
    load_peak_bytes: int
    reshape_s: float | None = None
    reshape_peak_bytes: int | None = None


@dataclass(frozen=True)
class Rates:
    """What this machine's memory, processor and disk do with as many bytes, in bytes/s.

    Attributes:
        copy: from memory to memory, by torch.
        sha256: hashed by one thread.
        write_through_cache: written by one thread and flushed, as files usually are.
        write: the same past the system's page cache.
        read: by one thread, from the disk.
    """

    copy: float
    sha256: float
    write_through_cache: float
    write: float
    read: float


def foreword(asynchronous: bool, config: Any, vocab_size: int, directory: Path) -> Figures:
    """Foreword's `Saver` as the training loop drives it, `restore`, and `foreword checkpoint reshape`."""
    from pipeline.checkpoint.find import step_directory
    from pipeline.checkpoint.reshape import reshape_checkpoint
    from pipeline.checkpoint.restore import restore
    from pipeline.checkpoint.save import Saver
    from pipeline.checkpoint.workspace import Workspace
    from pipeline.run.lease import acquire

    engine = _engine(config, vocab_size)
    run_dir = directory / "run"
    config = config.model_copy(update={"run_dir": run_dir})
    with acquire(run_dir, config.checkpoint.takeover_after_s) as lease:
        workspace = Workspace(run_dir, lease.number)
        workspace.open()
        with _own_memory() as memory, Saver(engine, workspace, config.checkpoint, lease) as saver:
            for step in (1, 2):
                saver.begin(_meta(engine, config, step, vocab_size))
                saved = None
                while saved is None:  # what the loop does at each step
                    while asynchronous and not saver.done:
                        time.sleep(FUTURE_POLL_S)
                    saved = saver.advance()
    checkpoint = step_directory(run_dir, 2)
    _forget(checkpoint)
    with _own_memory() as load_memory:
        load_s = _time(lambda: restore(checkpoint, engine))
    _forget(checkpoint)
    with _own_memory() as reshape_memory:
        reshape_s = _time(lambda: reshape_checkpoint(checkpoint, directory / "reshaped", 2))
    return Figures(
        size_bytes=saved.size_bytes,
        stall_s=saved.stall_s,
        save_s=saved.save_s,
        save_peak_bytes=memory[0],
        load_s=load_s,
        load_peak_bytes=load_memory[0],
        reshape_s=reshape_s,
        reshape_peak_bytes=reshape_memory[0],
    )


def torch_save(config: Any, vocab_size: int, directory: Path) -> Figures:
    """torch.save into one file, flushed to the disk; torch.load with weights_only."""
    import torch

    state = _state(_engine(config, vocab_size))

    def save(path: Path) -> None:
        path.mkdir()
        torch.save(state, path / "state.pt")
        _flush(path)

    def load(path: Path) -> None:
        for name, tensor in torch.load(path / "state.pt", weights_only=True).items():
            state[name].copy_(tensor)

    return _plain(save, load, directory)


def dcp(config: Any, vocab_size: int, directory: Path) -> Figures:
    """torch.distributed.checkpoint.save and load."""
    from torch.distributed import checkpoint

    state = _state(_engine(config, vocab_size))

    def save(path: Path) -> None:
        checkpoint.save(state, storage_writer=checkpoint.FileSystemWriter(path))

    return _plain(save, lambda path: checkpoint.load(state, checkpoint_id=path), directory)


def dcp_async(config: Any, vocab_size: int, directory: Path) -> Figures:
    """torch.distributed.checkpoint.async_save, which keeps its copy of the state from save to save."""
    import torch
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

    state = _state(_engine(config, vocab_size))
    cuda = torch.cuda.is_available()
    # its defaults ask for CUDA
    options = StagingOptions(cuda, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=cuda)
    stager = DefaultStager(options)
    stall_s = 0.0

    def save(path: Path) -> None:
        nonlocal stall_s
        started = time.perf_counter()
        saved = checkpoint.async_save(state, storage_writer=checkpoint.FileSystemWriter(path), async_stager=stager)
        stall_s = time.perf_counter() - started
        saved.result()

    figures = _plain(save, lambda path: checkpoint.load(state, checkpoint_id=path), directory)
    figures.stall_s = stall_s
    return figures


def measure_rates(size_bytes: int, directory: Path) -> Rates:
    """What copying, hashing, writing and reading `size_bytes` takes here, each by itself."""
    import hashlib

    import torch

    memory = mmap.mmap(-1, size_bytes)  # from an address that is a multiple of a page, as writing past the cache needs
    copy = torch.frombuffer(memory, dtype=torch.float32)
    source = torch.rand_like(copy)
    copy.copy_(source)
    copy_s = _time(lambda: copy.copy_(source))
    sha256_s = _time(lambda: hashlib.sha256(memory).digest())

    def write(flags: int) -> None:
        descriptor = os.open(directory / "raw", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | flags)
        position = 0
        while position < size_bytes:
            position += os.write(descriptor, memoryview(memory)[position : position + CHUNK_BYTES])
        os.fsync(descriptor)
        os.close(descriptor)

    def read() -> None:
        with (directory / "raw").open("rb", buffering=0) as file:
            position = 0
            while count := file.readinto(memoryview(memory)[position : position + CHUNK_BYTES]):
                position += count

    through_cache_s, direct_s = _time(lambda: write(0)), _time(lambda: write(os.O_DIRECT))
    _forget(directory)
    read_s = _time(read)
    return Rates(*(size_bytes / seconds for seconds in (copy_s, sha256_s, through_cache_s, direct_s, read_s)))


def _plain(save: Callable[[Path], None], load: Callable[[Path], None], directory: Path) -> Figures:
    with _own_memory() as memory:
        save(directory / "1")
        save_s = _time(lambda: save(directory / "2"))
    _forget(directory / "2")
    with _own_memory() as load_memory:
        load_s = _time(lambda: load(directory / "2"))
    size_bytes = sum(path.stat().st_size for path in (directory / "2").iterdir())
    return Figures(size_bytes, save_s, save_s, memory[0], load_s, load_memory[0])


def _engine(config: Any, vocab_size: int) -> Any:
    """A model with weights and moments that are no zeros."""
    import torch

    from pipeline.checkpoint.fragments import fragments_of
    from pipeline.checkpoint.meta import MOMENTS
    from pipeline.distributed.parallel import initialize
    from pipeline.engine import Engine
    from pipeline.model import build_model

    parallel = initialize()
    model = build_model(config.model, vocab_size, seed=1).to(parallel.device)
    engine = Engine(model, config, parallel, 1)
    torch.manual_seed(0)
    for fragment in fragments_of(engine):
        for kind in MOMENTS:
            fragment.state[kind].uniform_(0, 1e-4)
    return engine


def _state(engine: Any) -> dict[str, Any]:
    """The same tensors under plain names."""
    from pipeline.checkpoint.fragments import fragments_of

    return {f"{kind}/{f.name}": tensor for f in fragments_of(engine) for kind, tensor in f.state.items()}


def _meta(engine: Any, config: Any, step: int, vocab_size: int) -> Any:
    from pipeline.checkpoint.meta import CheckpointMeta, CorpusIdentity, ParameterInfo, Progress, Randomness, Topology

    return CheckpointMeta(
        progress=Progress(step=step),
        optimizer_steps=step,
        loss=None,
        topology=Topology(world_size=1, tensor_parallel_size=1, data_parallel_size=1, zero_stage=0, precision="fp32"),
        corpus=CorpusIdentity(parts=(), tokenizer_sha256="", vocab_size=vocab_size, sequence_length=1),
        randomness=Randomness(seed=1, data_seed=1),
        config=config.model_dump(mode="json"),
        versions={},
        wandb_run_id=None,
        parameters={
            name: ParameterInfo(shape=tuple(layout.full_shape), partition_dim=layout.partition_dim)
            for name, layout in engine.layout.items()
        },
        files={},
    )


def _time(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _flush(directory: Path) -> None:
    for path in (*directory.iterdir(), directory):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _forget(directory: Path) -> None:
    """Have the system drop what it caches of these files, so that they are read from the disk."""
    for path in directory.iterdir():
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


@contextmanager
def _own_memory() -> Iterator[list[int]]:
    """The growth of this process's own memory (not of mapped files) at its highest, in bytes, as the list's entry."""
    ended, highest = threading.Event(), [0]
    before = _anonymous_bytes()

    def watch() -> None:
        while not ended.wait(MEMORY_POLL_S):
            highest[0] = max(highest[0], _anonymous_bytes() - before)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield highest
    finally:
        ended.set()
        thread.join()


def _anonymous_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(("RssAnon", "RssShmem")))


def take_turn(contender: Callable[..., Any], directory: Path, *arguments: Any) -> Any:
    """Call `contender(*arguments, directory)` with a directory of its own, which is gone afterwards."""
    directory.mkdir()
    try:
        return contender(*arguments, directory)
    finally:
        shutil.rmtree(directory)
        os.sync()
