"""What every rendered script has to pass: it is the reviewed copy, bash parses it, and shellcheck finds nothing."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


def assert_reviewed(name: str, script: str) -> None:
    """The script is the copy in golden/; UPDATE_GOLDEN=1 makes it so."""
    golden = GOLDEN / f"{name}.sbatch"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(script)
    assert script == golden.read_text(), "when the change is meant: UPDATE_GOLDEN=1 pytest tests/slurm"


def assert_bash_parses(script: str) -> None:
    """`bash -n` has nothing to say."""
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def assert_shellcheck_finds_nothing(script: str) -> None:
    """Skips, saying so, where there is no shellcheck."""
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck, which `make` installs into .venv")
    # SC1091: the user's own set-up line sources a file that is not here; SC2016: a $ in a quoted value is meant
    command = ["shellcheck", "--exclude=SC1091,SC2016", "-"]
    done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
