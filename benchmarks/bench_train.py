"""`make bench-train`: what a step of `foreword train` costs beside plain PyTorch, on the processor of this machine.

    python benchmarks/bench_train.py [--model configs/model/NAME.yaml] [--rows 2] [--sequence-length 1024] [--rounds 10]
                                     [--threads N] [--zero-stage 0] [--vocab-size 16384]

The contenders take turns of a step or two, each in a process of its own, so that a load that comes and goes meets all
of them; ratios are taken within a round, and medians are shown. What is compared: the trainer's whole loop (rows,
batch, counts, step, record) against the plain trainer's, on as many tokens a step, of the same shape, with the same
threads.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import contenders
import numpy as np
import yaml
from conditions import conditions, say
from random_corpus import make_corpus
from rich.console import Console
from rich.table import Table
from sparse_corpus import fill_rows, make_sparse_corpus
from turns import Contender, Turn

from foreword.config import dump_config, validate
from pipeline.config.train import TrainConfig
from pipeline.data.corpora import open_corpora
from pipeline.data.loader import TrainLoader
from pipeline.data.rows import TrainingRows
from pipeline.data.share import Share

FOREWORD = str(Path(sysconfig.get_path("scripts")) / "foreword")
SHAPE = {"num_layers": 6, "hidden_size": 384, "num_attention_heads": 6}
STEPS_PER_TURN = 2
LOADER_STEPS, LOADER_TURNS = 20, 5
START_UPS = 3
FOREVER = 10**9
WANTED_TO_PLAIN, WANTED_PREFIX_TO_CAUSAL = 1.0, 0.95
HUGE_ROWS, HUGE_SHARDS, HUGE_BATCH_ROWS, HUGE_MICRO_BATCH_ROWS = 10**9, 1000, 512, 32
WANTED_FIRST_BATCH_S = 0.2
# 124M on one GPU reads about so much, in micro-batches like these; the loader is to make five times as much
GPU_TOKENS_PER_S, GPU_MICRO_BATCH_ROWS, WANTED_LOADER = 500_000, 32, 5.0
LOADED_FOR_GPU = {
    "causal packed": {},
    "prefix packed": {"boundaries": {"policy": "uniform"}},
    "masked packed": {"objective": "bidirectional"},
    "mixed packed": {"objective": {"causal": 1, "prefix": 1, "bidirectional": 1}, "boundaries": {"policy": "uniform"}},
}

# name -> (what it is, the contender that it is compared with)
TITLES = {
    "plain": ("plain PyTorch, is_causal over whole rows", None),
    "causal": ("foreword causal, a document a row", "plain"),
    "prefix": ("foreword prefix, a document a row", "causal"),
    "causal packed": ("foreword causal, documents packed and kept apart", "plain"),
    "prefix packed": ("foreword prefix, documents packed and kept apart", "causal packed"),
}


@dataclass(frozen=True)
class Bench:
    """What is measured, and where its files lie."""

    directory: Path
    arguments: argparse.Namespace

    def config(self, name: str) -> TrainConfig:
        """The configuration of one contender."""
        arguments = self.arguments
        values = {
            "run_dir": str(self.directory / name.replace(" ", "-")),
            "data": {"corpus": str(self.directory / ("packed" if "packed" in name else "single"))},
            "model": {**SHAPE, "max_position_embeddings": arguments.sequence_length, **_shape(arguments)},
            "objective": "prefix" if "prefix" in name else "causal",
            "batch": {"global_batch_size": arguments.rows, "micro_batch_size": arguments.rows},
            "parallel": {"zero_stage": arguments.zero_stage},
            "optimizer": {"lr": 1e-4},
            "schedule": {"total_steps": FOREVER, "kind": "constant"},
            "checkpoint": {"every_steps": FOREVER},
            "logging": {"every_steps": 10, "wandb": {"mode": "disabled"}},
        }
        return validate(values, TrainConfig)


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    console = Console(width=120, highlight=False)
    with tempfile.TemporaryDirectory(prefix="bench-train-") as directory:
        bench = Bench(Path(directory), arguments)
        for name in ("single", "packed"):
            corpus = make_corpus(
                bench.directory / name,
                packed=name == "packed",
                sequence_length=arguments.sequence_length,
                vocab_size=arguments.vocab_size,
            )
        tokens = bench.directory / "tokens.bin"
        np.array(np.load(corpus.path / "train" / "00000.tokens.npy")).astype(np.uint16).tofile(tokens)
        console.print(_conditions(bench, len(corpus.split("train")), corpus.manifest.splits["train"].segments))
        started_s = _start_ups(bench)
        opened_s, loaded_s = _first_batch_of_a_huge_corpus(bench)
        loaded = {name: _loader_turn(bench.config(name)) for name in ("causal packed", "prefix packed")}
        for_gpu = {name: _loader_turn(_for_gpu(bench.config(name), own)) for name, own in LOADED_FOR_GPU.items()}
        rounds = _rounds(bench, tokens)

    per_step = arguments.rows * arguments.sequence_length
    console.print(_table(rounds, per_step))
    for name, turn in loaded.items():
        share = turn.wall_s / statistics.median(turn.wall_s for turn in rounds[name])
        console.print(f"the loader alone, {name}: {per_step / turn.wall_s:,.0f} tokens/s, {share:.2%} of a step's time")
    for name, turn in for_gpu.items():
        rate = GPU_MICRO_BATCH_ROWS * arguments.sequence_length / turn.wall_s
        verdict = "met   " if rate >= WANTED_LOADER * GPU_TOKENS_PER_S else "MISSED"
        console.print(
            f"{verdict}  the loader alone, {name}, at least {WANTED_LOADER:.0f} times what 124M on one GPU reads: "
            f"{rate:,.0f} tokens/s, {rate / GPU_TOKENS_PER_S:.1f} times {GPU_TOKENS_PER_S:,}"
        )
    first = f"{', '.join(f'{seconds:.1f}' for seconds in started_s)} s"
    console.print(f"foreword train, from the command to the end of its first step: {first}")
    verdict = "met   " if opened_s + loaded_s <= WANTED_FIRST_BATCH_S else "MISSED"
    console.print(
        f"{verdict}  the first batch, of {HUGE_BATCH_ROWS} rows out of {HUGE_ROWS:,} in {HUGE_SHARDS:,} shards, within "
        f"{WANTED_FIRST_BATCH_S} s: {opened_s:.3f} s to open the corpus, {loaded_s:.3f} s for the batch"
    )
    for name, wanted in (("causal", WANTED_TO_PLAIN), ("prefix", WANTED_PREFIX_TO_CAUSAL)):
        other = TITLES[name][1]
        ratio = _ratio(rounds, name, other, "wall_s")
        verdict = "met   " if ratio >= wanted else "MISSED"
        console.print(f"{verdict}  {name}, tokens/s at least {wanted} times those of {other}: {ratio:.3f} times")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure foreword train on a CPU.")
    parser.add_argument("--model", type=Path, help="a file of configs/model/; by default 6 layers of 384")
    parser.add_argument("--rows", type=int, default=2, help="rows of a step")
    parser.add_argument("--sequence-length", type=int, default=1024)
    parser.add_argument("--vocab-size", type=int, default=16384)
    parser.add_argument("--zero-stage", type=int, default=0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=10)
    return parser.parse_args()


def _shape(arguments: argparse.Namespace) -> dict:
    if arguments.model is None:
        return {}
    shape = yaml.safe_load(arguments.model.read_text(encoding="utf-8"))["model"]
    return {key: shape[key] for key in SHAPE}


def _rounds(bench: Bench, tokens: Path) -> dict[str, list[Turn]]:
    """Contender -> its turns, one a round."""
    running: dict[str, Contender] = {}
    try:
        for name in TITLES:
            say(f"starting: {name}")
            run = (contenders.plain, bench.config(name), tokens) if name == "plain" else ()
            running[name] = Contender(*(run or (contenders.foreword, bench.config(name))))
        turns: dict[str, list[Turn]] = {name: [] for name in TITLES}
        for number in range(bench.arguments.rounds):
            say(f"round {number + 1} of {bench.arguments.rounds}, load {os.getloadavg()[0]:.1f}")
            # forth and back: none of them is always the first after another
            for name in sorted(running, key=list(running).index, reverse=bool(number % 2)):
                turns[name].append(running[name].turn(STEPS_PER_TURN))
    finally:
        for contender in running.values():
            contender.end()
    return turns


def _for_gpu(config: TrainConfig, changes: dict) -> TrainConfig:
    """The same with batches of a GPU's size, and with `changes`."""
    rows = {"global_batch_size": GPU_MICRO_BATCH_ROWS, "micro_batch_size": GPU_MICRO_BATCH_ROWS}
    own = {"batch": rows, "masking": {"token_id": 0}}  # whatever the vocabulary's size
    return validate(config.model_dump(mode="json") | own | changes, TrainConfig)


