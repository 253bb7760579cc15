"""Run a command and measure all of its processes together: wall time, processor time, and the largest one's memory.

Linux only: the measuring process adopts whatever the command leaves behind, so that no process' time is lost.
"""

import ctypes
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

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
    # a small fresh interpreter in between: a process counts the memory of the one that started it as its own
    between = [sys.executable, "-S", __file__, *command]
    done = subprocess.run(between, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: it could not be measured")
    code, *result = json.loads(done.stdout)
    measured = Measured(*result)
    if code:
        lines = "\n".join(measured.output.splitlines()[-15:])
        raise RuntimeError(f"{' '.join(command)} ended with exit code {code}:\n{lines}")
    return measured


def _main() -> None:
    """Run the command in this process' arguments and print its exit code and the values of `Measured` as JSON."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    started = time.monotonic()
    command = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    wall_s = time.monotonic() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = [command.returncode, wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, command.stdout]
    print(json.dumps(result))


if __name__ == "__main__":
    _main()
