"""`foreword job` as the scripts call it."""

import os
import subprocess
import sys
from pathlib import Path

from tiny_checkpoint import make_checkpoint
from training import train_config

LIMITS = ("--max-restarts=9", "--max-failures=9", "--delay-s=60")
ENVIRONMENT = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]"}
# the command, and then whether torch was imported for it
PROGRAM = """
import sys
from foreword.cli import main
try:
    main()
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""


def call(*words: object) -> tuple[str, str]:
    """Standard output, and the last line of standard error."""
    command = [sys.executable, "-c", PROGRAM, *map(str, words)]
    environment = os.environ | ENVIRONMENT
    done = subprocess.run(
        command, input="n1 idle\nn2 idle\n", env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout, done.stderr.splitlines()[-1]


def test_what_is_asked_on_the_nodes_and_of_a_run_does_not_wait_for_torch(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, 40, config=train_config(tmp_path, tmp_path))
    assert call("job", "begin", tmp_path, *LIMITS) == ("", "False")
    assert call("status", tmp_path)[1] == "False"
    state = "JobId=7 JobState=RUNNING Requeue=1 Restarts=0"
    answer = call("job", "end", tmp_path, "--exit-code=75", f"--state={state}", *LIMITS)
    assert answer == ("requeue\n", "False")
