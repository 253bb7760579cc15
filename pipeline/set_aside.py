"""What a run goes back behind is set aside, never deleted: into RUN/set_aside/001, 002, ...

Each of them looks like a run itself (checkpoints/, metrics.jsonl, tokenizer/), so `inspect`, `eval`, `report` and
`export` read it as it is. Removing it is up to the user.
"""

import json
import shutil
from pathlib import Path

from foreword.files import atomic_write
from pipeline.checkpoint.find import CHECKPOINTS, all_checkpoints
from pipeline.telemetry.metrics import METRICS_NAME

DIRECTORY = "set_aside"
# what belongs to the directory rather than to the run in it: scripts and logs of jobs, of which one may be running now;
# names that begin with a dot (locks, temporary files) stay as well
STAYS = {DIRECTORY, "slurm"}


def set_aside_run(run_dir: Path) -> Path | None:
    """Move everything that a run has left in `run_dir` out of the way; returns where to, None when there was nothing.

    Raises:
        OSError: something cannot be moved.
    """
    things = sorted(path for path in run_dir.iterdir() if path.name not in STAYS and not path.name.startswith("."))
    if not things:
        return None
    aside = _next_directory(run_dir)
    for path in things:
        path.replace(aside / path.name)
    return aside


def set_aside_later(run_dir: Path, step: int) -> Path | None:
    """Move the checkpoints and the metrics behind `step` out of the way; returns where to, None when there were none.

    The newest checkpoint goes first, so that a run which is killed in between is that of some earlier time.

    Raises:
        OSError: something cannot be moved.
    """
    checkpoints = [path for number, path in all_checkpoints(run_dir) if number > step]
    kept, later = _split_metrics(run_dir / METRICS_NAME, step)
    if not checkpoints and not later:
        return None
    aside = _next_directory(run_dir)
    if (run_dir / "tokenizer").is_dir():
        shutil.copytree(run_dir / "tokenizer", aside / "tokenizer")
    (aside / CHECKPOINTS).mkdir()
    for path in reversed(checkpoints):
        path.replace(aside / CHECKPOINTS / path.name)
    if later:
        for directory, lines in ((aside, later), (run_dir, kept)):
            with atomic_write(directory / METRICS_NAME) as file:
                file.writelines(lines)
    return aside


def _split_metrics(path: Path, step: int) -> tuple[list[bytes], list[bytes]]:
    """The lines of metrics.jsonl up to `step`, and those behind it with the ones that are no whole records."""
    kept: list[bytes] = []
    later: list[bytes] = []
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for line in lines:
        (kept if _step_of(line) <= step else later).append(line)
    return kept, later


def _step_of(line: bytes) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return float("inf")


def _next_directory(run_dir: Path) -> Path:
    (run_dir / DIRECTORY).mkdir(exist_ok=True)
    taken = [int(path.name) for path in (run_dir / DIRECTORY).iterdir() if path.name.isdecimal()]
    directory = run_dir / DIRECTORY / f"{max(taken, default=0) + 1:03d}"
    directory.mkdir()
    return directory
