"""`make bench-checkpoint`: what saving and loading cost, beside torch.save and torch.distributed.checkpoint (DCP).

    python benchmarks/bench_checkpoint.py [--model configs/model/gpt2-124m.yaml] [--rounds 5] [--directory bench-run]
                                          [--threads N]

Each contender saves the same training state, fp32 weights and Adam's moments, in one process; see
`checkpoint_contenders`. They take turns; ratios are taken within a round, and medians are shown. What the machine's
memory, processor and disk do with as many bytes is measured in each round too, and a save and a load are predicted
from it. Then `foreword train` itself saves a few times.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import checkpoint_contenders as contenders
import yaml
from checkpoint_contenders import Figures, Rates
from conditions import conditions, say
from random_corpus import make_corpus
from rich.console import Console
from rich.table import Table

from foreword.config import dump_config, validate
from pipeline.config.train import TrainConfig

FOREWORD = str(Path(sysconfig.get_path("scripts")) / "foreword")
VOCAB_SIZE = 50257
SHAPE_KEYS = ("num_layers", "hidden_size", "num_attention_heads", "max_position_embeddings")
WANTED_STALL = 0.1  # of a synchronous save's
STEPS_BETWEEN_SAVES, SAVES, SEQUENCE_LENGTH = 4, 4, 128  # of `foreword train`

# name -> (what it is, what runs)
CONTENDERS: dict[str, tuple[str, Callable[..., Figures]]] = {
    "asynchronous": ("foreword, asynchronous", partial(contenders.foreword, True)),
    "synchronous": ("foreword, synchronous", partial(contenders.foreword, False)),
    "torch.save": ("torch.save and fsync", contenders.torch_save),
    "DCP": ("torch.distributed.checkpoint", contenders.dcp),
    "DCP async": ("torch.distributed.checkpoint, async_save", contenders.dcp_async),
}


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    directory = arguments.directory.resolve() / "checkpoints"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    config = _config(arguments, directory)
    console = Console(width=140, highlight=False)
    console.print(_conditions(arguments, directory))
    rounds: dict[str, list[Figures]] = {name: [] for name in CONTENDERS}
    rates: list[Rates] = []
    try:
        for number in range(arguments.rounds):
            say(f"round {number + 1} of {arguments.rounds}, load {os.getloadavg()[0]:.1f}")
            # forth and back: none of them is always the first after another
            for name in sorted(CONTENDERS, key=list(CONTENDERS).index, reverse=bool(number % 2)):
                rounds[name].append(_turn(CONTENDERS[name][1], directory / "turn", config, VOCAB_SIZE))
            size_bytes = rounds["torch.save"][0].size_bytes // 2**20 * 2**20
            rates.append(_turn(contenders.measure_rates, directory / "turn", size_bytes))
        say("foreword train")
        stalls = {name: _train(directory, config, asynchronous) for name, asynchronous in (("a", True), ("s", False))}
    finally:
        shutil.rmtree(directory)

    console.print(_table(rounds))
    console.print(_reshape(rounds))
    console.print(_predictions(rounds, rates))
    for name, what in (("a", "asynchronous"), ("s", "synchronous")):
        stall_s, save_s = (statistics.median(value) for value in zip(*stalls[name], strict=True))
        console.print(
            f"foreword train, {what}: a save stands in training's way for {stall_s:.2f} s and takes {save_s:.2f} s"
        )
    for what, ratio in (
        ("the saver alone", _ratio(rounds, "asynchronous", "synchronous", "stall_s")),
        ("foreword train", statistics.median(s for s, _ in stalls["a"]) / statistics.median(s for s, _ in stalls["s"])),
    ):
        verdict = "met   " if ratio <= WANTED_STALL else "MISSED"
        wanted = f"the stall of an asynchronous save at most {WANTED_STALL} of a synchronous one's"
        console.print(f"{verdict}  {what}, {wanted}: {ratio:.3f}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure saving and loading checkpoints.")
    parser.add_argument("--model", type=Path, default=Path("configs/model/gpt2-124m.yaml"))
    parser.add_argument("--directory", type=Path, default=Path("bench-run"), help="on the disk that is measured")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()


def _config(arguments: argparse.Namespace, directory: Path) -> TrainConfig:
    shape = yaml.safe_load(arguments.model.read_text(encoding="utf-8"))["model"]
    values = {
        "run_dir": str(directory / "run"),
        "data": {"corpus": str(directory / "corpus")},
        "model": {key: shape[key] for key in SHAPE_KEYS},
        "batch": {"global_batch_size": 1, "micro_batch_size": 1},
        "parallel": {"zero_stage": 0},
        "optimizer": {"lr": 1e-4},
        "schedule": {"total_steps": STEPS_BETWEEN_SAVES * SAVES, "kind": "constant"},
        "checkpoint": {"every_steps": STEPS_BETWEEN_SAVES, "keep_last": 1},
        "logging": {"every_steps": 1, "wandb": {"mode": "disabled"}},
    }
    return validate(values, TrainConfig)


def _turn(contender: Callable[..., Any], directory: Path, *arguments: Any) -> Any:
    """What a contender measures of itself in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(contenders.take_turn, contender, directory, *arguments).result()


