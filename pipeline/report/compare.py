"""Several runs -> one page with their losses against tokens and against target tokens, and a table."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from foreword.config import load_config
from foreword.errors import ConfigError
from pipeline.config.objective import describe_objectives
from pipeline.config.train import TrainConfig
from pipeline.report.charts import NUM_COLOURS, Chart, Curve, charts_for_a_page
from pipeline.report.history import wall_time_s
from pipeline.report.page import write_report_page
from pipeline.report.run_page import CONFIG_NAME, duration, read_run
from pipeline.telemetry.metrics import RunMetrics

AXES = (("tokens_consumed", "tokens"), ("targets_consumed", "target tokens"))
LOSSES = (("train_loss", "training"), ("prefix_loss", "validation, prefix"), ("causal_loss", "validation, causal"))
WIDTH = 150


@dataclass(frozen=True)
class ComparedRun:
    """One of the runs.

    Attributes:
        name: its directory, as short as the names differ.
        metrics: its records.
        facts: the table's row, plain values; None where something is not known.
    """

    name: str
    metrics: RunMetrics
    facts: dict[str, Any]


def open_runs(run_dirs: Sequence[Path]) -> list[ComparedRun]:
    """Read the runs, each once.

    Raises:
        ConfigError: a run is named twice.
        DataError: a directory holds no run, or one without a single logged step.
    """
    resolved = [run_dir.resolve() for run_dir in run_dirs]
    if len(set(resolved)) < len(resolved):
        twice = next(run_dir for run_dir in resolved if resolved.count(run_dir) > 1)
        raise ConfigError("this run is named twice", where=twice, remedy="name each run once")
    opened = []
    for name, run_dir in zip(_short_names(resolved), run_dirs, strict=True):
        metrics = read_run(run_dir)
        opened.append(ComparedRun(name, metrics, {"run": name, **_facts(run_dir, metrics)}))
    return opened


def write_comparison(runs: Sequence[ComparedRun], path: Path) -> None:
    """Write the page."""
    charts = charts_for_a_page(_charts(runs))
    rows = [(number % NUM_COLOURS, _cells(run.facts)) for number, run in enumerate(runs)]
    write_report_page(path, "compare.html.j2", columns=list(_COLUMNS), rows=rows, charts=charts)


def show(runs: Sequence[ComparedRun]) -> str:
    """The table for a terminal, one column for each run."""
    table = Table("", *(run.name for run in runs), box=None, pad_edge=False)
    cells = [_cells(run.facts) for run in runs]
    for number, column in enumerate(_COLUMNS):
        if column != "run":
            table.add_row(column, *(row[number] for row in cells))
    console = Console(width=max(WIDTH, 30 * len(runs)), color_system=None)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _charts(runs: Sequence[ComparedRun]) -> list[Chart]:
    charts = []
    for key, title in LOSSES:
        for axis, unit in AXES:
            curves = [
                Curve(run.name, *_against(run.metrics, key, axis), colour=number, points=key != "train_loss")
                for number, run in enumerate(runs)
            ]
            charts.append(Chart(f"Loss, {title}, by {unit}", "nats per scored token", curves, x_label=unit))
    return charts


def _against(metrics: RunMetrics, key: str, axis: str) -> tuple[list[float], list[float]]:
    """A loss with what was consumed by then; a validation's step may lie between two records."""
    steps, consumed = metrics.series(axis)
    if key == "train_loss":
        return list(consumed), [record["loss"] for record in metrics.steps]
    x, y = [], []
    for step, value in zip(*metrics.event_series("validation", key), strict=True):
        x.append(_interpolated(steps, consumed, step))
        y.append(value)
    return x, y


def _interpolated(steps: Sequence[int], consumed: Sequence[float], step: int) -> float:
    place = bisect_right(steps, step)
    if place == 0:
        return consumed[0] * step / steps[0] if steps[0] else 0.0
    if place == len(steps) or steps[place - 1] == step:
        return consumed[place - 1]
    share = (step - steps[place - 1]) / (steps[place] - steps[place - 1])
    return consumed[place - 1] + share * (consumed[place] - consumed[place - 1])


def _facts(run_dir: Path, metrics: RunMetrics) -> dict[str, Any]:
    last = metrics.steps[-1]
    try:
        config: TrainConfig | None = load_config(run_dir / CONFIG_NAME, [], TrainConfig)
    except ConfigError:
        config = None
    losses = [loss for loss in metrics.series("loss")[1] if math.isfinite(loss)]
    rates = sorted(metrics.series("tokens_per_s")[1])
    facts: dict[str, Any] = {
        "objective": describe_objectives(config.objective) if config else None,
        "seed": config.seed if config else None,
        "steps": last["step"],
        "tokens": last["tokens_consumed"],
        "targets": last["targets_consumed"],
        "train_loss": last["loss"],
        "best_train_loss": min(losses, default=None),
    }
    for key in ("prefix_loss", "causal_loss", "prefix_bits_per_byte", "causal_bits_per_byte"):
        values = metrics.event_series("validation", key)[1]
        facts |= {key: values[-1] if values else None, f"best_{key}": min(values, default=None)}
    return facts | {
        "tokens_per_s": rates[len(rates) // 2] if rates else None,
        "wall_time_s": wall_time_s(metrics),
        "restarts": sum(event["event"] == "start" and bool(event.get("resumed_from")) for event in metrics.events),
    }


_COLUMNS: dict[str, tuple[str, str]] = {
    # title -> key of the facts, how it is written
    "run": ("run", ""),
    "objective": ("objective", ""),
    "seed": ("seed", ""),
    "steps": ("steps", ","),
    "tokens": ("tokens", ","),
    "target tokens": ("targets", ","),
    "train loss, last": ("train_loss", ".4f"),
    "train loss, best": ("best_train_loss", ".4f"),
    "validation loss, prefix, last": ("prefix_loss", ".4f"),
    "validation loss, prefix, best": ("best_prefix_loss", ".4f"),
    "validation loss, causal, last": ("causal_loss", ".4f"),
    "validation loss, causal, best": ("best_causal_loss", ".4f"),
    "bits/byte, prefix, best": ("best_prefix_bits_per_byte", ".4f"),
    "bits/byte, causal, best": ("best_causal_bits_per_byte", ".4f"),
    "tokens/s, median": ("tokens_per_s", ",.0f"),
    "running time": ("wall_time_s", "duration"),
    "restarts": ("restarts", ""),
}


def _cells(facts: dict[str, Any]) -> list[str]:
    cells = []
    for key, form in _COLUMNS.values():
        value = facts[key]
        if value is None:
            cells.append("-")
        else:
            cells.append(duration(value) if form == "duration" else format(value, form))
    return cells


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as it takes to tell them apart."""
    for count in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
