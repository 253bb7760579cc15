"""Rendered scripts run by bash; Slurm's commands, and Foreword, are small programs that note what they are told."""

import os
import subprocess
from pathlib import Path

from hypothesis import strategies as st

JOB = {
    "SLURM_JOB_ID": "123456",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_JOB_NODELIST": "node[1-2]",
    "SLURM_JOB_PARTITION": "gpu",
}
# the tasks of a preflight find nothing
SRUN = """#!/bin/bash
if [[ " $* " == *" job look "* ]]; then echo "srun look" >> "$RECORD/calls"; exit 0; fi
echo "srun" >> "$RECORD/calls"
printf '%s\\0' "$@" > "$RECORD/arguments"
env -0 > "$RECORD/environment"
[ -z "${TERM_FROM_SLURM:-}" ] || kill -TERM "$PPID"
exit "$TRAINING_EXITS_WITH"
"""
SCONTROL = """#!/bin/bash
echo "$*" >> "$RECORD/scontrol"
echo "scontrol $*" >> "$RECORD/calls"
case "$1 $2" in
"show job")
    if [ "$(grep -c sleep "$RECORD/calls")" -lt "${SILENT_FOR:-0}" ]; then exit 1; fi
    echo "${STATE-JobId=123456 JobState=RUNNING Requeue=${REQUEUE:-1} Restarts=0}" ;;
show*) printf 'node1\\nnode2\\n' ;;
requeue*) exit "${REQUEUE_EXITS_WITH:-0}" ;;
esac
"""
SLEEP = """#!/bin/bash
echo "sleep $*" >> "$RECORD/calls"
"""
SCANCEL = """#!/bin/bash
echo "scancel $*" >> "$RECORD/calls"
"""
SINFO = """#!/bin/bash
printf 'node1 idle (null)\\nnode2 idle (null)\\n'
"""
# stands for the words that start Foreword; the first word that follows belongs to them, so that tests can vary it
FOREWORD = """#!/bin/bash
shift
echo "foreword $*" >> "$RECORD/calls"
case $2 in
begin) cat > "$RECORD/nodes"; exit "${BEGIN_EXITS_WITH:-0}" ;;
port) echo "${PORT:-40404}" ;;
preflight) cat > /dev/null; exit "${PREFLIGHT_EXITS_WITH:-0}" ;;
end) cat > /dev/null; echo "${ANSWER:-end}"; exit "${END_EXITS_WITH:-0}" ;;
esac
"""
PROGRAMS = {
    "srun": SRUN,
    "scontrol": SCONTROL,
    "scancel": SCANCEL,
    "sinfo": SINFO,
    "sleep": SLEEP,
    "played-foreword": FOREWORD,
}
# what a POSIX argument or an environment variable can hold
ARGUMENT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
TRICKY = 'it\'s a "name"; touch broken\n$(touch broken) `touch broken` ${HOME} \\ %j %% ü→𝄞 #'
# what can stand on an #SBATCH line
LINE = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1)
TRICKY_LINE = 'it\'s a "name"; touch broken $(touch broken) `touch broken` ${HOME} %j %% ü→𝄞 #'


class Played:
    """What the played job did."""

    def __init__(self, directory: Path, done: subprocess.CompletedProcess[str]) -> None:
        self.directory, self.exit_code, self.output = directory, done.returncode, done.stdout + done.stderr

    @property
    def srun_arguments(self) -> list[str]:
        return (self.directory / "arguments").read_bytes().decode().split("\0")[:-1]

    @property
    def environment(self) -> dict[str, str]:
        lines = (self.directory / "environment").read_bytes().decode().split("\0")[:-1]
        return dict(line.split("=", 1) for line in lines)

    @property
    def calls(self) -> list[str]:
        """The commands that were called, in order."""
        told = self.directory / "calls"
        return told.read_text().splitlines() if told.exists() else []

    @property
    def requeued(self) -> bool:
        return self.was_requeued("123456")

    def was_requeued(self, job_id: str) -> bool:
        told = self.directory / "scontrol"
        return told.exists() and f"requeue {job_id}" in told.read_text().splitlines()


def play(directory: Path, script: str, exits_with: int = 0, **environment: str) -> Played:
    """Run a script as the job `JOB`, whose processes exit with `exits_with`."""
    programs = directory / "bin"
    programs.mkdir(exist_ok=True)
    for name, program in PROGRAMS.items():
        (programs / name).write_text(program)
        (programs / name).chmod(0o755)
    for record in ("scontrol", "calls"):
        (directory / record).unlink(missing_ok=True)
    variables = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": "/nonexistent", "RECORD": str(directory)}
    done = subprocess.run(
        ["bash"],
        input=script,
        env=variables | JOB | {"TRAINING_EXITS_WITH": str(exits_with)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return Played(directory, done)


def sbatch_values(script: str) -> dict[str, str]:
    """Options and values of the `#SBATCH` lines, read as sbatch reads them: quotes and backslashes, but no shell."""
    values = {}
    for line in script.split("\n"):
        if not line.startswith("#SBATCH --"):
            continue
        option, _, rest = line.removeprefix("#SBATCH --").partition("=")
        values[option] = _unquoted(rest)
    return values


def _unquoted(text: str) -> str:
    out, at, quoted = [], 0, False
    while at < len(text):
        character = text[at]
        if character == '"':
            quoted = not quoted
        elif character == "\\":
            at += 1
            out.append(text[at])
        elif character in " #" and not quoted:
            break
        else:
            out.append(character)
        at += 1
    return "".join(out)