def _train(directory: Path, config: TrainConfig, asynchronous: bool) -> list[tuple[float, float]]:
    """(stall, time) in seconds of each save of a short run but for the last, which nothing goes on beside."""
    if not (directory / "corpus").exists():
        make_corpus(directory / "corpus", packed=True, sequence_length=SEQUENCE_LENGTH, vocab_size=VOCAB_SIZE)
    path = directory / "train.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    command = [FOREWORD, "train", str(path), "--fresh", f"checkpoint.asynchronous={str(asynchronous).lower()}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"bench_checkpoint: foreword train failed:\n{done.stderr}")
    lines = (config.run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    saves = [record for record in map(json.loads, lines) if record.get("event") == "checkpoint"]
    shutil.rmtree(config.run_dir)
    return [(record["stall_s"], record["save_s"]) for record in saves[:-1]]


def _ratio(rounds: dict[str, list[Figures]], name: str, other: str, measure: str) -> float:
    """How many times the other's figure this one's is: the median over the rounds."""
    pairs = zip(rounds[name], rounds[other], strict=True)
    return statistics.median(getattr(own, measure) / getattr(theirs, measure) for own, theirs in pairs)


def _median(runs: list[Figures], measure: str) -> float:
    return statistics.median(getattr(run, measure) for run in runs)


def _table(rounds: dict[str, list[Figures]]) -> Table:
    size_gb = _median(rounds["torch.save"], "size_bytes") / 1e9
    table = Table(title=f"{size_gb:.2f} GB saved and loaded; medians, ratios to torch.save within a round")
    table.add_column("")
    for column in (
        "stall s",
        "save s",
        "GB/s",
        "MB more",
        "load s",
        "MB more",
        "stall ratio",
        "save ratio",
        "load ratio",
    ):
        table.add_column(column, justify="right")
    for name, (title, _) in CONTENDERS.items():
        stall, save, load = (_median(rounds[name], key) for key in ("stall_s", "save_s", "load_s"))
        memory = (_median(rounds[name], f"{key}_peak_bytes") / 1e6 for key in ("save", "load"))
        saving_mb, loading_mb = (f"{value:,.0f}" for value in memory)
        ratios = (f"{_ratio(rounds, name, 'torch.save', key):.2f}" for key in ("stall_s", "save_s", "load_s"))
        cells = (f"{stall:.2f}", f"{save:.2f}", f"{size_gb / save:.2f}", saving_mb, f"{load:.2f}", loading_mb, *ratios)
        table.add_row(title, *cells)
    return table


def _reshape(rounds: dict[str, list[Figures]]) -> str:
    runs = rounds["asynchronous"] + rounds["synchronous"]
    seconds, peak = _median(runs, "reshape_s"), _median(runs, "reshape_peak_bytes")
    rate = _median(runs, "size_bytes") / seconds / 1e9
    return (
        f"foreword checkpoint reshape --tp 2, hashed before and after: {seconds:.2f} s, {rate:.2f} GB/s, "
        f"{peak / 1e6:,.0f} MB more"
    )


def _predictions(rounds: dict[str, list[Figures]], rates: list[Rates]) -> Table:
    """What the bytes must take at the rates of this machine, and what they took."""
    size = _median(rounds["torch.save"], "size_bytes")
    copy, sha256, through_cache, write, read = (
        statistics.median(getattr(rate, key) for rate in rates)
        for key in ("copy", "sha256", "write_through_cache", "write", "read")
    )
    table = Table(title="Predicted from rates measured in the same rounds")
    for column in ("", "arithmetic", "predicted s", "measured s"):
        table.add_column(column, justify="left" if column in ("", "arithmetic") else "right")
    gb, bigger = size / 1e9, max(size / write, size / sha256)
    arithmetic = (
        f"{gb:.2f} GB at the slower of {write / 1e9:.2f} GB/s (written past the cache) and {sha256 / 1e9:.2f} (SHA-256)"
    )
    for what, how, seconds, measured in (
        (
            "stall, asynchronous",
            f"{gb:.2f} GB at {copy / 1e9:.1f} GB/s (copied)",
            size / copy,
            ("asynchronous", "stall_s"),
        ),
        ("save, synchronous", f"the copy, then {arithmetic}", size / copy + bigger, ("synchronous", "save_s")),
        ("load", f"{gb:.2f} GB at {read / 1e9:.2f} GB/s (read)", size / read, ("synchronous", "load_s")),
        (
            "torch.save",
            f"{gb:.2f} GB at {through_cache / 1e9:.2f} GB/s (written through the cache)",
            size / through_cache,
            ("torch.save", "save_s"),
        ),
    ):
        name, key = measured
        table.add_row(what, how, f"{seconds:.2f}", f"{_median(rounds[name], key):.2f}")
    return table


def _conditions(arguments: argparse.Namespace, directory: Path) -> str:
    file_system = subprocess.run(["stat", "-f", "-c", "%T", directory], capture_output=True, text=True, check=False)
    return (
        f"{conditions(f'{arguments.threads} threads', 'torch', 'deepspeed', 'safetensors')}\n"
        f"files on {file_system.stdout.strip()}; {arguments.model.stem}, fp32 weights and two moments, one process, "
        f"ZeRO 0; {arguments.rounds} rounds"
    )


if __name__ == "__main__":
    main()
