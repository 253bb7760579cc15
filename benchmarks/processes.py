"""Run a command and measure all of its processes together: wall time, processor time, and the largest one's memory.

Linux only: the measuring process adopts whatever the command leaves behind, so that no process' time is lost.
"""

import ctypes
import os
import resource
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection

_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Measured:
    """What a command took.

    Attributes:
        wall_s: from its start to the end of its last process.
        cpu_s: user and system time of all its processes.
        peak_bytes: resident memory of its largest process at its highest.
        output: its standard output.
    """

    wall_s: float
    cpu_s: float
    peak_bytes: int
    output: str


def measure(command: Sequence[str], environment: dict[str, str] | None = None) -> Measured:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed; its last lines are in the message.
    """
    context = get_context("spawn")  # a small fresh process: a fork would begin with this one's memory
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(list(command), {**os.environ, **(environment or {})}, sending))
    process.start()
    sending.close()
    try:
        result = receiving.recv()
    except EOFError:
        raise RuntimeError(f"{command[0]}: the measuring process ended early") from None
    finally:
        process.join()
    if isinstance(result, str):
        raise RuntimeError(result)
    return result


def _run(command: list[str], environment: dict[str, str], sending: Connection) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    started = time.monotonic()
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        output, _ = process.communicate()
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    wall_s = time.monotonic() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        lines = "\n".join(output.splitlines()[-15:])
        sending.send(f"{' '.join(command)} ended with exit code {process.returncode}:\n{lines}")
        return
    sending.send(Measured(wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, output))
