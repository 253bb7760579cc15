"""What the headers of a checkpoint's files hold, held against foreword.json; without torch."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from pipeline.checkpoint.meta import KINDS, META_NAME, CheckpointMeta


def header_problems(checkpoint: Path, meta: CheckpointMeta) -> list[str]:
    """What is wrong with the headers of a checkpoint's files, one line per file, without reading what is behind them.

    A file of the right size may still hold something else than foreword.json says; this finds it before any of it is
    used, unless the tensors' own bytes were changed.
    """
    problems = []
    for file_name, entry in meta.files.items():
        expected = {f"{kind}/{name}": [part.numel] for name, part in entry.fragments.items() for kind in KINDS}
        path = checkpoint / file_name
        try:
            with safe_open(path, framework="numpy") as file:
                tensors = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - no dictionary
                found = {key: tensor.get_shape() for key, tensor in tensors.items() if tensor.get_dtype() == "F32"}
        except (OSError, SafetensorError) as error:
            problems.append(f"{path}: {error}")
            continue
        if found != expected:
            problems.append(f"{path}: its tensors are not those that {META_NAME} lists")
    return problems
