"""`foreword train CONFIG --processes N`: N copies of the command on this machine, as one.

Like torchrun for one machine, but signals and exit codes pass through: SIGTERM, SIGINT and SIGUSR1 reach every process,
all of them may take the time they need to save, and the common exit code is returned, so that 75 stays 75.
"""

import os
import signal
import subprocess
import sys
import time
from types import FrameType

from pipeline.distributed.placement import free_port
from pipeline.stop import STOP_SIGNALS

POLL_INTERVAL_S = 0.1
GRACE_S = 30.0  # after one process has died, the others may notice by themselves for so long


def launch(arguments: list[str], processes: int) -> int:
    """Run `foreword <arguments>` in `processes` processes and wait for all.

    Returns:
        The exit code: of the first process that failed, or else the common one.
    """
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    if "OMP_NUM_THREADS" not in os.environ:
        shared["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // processes))
    command = [sys.executable, "-m", "foreword", *arguments]
    children: list[subprocess.Popen] = []

    def forward(number: int, frame: FrameType | None) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in STOP_SIGNALS}
    try:
        for rank in range(processes):
            environment = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            # a session of its own: Ctrl-C on the terminal reaches the children once, through us
            children.append(subprocess.Popen(command, env=environment, start_new_session=True))
        return _wait(children)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _wait(children: list[subprocess.Popen]) -> int:
    failed: int | None = None
    deadline = float("inf")
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        codes = [child.poll() for child in children]
        first = next((code for code in codes if code), None)
        if failed is None and first is not None:
            failed = first
            deadline = time.monotonic() + GRACE_S
        time.sleep(POLL_INTERVAL_S)
    if failed is None:
        failed = next((child.returncode for child in children if child.returncode), 0)
    return failed if failed >= 0 else 128 - failed
