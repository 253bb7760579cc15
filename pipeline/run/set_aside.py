"""What a run goes back behind is set aside, never deleted: into RUN/set_aside/001, 002, ...

Each of them looks like a run itself (checkpoints/, metrics.jsonl, tokenizer/), so `inspect`, `eval`, `report` and
`export` read it as it is. Removing it is up to the user.

Such a directory is made inside the claim of the start that asks for it (see `lease`), waits as set_aside/.tmp-000012
while things are moved into it, and gets its number last. A start first gives their numbers to those that wait. So a
process that was cut off before or in the middle of this has nowhere left to move the new start's things to.
"""

import json
import shutil
from pathlib import Path

from foreword.errors import ConfigError
from foreword.files import TEMPORARY_PREFIX, atomic_write
from pipeline.checkpoint.find import CHECKPOINTS, all_checkpoints
from pipeline.run.lease import Lease
from pipeline.telemetry.metrics import METRICS_NAME

DIRECTORY = "set_aside"
# what belongs to the directory rather than to the run in it: scripts and logs of jobs, of which one may be running now;
# names that begin with a dot (locks, temporary files) stay as well
STAYS = {DIRECTORY, "slurm"}


def set_aside_run(lease: Lease) -> Path | None:
    """Move everything that a run has left in its directory out of the way; returns where to, None for nothing.

    Symbolic links among it keep pointing where they point.

    Raises:
        OSError: something cannot be moved.
    """
    things = [path for path in sorted(lease.run_dir.iterdir()) if path.name not in STAYS and path.name[0] != "."]
    if not things:
        return None
    aside = _open(lease)
    for path in things:
        if path.is_symlink():
            (aside / path.name).symlink_to(path.resolve())
            path.unlink()
        else:
            path.replace(aside / path.name)
    return _close(aside)


def set_aside_later(lease: Lease, step: int) -> Path | None:
    """Move the checkpoints and the metrics behind `step` out of the way; returns where to, None when there were none.

    The newest checkpoint goes first, so that a run which is killed in between is that of some earlier time.

    Raises:
        OSError: something cannot be moved.
        ConfigError: the checkpoints are on another file system than the run; nothing has been moved.
    """
    run_dir = lease.run_dir
    checkpoints = [path for number, path in all_checkpoints(run_dir) if number > step]
    if checkpoints and checkpoints[0].parent.stat().st_dev != run_dir.stat().st_dev:
        raise ConfigError(
            f"what lies behind step {step} cannot be set aside, because it is on another file system than the run",
            where=run_dir / CHECKPOINTS,
            remedy="move the later checkpoints away yourself and start without --from",
        )
    kept, later = _split_metrics(run_dir / METRICS_NAME, step)
    if not checkpoints and not later:
        return None
    aside = _open(lease)
    if (run_dir / "tokenizer").is_dir():
        shutil.copytree(run_dir / "tokenizer", aside / "tokenizer")
    (aside / CHECKPOINTS).mkdir()
    for path in reversed(checkpoints):
        path.replace(aside / CHECKPOINTS / path.name)
    if later:
        with atomic_write(aside / METRICS_NAME) as file:
            file.writelines(later)
        with lease.write(METRICS_NAME) as file:
            file.writelines(kept)
    return _close(aside)


def number_leftovers(run_dir: Path) -> list[Path]:
    """Give what earlier starts had not finished to set aside its number, and take it away from them; returns it.

    Raises:
        OSError: one of them cannot be renamed.
    """
    return [_close(path) for path in sorted((run_dir / DIRECTORY).glob(f"{TEMPORARY_PREFIX}*"))]


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


def _open(lease: Lease) -> Path:
    all_aside, made = lease.run_dir / DIRECTORY, lease.path / DIRECTORY
    all_aside.mkdir(exist_ok=True)
    made.mkdir()
    return made.replace(all_aside / f"{TEMPORARY_PREFIX}{lease.path.name}")


def _close(aside: Path) -> Path:
    taken = [int(path.name) for path in aside.parent.iterdir() if path.name.isdecimal()]
    return aside.replace(aside.with_name(f"{max(taken, default=0) + 1:03d}"))
