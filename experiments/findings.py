"""Evaluations of the runs -> tables with means and error bars, and a figure.

Every seed is one draw of first weights and of the order of the rows, shared by all arms; so arms are compared within a
seed, and a difference's interval is Student's for the mean of such paired differences. The spread over seeds says
nothing about other validation text: `foreword eval` gives those intervals, from resampled documents.
"""

import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib
from arms import ARMS, DIRECTORY, Arm, evaluation_file, run_directory
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from scipy import stats

from pipeline.telemetry.metrics import read_metrics

CONFIDENCE = 0.95
CAUSAL, PREFIX = "causal", "prefix"  # how prefixes are read
READING = {CAUSAL: "read causally", PREFIX: "read both ways"}


@dataclass(frozen=True)
class Comparison:
    """One arm and reading minus another.

    Attributes:
        question: what the difference answers.
        first, second: (arm, reading); the difference is first - second.
    """

    question: str
    first: tuple[str, str]
    second: tuple[str, str]


COMPARISONS = (
    Comparison("prefix or causal, equal tokens", ("prefix", PREFIX), ("causal", CAUSAL)),
    Comparison("the same, half as many", ("prefix-half", PREFIX), ("causal-half", CAUSAL)),
    Comparison("prefix or causal, equal target tokens", ("prefix", PREFIX), ("causal-half", CAUSAL)),
    Comparison("adapted or prefix, equal tokens in all", ("adapted", PREFIX), ("prefix", PREFIX)),
    Comparison("adapted or prefix, equal tokens of prefix training", ("adapted", PREFIX), ("prefix-half", PREFIX)),
    Comparison("adapted or causal, equal tokens in all", ("adapted", PREFIX), ("causal", CAUSAL)),
    Comparison("both ways or causally: causal", ("causal", PREFIX), ("causal", CAUSAL)),
    Comparison("both ways or causally: prefix", ("prefix", PREFIX), ("prefix", CAUSAL)),
    Comparison("both ways or causally: adapted", ("adapted", PREFIX), ("adapted", CAUSAL)),
)

Evaluations = dict[tuple[str, int], dict[str, Any]]
"""(arm, seed) -> what `foreword eval --json` said."""


def write_findings(seeds: Sequence[int]) -> str:
    """Write `findings.md` and `curves.svg` below `experiments-run/`, and return the tables."""
    evaluations = {
        (arm.name, seed): json.loads(evaluation_file(arm.name, seed).read_text()) for arm in ARMS for seed in seeds
    }
    consumed = {arm.name: _consumed(arm, seeds[0]) for arm in ARMS}
    text = "\n\n".join(
        [
            _circumstances(seeds),
            losses_table(evaluations, consumed),
            comparisons_table(evaluations),
            buckets_table(evaluations),
        ]
    )
    (DIRECTORY / "findings.md").write_text(text + "\n", encoding="utf-8")
    draw_curves(seeds, DIRECTORY / "curves.svg")
    return text


def losses_table(evaluations: Evaluations, consumed: dict[str, tuple[int, int]]) -> str:
    """One line an arm: what it consumed, and its losses and bits per byte; mean ± standard deviation over the seeds."""
    rows = []
    for arm, (tokens, targets) in consumed.items():
        cells = [
            _mean_and_deviation(of_arm(evaluations, arm, reading, measure))
            for measure in ("loss", "bits_per_byte")
            for reading in (CAUSAL, PREFIX)
        ]
        rows.append([f"`{arm}`", f"{tokens:,}", f"{targets:,}", *cells])
    measures = ("loss", "bits/byte")
    return _markdown(["arm", "tokens", "targets", *(f"{m}, {how}" for m in measures for how in READING.values())], rows)


def comparisons_table(evaluations: Evaluations) -> str:
    """One line a question: the mean of the differences of the seeds, its interval, and how many are below 0."""
    rows = []
    for comparison in COMPARISONS:
        pairs = zip(
            *(of_arm(evaluations, *side, "loss") for side in (comparison.first, comparison.second)), strict=True
        )
        differences = [one - other for one, other in pairs]
        middle, half_width = mean_interval(differences)
        sides = " - ".join(f"`{arm}` {READING[how]}" for arm, how in (comparison.first, comparison.second))
        below = f"{sum(difference < 0 for difference in differences)} of {len(differences)}"
        rows.append([comparison.question, sides, f"{middle:+.4f} ± {half_width:.4f}", below])
    return _markdown(["question", "difference of the losses", f"mean, {CONFIDENCE:.0%} interval", "below 0"], rows)


