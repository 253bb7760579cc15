"""What each rank was last seen doing: RUN/.lease/000012/heartbeats/00003, a line of JSON of fixed length.

Each rank writes its own file every few seconds, from a thread, without a word to the others; nobody reads the files
while all is well. A thousand ranks that beat every 10 s make a hundred writes of 512 bytes a second, each with an open
and a close, which is what makes other machines see it (NFS) and costs a metadata server two requests (Lustre).

The directory belongs to one start of the run: once another start has taken over it is gone, and nothing recreates it.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

DIRECTORY = "heartbeats"
SIZE_BYTES = 512


@dataclass(frozen=True)
class Heartbeat:
    """What a rank says of itself.

    Attributes:
        host: Slurm's name of the node, where there is one.
        step: optimizer steps it has taken.
        part: of its time, see `telemetry.clock`.
        moves: how often it has gone over from one part to another, or from one micro-batch to the next, since then.
            Ranks do that together, so a rank with fewer moves than the others is behind them.
        stuck_s: since its last move.
        beats: heartbeats so far.
        time: of the heartbeat, in seconds since the epoch by this machine's clock; for a person only.
    """

    rank: int
    host: str
    process: int
    step: int
    part: str
    moves: int
    stuck_s: float
    beats: int
    time: float

    @property
    def place(self) -> tuple[int, int]:
        """How far it is in what all ranks go through."""
        return self.step, self.moves


def write_heartbeat(directory: Path, heartbeat: Heartbeat) -> None:
    """Replace a rank's heartbeat, in one write.

    Raises:
        OSError: the directory is gone, or the file system refuses.
    """
    line = json.dumps(asdict(heartbeat)).encode()
    descriptor = os.open(directory / f"{heartbeat.rank:05d}", os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        os.pwrite(descriptor, line.ljust(SIZE_BYTES - 1)[: SIZE_BYTES - 1] + b"\n", 0)
    finally:
        os.close(descriptor)


def read_heartbeats(directory: Path) -> dict[int, Heartbeat]:
    """Rank -> its last heartbeat; ranks that have none, or none that can be read, are left out."""
    heartbeats = {}
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        try:
            heartbeat = Heartbeat(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            continue
        heartbeats[heartbeat.rank] = heartbeat
    return heartbeats
