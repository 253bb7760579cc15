"""Rendered scripts run by bash, with `srun` and `scontrol` played by small programs that note what they are told."""

import os
import subprocess
from pathlib import Path

from hypothesis import strategies as st

JOB = {"SLURM_JOB_ID": "123456", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[1-2]"}
SRUN = """#!/bin/bash
printf '%s\\0' "$@" > "$RECORD/arguments"
env -0 > "$RECORD/environment"
exit "$TRAINING_EXITS_WITH"
"""
SCONTROL = """#!/bin/bash
echo "$*" >> "$RECORD/scontrol"
case "$1 $2" in
"show job") echo "JobId=$3 JobState=RUNNING Requeue=${REQUEUE:-1} Restarts=0" ;;
show*) printf 'node1\\nnode2\\n' ;;
requeue*) exit "${REQUEUE_EXITS_WITH:-0}" ;;
esac
"""
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
    def requeued(self) -> bool:
        return self.was_requeued("123456")

    def was_requeued(self, job_id: str) -> bool:
        told = self.directory / "scontrol"
        return told.exists() and f"requeue {job_id}" in told.read_text().splitlines()


def play(directory: Path, script: str, exits_with: int = 0, **environment: str) -> Played:
    """Run a script as the job `JOB`, whose processes exit with `exits_with`."""
    programs = directory / "bin"
    programs.mkdir(exist_ok=True)
    for name, program in (("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(program)
        (programs / name).chmod(0o755)
    (directory / "scontrol").unlink(missing_ok=True)
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
