"""Slurm's clients, played by one small program: it notes what it is told, and answers what a test has laid out."""

import os
from pathlib import Path

import pytest

from slurm.clients import SEPARATOR

PROGRAM = """#!/bin/bash
name=${0##*/}
{ printf '%s' "$name"; printf '\\t%s' "$@"; echo; } >> "$FAKE_SLURM/asked"
if [ -e "$FAKE_SLURM/$name.refuses" ]; then cat "$FAKE_SLURM/$name.refuses" >&2; exit 1; fi
if [ "$name" = sbatch ]; then
    count=$(cat "$FAKE_SLURM/count" 2>/dev/null || echo 11)
    if [ "$count" = "$(cat "$FAKE_SLURM/last" 2>/dev/null)" ]; then
        echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2
        exit 1
    fi
    echo $((count + 1)) | tee "$FAKE_SLURM/count"
elif [ "$name" = squeue ] && [[ " $* " == *" --steps "* ]]; then
    cat "$FAKE_SLURM/steps" 2>/dev/null
else
    cat "$FAKE_SLURM/$name" 2>/dev/null
fi
exit 0
"""
CLIENTS = ("sbatch", "squeue", "scancel", "scontrol", "sacct")


class FakeSlurm:
    """What the clients are told and what they answer; jobs get the numbers 12, 13, ..."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def asked(self, client: str) -> list[list[str]]:
        """The words of each call of a client."""
        told = self.directory / "asked"
        lines = [line.split("\t") for line in told.read_text().splitlines()] if told.exists() else []
        return [words[1:] for words in lines if words[0] == client]

    def refuse_after(self, count: int) -> None:
        """Let sbatch take so many jobs and no more."""
        (self.directory / "last").write_text(str(11 + count))

    def refuse(self, client: str, words: str) -> None:
        """Let a client refuse everything in these words."""
        (self.directory / f"{client}.refuses").write_text(words + "\n")

    def show(self, *jobs: tuple[str, str], steps: str = "", **fields: str) -> None:
        """Let squeue show jobs, each a number and a state; `fields` are the same for all."""
        lines = []
        for number, state in jobs:
            values = {"reason": "None", "running": "1:00", "left": "59:00", "start": "N/A", "nodes": "", "name": "x"}
            values |= {"comment": ""} | fields
            lines.append(SEPARATOR.join([number, state, *values.values()]))
        (self.directory / "squeue").write_text("".join(line + "\n" for line in lines))
        (self.directory / "steps").write_text(steps)

    def remember(self, *jobs: tuple[str, str, str]) -> None:
        """Let sacct show jobs, each a number, a state and an exit code like 1:0."""
        (self.directory / "sacct").write_text("".join(SEPARATOR.join(job) + "\n" for job in jobs))


def install(directory: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Put the clients in front of the PATH."""
    programs = directory / "bin"
    programs.mkdir(parents=True)
    for name in CLIENTS:
        (programs / name).write_text(PROGRAM)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(directory))
    return FakeSlurm(directory)
