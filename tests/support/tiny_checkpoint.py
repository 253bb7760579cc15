"""Complete checkpoints of a few small tensors, written without an engine."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from foreword.files import sha256_of
from pipeline.checkpoint.find import step_directory
from pipeline.checkpoint.meta import (
    KINDS,
    CheckpointMeta,
    CorpusIdentity,
    FileEntry,
    FragmentRange,
    ParameterInfo,
    Progress,
    Randomness,
    Topology,
    write_meta,
)
from pipeline.config.train import TrainConfig

Parameters = dict[str, tuple[tuple[int, ...], int | None]]
# name -> full shape and the dimension that tensor parallelism cuts
PARAMETERS: Parameters = {
    "wte.weight": ((8, 6), 0),
    "up.weight": ((12, 6), 0),
    "down.weight": ((6, 12), 1),
    "ln.bias": ((6,), None),
}


def make_checkpoint(
    run_dir: Path,
    step: int,
    *,
    config: TrainConfig,
    tensor_parallel_size: int = 1,
    validation_loss: float | None = None,
    seed: int = 0,
    parameters: Parameters = PARAMETERS,
    vocab_size: int = 97,
    tokenizer_sha256: str = "t",
    corpus: CorpusIdentity | None = None,
) -> Path:
    """Write `run_dir`/checkpoints/step_...: random tensors that depend on `seed` alone, however they are cut."""
    directory = step_directory(run_dir, step)
    directory.mkdir(parents=True)
    files = {}
    for rank in range(tensor_parallel_size):
        tensors, fragments = {}, {}
        for name, (_, dim) in parameters.items():
            if dim is None and rank > 0:
                continue
            for kind in KINDS:
                full = logical_tensor(name, kind, seed, parameters)
                part = full if dim is None else full.chunk(tensor_parallel_size, dim=dim)[rank]
                tensors[f"{kind}/{name}"] = part.reshape(-1).clone()
            fragments[name] = FragmentRange(start=0, numel=tensors[f"{KINDS[0]}/{name}"].numel())
        path = directory / f"tp_{rank:02d}_dp_000.safetensors"
        save_file(tensors, path)
        files[path.name] = FileEntry(
            size=path.stat().st_size, sha256=sha256_of(path), tensor_parallel_rank=rank, fragments=fragments
        )
    meta = CheckpointMeta(
        progress=Progress(step=step, samples_consumed=8 * step),
        optimizer_steps=step,
        loss=1.0,
        validation_loss=validation_loss,
        topology=Topology(
            world_size=tensor_parallel_size,
            tensor_parallel_size=tensor_parallel_size,
            data_parallel_size=1,
            zero_stage=1,
            precision="fp32",
        ),
        corpus=corpus
        or CorpusIdentity(parts=(), tokenizer_sha256=tokenizer_sha256, vocab_size=vocab_size, sequence_length=32),
        randomness=Randomness(seed=config.seed, data_seed=config.data.seed),
        config=config.model_dump(mode="json"),
        versions={},
        wandb_run_id=None,
        parameters={name: ParameterInfo(shape=shape, partition_dim=dim) for name, (shape, dim) in parameters.items()},
        files=files,
    )
    write_meta(directory, meta)
    return directory


def logical_tensor(name: str, kind: str, seed: int = 0, parameters: Parameters = PARAMETERS) -> torch.Tensor:
    """What `make_checkpoint` stores: fp32 of the parameter's full shape."""
    generator = torch.Generator().manual_seed(sum(map(ord, name + kind)) * 1000 + seed)
    return torch.randn(parameters[name][0], generator=generator)
