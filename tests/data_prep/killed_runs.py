"""Runs of a preparation that end at a chosen moment: a program that a test starts.

    python killed_runs.py CONFIG SIGNAL SEED

It prepares CONFIG once to OUTPUT-whole and notes every moment at which a file is opened, renamed or removed, by the
stage of the work. Then, for each stage in turn, a run into OUTPUT gets SIGNAL at a moment of that stage drawn by SEED,
and the next run continues there. The last one is left in peace. It prints, as JSON, stage -> how its run ended.

Each run is a fork of this process, which has imported everything and started no thread: that is quick.
"""

import json
import os
import random
import signal
import sys
from pathlib import Path

import gigatoken  # noqa: F401 - what a run would import
import pyarrow.parquet  # noqa: F401
import tokenizers  # noqa: F401

from data_prep.config import PrepConfig
from data_prep.prepare import prepare
from foreword.config import load_config
from foreword.errors import StoppedOnRequest

EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"}
STAGES = ("plan", "tokenizer", "tokenize", "hash", "dedup", "pack", "marker", "verify", "report", "manifest", "tidy")


def stage_of(event: str, arguments: tuple, output: str) -> str | None:
    """The stage of the work that does this to a file, or None when it is no file of the output."""
    path = os.fspath(arguments[0]) if isinstance(arguments[0], str | os.PathLike) else ""
    relative = path.removeprefix(output + "/")
    if relative == path:
        return None
    writes = event != "open" or any(letter in (arguments[1] or "") for letter in "wa")
    if event in {"os.remove", "os.rmdir"} and ".work" in relative and "scratch" not in relative:
        return "dedup" if "run-" in relative and not Path(output, "manifest.json").exists() else "tidy"
    names = {"plan.json": "plan", "tokenizer/": "tokenizer", ".work/files": "hash", ".work/dedup": "dedup"}
    names |= {".work/scratch": "tokenize", ".work/slices": "tokenize", ".work/shards": "marker"}
    names |= {"train/": "pack" if writes else "verify", "report.html": "report", "manifest.json": "manifest"}
    return next((stage for name, stage in names.items() if name in relative), None)


def run(config: PrepConfig, at: tuple[str, int] | None, number: int, log: Path) -> int:
    """Fork a run; it gets the signal at the `at[1]`-th moment of the stage `at[0]`, and notes its moments in `log`."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    counts = dict.fromkeys(STAGES, 0)

    def watch(event: str, arguments: tuple) -> None:
        if event in EVENTS and (stage := stage_of(event, arguments, config.output)):
            counts[stage] += 1
            if at == (stage, counts[stage]):
                os.kill(os.getpid(), number)

    sys.addaudithook(watch)
    code = 1
    try:
        prepare(config)
        log.write_text(json.dumps(counts))
        code = 0
    except StoppedOnRequest as stopped:
        code = stopped.exit_code
    finally:
        os._exit(code)


def main() -> None:
    """See above."""
    config = load_config(sys.argv[1], [], PrepConfig)
    number, draw = int(sys.argv[2]), random.Random(int(sys.argv[3]))
    log = Path(config.output + "-moments.json")
    assert run(config.model_copy(update={"output": config.output + "-whole"}), None, number, log) == 0
    moments = json.loads(log.read_text())
    ended = {stage: run(config, (stage, draw.randint(1, moments[stage])), number, log) for stage in STAGES}
    ended["in peace"] = run(config, None, number, log)
    print(json.dumps(ended))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
