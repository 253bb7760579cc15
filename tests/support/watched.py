"""Training that tells of each thing it does to the files of its run, right before it does it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir", "shutil.rmtree")
PIECE_BYTES = 2**16  # in which a rank's file of a checkpoint is written


def train_watched(config: Any, start: Any, tell: Callable[[str, str], None], among: str = "") -> None:
    """Train in this process, which does nothing else afterwards.

    Args:
        config, start: as for `pipeline.train.train`.
        tell: hears, in the thread that does it, the name of the operation and the path. Names are those of Python's
            audit events, "write" for a piece of a checkpoint's file, and "record" for a line of metrics.jsonl.
        among: the part of the run directory that it hears of.
    """
    import pipeline.checkpoint.write as write
    from pipeline.train import train

    watched = str(config.run_dir / among)

    def hook(event: str, arguments: tuple) -> None:
        if event in OPERATIONS and arguments and str(arguments[0]).startswith(watched):
            tell(event, str(arguments[0]))

    def write_some(descriptor: int, piece: memoryview) -> int:
        tell("write", str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        return real_write_some(descriptor, piece)

    def dumps(value: Any, *args: Any, **keywords: Any) -> str:
        if not among and isinstance(value, dict) and {"step", "time"} <= value.keys():
            tell("record", str(config.run_dir / "metrics.jsonl"))
        return real_dumps(value, *args, **keywords)

    write.CHUNK_BYTES = PIECE_BYTES
    real_write_some, write._write_some = write._write_some, write_some
    real_dumps, json.dumps = json.dumps, dumps
    sys.addaudithook(hook)
    train(config, start)
