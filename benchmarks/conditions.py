"""What a figure comes with: the machine, its load, the versions. And what a benchmark says while it runs."""

import importlib.metadata
import os
import platform
import sys
import time
from pathlib import Path


def conditions(uses: str, *packages: str) -> str:
    """Date, processor, what of it is used, load; Python and the versions of `packages`: two lines."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    processor = names[0].split(":")[1].strip() if names else platform.machine()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return (
        f"{time.strftime('%Y-%m-%d')}, {len(os.sched_getaffinity(0))} cores of {processor}, {uses}, "
        f"load {os.getloadavg()[0]:.1f} at the start\nPython {platform.python_version()}, {versions}"
    )


def say(message: str) -> None:
    """To standard error, apart from the table."""
    print(f"bench: {message}", file=sys.stderr, flush=True)
