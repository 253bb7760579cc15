"""The command line as a user meets it: quick help, one message for a mistake, the promised exit codes."""

import subprocess
import sys

import pytest

from foreword.cli import COMMANDS

HEAVY = ("torch", "deepspeed", "megatron", "pyarrow", "datasets", "numpy", "pydantic", "omegaconf", "rich", "wandb")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "foreword", *arguments], capture_output=True, text=True, check=False)


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from foreword.cli import main\n"
        "sys.argv = ['foreword', '--help']\n"
        "try:\n    main()\n"
        f"finally:\n    print(','.join(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout
    assert done.stderr == ""


def test_the_version_is_printed() -> None:
    assert run("--version").stdout.startswith("foreword, version ")


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        (("trian",), 2),
        (("train", "nowhere.yaml"), 2),
        (("prep", "nowhere.yaml"), 2),
        (("tokenizer", "train", "nowhere.yaml"), 2),
        (("submit", "train", "nowhere.yaml", "--cluster", "nowhere.yaml"), 2),
        (("submit", "train", "nowhere.yaml"), 2),
        (("submit", "prep", "nowhere.yaml", "--cluster", "nowhere.yaml", "--tasks", "2"), 2),
        (("status", "nowhere"), 2),
        (("logs", "nowhere"), 2),
        (("cancel", "nowhere"), 2),
        (("doctor", "--cure"), 2),
        (("verify", "nowhere"), 2),
        (("inspect", "nowhere"), 2),
        (("eval", "nowhere", "--data", "nowhere"), 3),
        (("generate", "nowhere", "--prompt", "x"), 3),
    ],
)
def test_a_users_mistake_gives_a_message_and_its_exit_code(arguments: tuple[str, ...], exit_code: int) -> None:
    done = run(*arguments)
    assert done.returncode == exit_code, done.stderr
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