def _loader_turn(config: TrainConfig) -> Turn:
    """The median turn of the loader by itself."""
    contender = Contender(contenders.loader, config)
    try:
        turns = [contender.turn(LOADER_STEPS) for _ in range(LOADER_TURNS)]
    finally:
        contender.end()
    return sorted(turns, key=lambda turn: turn.wall_s)[LOADER_TURNS // 2]


def _first_batch_of_a_huge_corpus(bench: Bench) -> tuple[float, float]:
    """Seconds to open a corpus that was never opened, and from there to its first global batch in this process."""
    arguments = bench.arguments
    path = bench.directory / "huge"
    corpus = make_sparse_corpus(
        path,
        rows=HUGE_ROWS,
        shards=HUGE_SHARDS,
        sequence_length=arguments.sequence_length,
        vocab_size=arguments.vocab_size,
    )
    values = bench.config("prefix").model_dump(mode="json") | {
        "data": {"corpus": str(path)},
        "evaluation": {},
        "boundaries": {"policy": "uniform"},
    }
    config = validate(values, TrainConfig)
    _, rows, _ = TrainingRows(open_corpora(config), config).places_at(np.arange(HUGE_BATCH_ROWS))
    fill_rows(corpus, rows.tolist())
    os.sync()  # what was written here is not to be waited for there
    share = Share(0, 1, [HUGE_BATCH_ROWS], HUGE_MICRO_BATCH_ROWS)
    started = time.perf_counter()
    corpora = open_corpora(config)
    opened = time.perf_counter()
    loader = TrainLoader(
        TrainingRows(corpora, config), share, samples_consumed=0, batch_sizes=iter([HUGE_BATCH_ROWS] * 2)
    )
    next(loader)
    loaded = time.perf_counter()
    loader.close()
    shutil.rmtree(path)
    return opened - started, loaded - opened


def _start_ups(bench: Bench) -> list[float]:
    """Seconds from the command to its first step's record, for some runs of one step."""
    seconds = []
    for number in range(START_UPS):
        config = bench.config("causal")
        run_dir = bench.directory / f"start-{number}"
        path = bench.directory / "start.yaml"
        path.write_text(dump_config(config), encoding="utf-8")
        overrides = [f"run_dir={run_dir}", "schedule.total_steps=1", "logging.every_steps=1"]
        started = time.time()
        done = subprocess.run([FOREWORD, "train", str(path), *overrides], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"bench_train: foreword train failed:\n{done.stderr}")
        records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        seconds.append(next(record["time"] for record in records if "event" not in record) - started)
        shutil.rmtree(run_dir)
    return seconds


def _ratio(rounds: dict[str, list[Turn]], name: str, other: str, measure: str) -> float:
    """How many times the other's tokens per second this one makes: the median over the rounds."""
    pairs = zip(rounds[name], rounds[other], strict=True)
    return statistics.median(getattr(theirs, measure) / getattr(own, measure) for own, theirs in pairs)


def _table(rounds: dict[str, list[Turn]], tokens_per_step: int) -> Table:
    table = Table(title="A training step, medians; ratios of tokens/s within a round")
    table.add_column("")
    for column in ("s a step", "CPU s a step", "tokens/s", "compared with", "ratio", "by CPU time"):
        table.add_column(column, justify="right")
    for name, (title, other) in TITLES.items():
        wall_s, cpu_s = (statistics.median(getattr(turn, key) for turn in rounds[name]) for key in ("wall_s", "cpu_s"))
        ratios = [f"{_ratio(rounds, name, other, key):.3f}" for key in ("wall_s", "cpu_s")] if other else ["", ""]
        cells = (f"{wall_s:.3f}", f"{cpu_s:.3f}", f"{tokens_per_step / wall_s:,.0f}", other or "", *ratios)
        table.add_row(title, *cells)
    return table


def _conditions(bench: Bench, rows: int, segments: int) -> str:
    arguments, model = bench.arguments, bench.config("causal").model
    return (
        f"{conditions(f'{arguments.threads} threads', 'torch', 'deepspeed', 'megatron-core')}\n"
        f"{model.num_layers} layers, hidden size {model.hidden_size}, {model.num_attention_heads} heads, "
        f"{arguments.vocab_size:,} ids, {arguments.rows} rows of {arguments.sequence_length} tokens a step, fp32, "
        f"ZeRO {arguments.zero_stage}\npacked: {segments / rows:.1f} documents a row; "
        f"{arguments.rounds} rounds of {STEPS_PER_TURN} steps each"
    )


if __name__ == "__main__":
    main()