def buckets_table(evaluations: Evaluations) -> str:
    """Losses by length of the prefix: `causal` read causally, `prefix` both ways, and the paired difference."""
    rows = []
    first = next(iter(evaluations.values()))["by_prefix_len"]
    for place, bucket in enumerate(first):
        causal, prefix = (
            [of["by_prefix_len"][place][how]["loss"] for (name, _), of in evaluations.items() if name == arm]
            for arm, how in (("causal", CAUSAL), ("prefix", PREFIX))
        )
        middle, half_width = mean_interval([one - other for one, other in zip(prefix, causal, strict=True)])
        length = f"{bucket['shortest']}+" if bucket["longest"] is None else f"{bucket['shortest']}-{bucket['longest']}"
        losses = [_mean_and_deviation(values) for values in (causal, prefix)]
        rows.append([length, f"{bucket['causal']['targets']:,}", *losses, f"{middle:+.4f} ± {half_width:.4f}"])
    return _markdown(["prefix", "targets", "`causal` read causally", "`prefix` read both ways", "difference"], rows)


def of_arm(evaluations: Evaluations, arm: str, reading: str, measure: str) -> list[float]:
    """One number of every seed, in their order."""
    return [values[reading][measure] for (name, _), values in evaluations.items() if name == arm]


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean of two values or more, and half the width of its interval after Student (1908)."""
    error = statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values), error * float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))


def draw_curves(seeds: Sequence[int], path: Path) -> None:
    """Validation losses during the runs, each arm read as it is trained, against tokens and target tokens."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes_of = dict(zip(("tokens", "targets"), figure.subplots(1, 2, sharey=True), strict=True))
    for unit, axes in axes_of.items():
        for arm in ARMS:
            x, losses_of_seeds = _curves(arm, seeds, f"{unit}_consumed")
            by_step = list(zip(*losses_of_seeds, strict=True))
            middle, deviation = (list(map(measure, by_step)) for measure in (statistics.mean, statistics.stdev))
            axes.errorbar(x, middle, deviation, marker="o", markersize=3, capsize=2, linewidth=1.2, label=arm.name)
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.grid(linewidth=0.4)
    axes_of["tokens"].set(xlabel="tokens", ylabel="validation loss, nats a token")
    axes_of["targets"].set_xlabel("target tokens")
    axes_of["targets"].legend()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "foreword"}):
        figure.savefig(path, metadata=dict.fromkeys(("Creator", "Date")))


def _curves(arm: Arm, seeds: Sequence[int], key: str) -> tuple[list[float], list[list[float]]]:
    """What was consumed at each validation (of the first seed), and the losses of every seed."""
    before = _consumed_by(arm.begins_with, seeds[0])[key] if arm.begins_with else 0
    of_seeds = [read_metrics(run_directory(arm.name, seed)) for seed in seeds]
    validations = [metrics.event_series("validation", f"{arm.objective}_loss") for metrics in of_seeds]
    consumed = dict(zip(*of_seeds[0].series(key), strict=True))
    steps, _ = validations[0]
    return [before + consumed[step] for step in steps], [losses for _, losses in validations]


def _consumed(arm: Arm, seed: int) -> tuple[int, int]:
    """Tokens and targets of a run, and of the one it began with."""
    runs = [_consumed_by(name, seed) for name in (arm.name, arm.begins_with) if name]
    return sum(run["tokens_consumed"] for run in runs), sum(run["targets_consumed"] for run in runs)


def _consumed_by(name: str, seed: int) -> dict[str, Any]:
    return read_metrics(run_directory(name, seed)).steps[-1]


def _circumstances(seeds: Sequence[int]) -> str:
    packages = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("torch", "deepspeed", "sentencepiece")
    )
    processor = next(
        (line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine()
    )
    return (
        f"{datetime.now(UTC):%Y-%m-%d}; {os.cpu_count()} cores of {processor}; Python {platform.python_version()}, "
        f"{packages}; seeds {', '.join(map(str, seeds))}"
    )


def _cpuinfo() -> Iterable[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else ()


def _mean_and_deviation(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
