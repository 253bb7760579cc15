"""`foreword train CONFIG --processes N`: N copies of the command on this machine, as one.

Like torchrun for one machine, but signals and exit codes pass through: a stop signal reaches every process, all of them
may take the time they need to save, and the common exit code is returned, so that 75 stays 75.

The processes meet at a socket that the launcher has opened and rank 0 inherits, so nobody can take the port in between.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from types import FrameType

from foreword.console import warn
from foreword.errors import EXIT_HUNG
from pipeline.distributed.placement import LISTENING_FD, PLANNED_WORLD_SIZE
from pipeline.run.stop import stop_signals

POLL_INTERVAL_S = 0.1
GRACE_S = 30.0  # after one process has died, the others may notice by themselves for so long
GRACE_AFTER_HANG_S = 5.0  # after a watchdog has ended one, only those are left that cannot end by themselves


def launch(arguments: list[str], processes: int) -> int:
    """Run `foreword <arguments>` in `processes` processes and wait for all.

    Returns:
        The exit code: of the first process that failed, or else the common one.
    """
    meeting = socket.create_server(("127.0.0.1", 0), backlog=processes)
    address, port = meeting.getsockname()
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": address, "MASTER_PORT": str(port)}
    shared[PLANNED_WORLD_SIZE] = str(processes)
    if "OMP_NUM_THREADS" not in os.environ:
        shared["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // processes))
    command = [sys.executable, "-m", "foreword", *arguments]
    children: list[subprocess.Popen] = []

    def forward(number: int, frame: FrameType | None) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in stop_signals()}
    try:
        for rank in range(processes):
            environment = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            inherited = [meeting.fileno()] if rank == 0 else []
            if rank == 0:
                environment[LISTENING_FD] = str(meeting.fileno())
            # a session of its own: Ctrl-C on the terminal reaches the children once, through us
            children.append(subprocess.Popen(command, env=environment, start_new_session=True, pass_fds=inherited))
        meeting.close()  # rank 0 has it; without rank 0 the others shall be refused, not wait
        return _wait(children)
    finally:
        meeting.close()
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _wait(children: list[subprocess.Popen]) -> int:
    failed_rank: int | None = None
    deadline = float("inf")
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL_S)
        if failed_rank is None and (failed_rank := _first_failed(children)) is not None:
            hung = children[failed_rank].returncode == EXIT_HUNG
            deadline = time.monotonic() + (GRACE_AFTER_HANG_S if hung else GRACE_S)
    if failed_rank is None and (failed_rank := _first_failed(children)) is None:
        return 0
    code = children[failed_rank].returncode
    if code > 0:
        return code
    # said last, because the others end with long complaints about a lost connection
    name = signal.Signals(-code).name
    warn(f"rank {failed_rank} was ended by {name}{' (out of memory?)' if -code == signal.SIGKILL else ''}")
    return 128 - code


def _first_failed(children: list[subprocess.Popen]) -> int | None:
    return next((rank for rank, child in enumerate(children) if child.poll()), None)
