"""A trainer that was cut off from its run, and wakes up when another one has taken it over, changes nothing in it."""

import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from processes import started
from tiny_corpus import make_corpus
from training import curve, train_all, train_config
from watched import train_watched

from foreword.errors import ForewordError
from pipeline.checkpoint.inspect import verify_checkpoint
from pipeline.run.start import Start

SHORT, LONG = 8, 12  # steps
TIMEOUT_S = 120.0
SILENCE_S = 0.5

# what it was about to do when it fell asleep: the start, the operation, the path, and how often it had done so before
PLAIN, FRESH, FROM = Start(), Start(fresh=True), Start(from_step=4)
MOMENTS = {
    "write a piece of a checkpoint": (PLAIN, "write", r"step_\d+/tp_.*", 4),
    "write foreword.json": (PLAIN, "open", r"step_\d+/\.tmp-.*foreword\.json", 1),
    "publish a checkpoint": (PLAIN, "os.rename", r"\.tmp-\d+/step_\d+", 1),
    "remove a checkpoint": (PLAIN, "os.rename", r"checkpoints/step_\d+", 0),
    "write a record": (PLAIN, "record", r"metrics\.jsonl", 5),
    "take metrics.jsonl": (PLAIN, "os.rename", r"\.tmp-.*metrics\.jsonl", 0),
    "write config.yaml": (PLAIN, "os.rename", r"config\.yaml", 0),
    "begin to set the run aside": (FRESH, "os.mkdir", r"\.lease/\d+/set_aside", 0),
    "set the checkpoints aside": (FRESH, "os.rename", r"run/checkpoints", 0),
    "set a later checkpoint aside": (FROM, "os.rename", r"checkpoints/step_\d+", 1),
    "set later records aside": (FROM, "os.rename", r"\.lease/\d+/metrics\.jsonl", 0),
}


def run_config(run_dir: Path, corpus: Path, total_steps: int):
    return train_config(
        run_dir,
        corpus,
        schedule={"kind": "constant", "warmup_steps": 1, "total_steps": total_steps},
        checkpoint={"every_steps": 2, "keep_last": 3, "takeover_after_s": SILENCE_S},
        evaluation__every_steps=None,
    )


def fall_asleep(config, moment: str, note: Path) -> str:
    """Train until the moment has come, and then as ever; returns the error that ended it."""
    start, operation, path, before = MOMENTS[moment]
    left = before

    def tell(event: str, where: str) -> None:
        nonlocal left
        if event == operation and re.search(rf"(^|/){path}$", where):
            left -= 1
            if left == -1:
                note.write_text(where)
                os.kill(os.getpid(), signal.SIGSTOP)

    try:
        train_watched(config, start, tell)
    except ForewordError as error:
        return str(error)
    return "no error"


def state_of(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def files_of(run: Path) -> dict[str, tuple[int, bytes]]:
    """Everything in a run: path -> inode and bytes."""
    found = {path: path.stat() for path in run.rglob("*")}
    return {
        str(path.relative_to(run)): (stat.st_ino, path.read_bytes() if path.is_file() else b"")
        for path, stat in found.items()
        if path.name != "claim.json"  # a heart may beat
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("finished")
    corpus = make_corpus(root / "corpus").path
    assert train_all(1, run_config(root / "run", corpus, SHORT)) == [[None]]
    assert train_all(1, run_config(root / "whole", corpus, LONG)) == [[None]]
    return root


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_trainer_that_was_about_to(finished, tmp_path, moment):
    """... changes nothing when it wakes up, and says who has the run now."""
    run, note = tmp_path / "run", tmp_path / "note"
    start, corpus = MOMENTS[moment][0], finished / "corpus"
    if start != PLAIN:
        shutil.copytree(finished / "run", run)
    with started(1, fall_asleep, run_config(run, corpus, 10_000), moment, note) as sleeper:
        (process,) = sleeper.processes
        deadline = time.monotonic() + TIMEOUT_S
        while not note.exists() or state_of(process.pid) != "T":
            assert time.monotonic() < deadline, "it never came to that"
            time.sleep(0.01)
        assert train_all(1, run_config(run, corpus, LONG)) == [[None]]
        before = files_of(run)
        assert verify_checkpoint(run) == []
        assert curve(run) == curve(finished / "whole")

        os.kill(process.pid, signal.SIGCONT)
        (message,) = sleeper.results(TIMEOUT_S)
    assert message.startswith(f"{run}: another process has taken this run over: process "), message
    assert "the other one continues the run" in message
    assert files_of(run) == before
