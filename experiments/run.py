"""`make experiments`: is a model that reads its prompt in both directions better than one that reads it causally?

    python experiments/run.py [--seeds 3] [--at-once 2]

Text, tokenizer, corpus, runs, evaluations and tables, each by the command that a person could type; all of it below
`experiments-run/`. What is finished is not repeated: stop it when you like and start it again; after a change to the
configurations remove `experiments-run/`. The number of seeds is how often each kind of run is made, with other first
weights and another order of the rows.
"""

import argparse
import os
import shlex
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from arms import ARMS, DIRECTORY, Arm, evaluation_file, run_directory
from findings import write_findings

from foreword.config import load_config
from foreword.files import atomic_write
from pipeline.config.train import TrainConfig

TEXT = DIRECTORY / "text"
CORPUS = DIRECTORY / "corpus"
DATA_CONFIG = "experiments/data.yaml"
TRAIN_CONFIG = "experiments/train.yaml"
FIRST_SEED = 1
ANOTHER_ORDER = 1000  # added to data.seed where weights are taken over, so that the rows are not the same again


def main() -> None:
    """Prepare, run what is not finished, and write the tables."""
    parser = argparse.ArgumentParser(description="The experiments of docs/experiments.md.")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind; 2 or more for error bars")
    parser.add_argument("--at-once", type=int, default=2, help="runs beside each other, of one thread each")
    options = parser.parse_args()
    if options.seeds < 2 or options.at_once < 1:
        parser.error("it takes at least 2 seeds and 1 run at once")
    if not Path(TRAIN_CONFIG).exists():
        sys.exit("experiments: run this from the root of the repository: make experiments")
    prepare()
    seeds = range(FIRST_SEED, FIRST_SEED + options.seeds)
    run_all(seeds, options.at_once)
    print(write_findings(seeds))
    compared = [str(run_directory(arm.name, FIRST_SEED)) for arm in ARMS]
    run("foreword", "compare", *compared, "--out", str(DIRECTORY / "compare.html"))


def prepare() -> None:
    """The corpus: a file that exists is not made again, and `foreword prep` sees for itself what is finished."""
    if not (TEXT / "libraries.jsonl").exists():
        run("python", "experiments/text.py", str(TEXT))
    if not (DIRECTORY / "tokenizer.model").exists():
        run("foreword", "tokenizer", "train", DATA_CONFIG)
    run("foreword", "prep", DATA_CONFIG)


def run_all(seeds: range, at_once: int) -> None:
    """All runs, some beside each other; one seed after another, so that whoever stops early has whole seeds.

    The pool takes jobs in order, and an arm stands behind the one it begins with: whoever waits waits for a job that
    has been taken.
    """
    jobs: dict[tuple[str, int], Future[None]] = {}
    failed = threading.Event()
    with ThreadPoolExecutor(at_once) as pool:
        for seed in seeds:
            for arm in ARMS:
                before = jobs[arm.begins_with, seed] if arm.begins_with else None
                jobs[arm.name, seed] = pool.submit(train_and_evaluate, arm, seed, before, failed)
    for job in jobs.values():
        job.result()


def train_and_evaluate(arm: Arm, seed: int, before: "Future[None] | None", failed: threading.Event) -> None:
    """One run and its evaluation, unless that is there already; its output goes to a log."""
    if before is not None:
        before.result()
    evaluation = evaluation_file(arm.name, seed)
    if evaluation.exists() or failed.is_set():
        return
    directory = run_directory(arm.name, seed)
    steps = load_config(TRAIN_CONFIG, [], TrainConfig).schedule.total_steps
    assert steps is not None
    overrides = [
        f"run_dir={directory}",
        f"objective={arm.objective}",
        f"seed={seed}",
        f"data.seed={seed + (ANOTHER_ORDER if arm.begins_with else 0)}",
        f"schedule.total_steps={round(steps * arm.share)}",
    ]
    if arm.begins_with:
        overrides.append(f"init_from={run_directory(arm.begins_with, seed)}")
    try:
        log = DIRECTORY / "logs" / f"{arm.name}-{seed}.log"
        run("foreword", "train", TRAIN_CONFIG, *overrides, log=log)
        told = run("foreword", "eval", str(directory), "--data", str(CORPUS), "--json", log=log)
        evaluation.parent.mkdir(exist_ok=True)
        with atomic_write(evaluation, "w") as file:
            file.write(told)
    except BaseException:
        failed.set()
        raise


def run(*command: str, log: Path | None = None) -> str:
    """Show and run a command; with `log`, on one thread, what it says to the log and its standard output returned."""
    print("$", shlex.join(command), flush=True)
    if log is None:
        subprocess.run(command, check=True)
        return ""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=file, env=one_thread, text=True, check=False)
        file.write(done.stdout)
    if done.returncode:
        raise SystemExit(f"experiments: that command ended with exit code {done.returncode}; see {log}")
    return done.stdout


if __name__ == "__main__":
    main()
