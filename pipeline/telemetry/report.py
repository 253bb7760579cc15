"""A run's directory -> one self-contained HTML page with its curves, restarts and configuration."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import matplotlib

from foreword.errors import DataError
from foreword.files import atomic_write
from pipeline.telemetry.metrics import RunMetrics, measure_and_bucket, read_metrics

matplotlib.use("svg")
from matplotlib import pyplot

CONFIG_NAME, REPORT_NAME = "config.yaml", "report.html"
BY_PREFIX = "Validation loss by length of the prefix"


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into the run's directory and return its path.

    Raises:
        DataError: the directory holds no run, or a run without a single logged step or its configuration.
    """
    metrics = read_metrics(run_dir)
    if not metrics.steps:
        raise DataError("no step has been logged yet", where=run_dir)
    try:
        config = (run_dir / CONFIG_NAME).read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=run_dir / CONFIG_NAME) from None
    buckets = metrics.by_prefix_len("prefix_loss")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.telemetry"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("report.html.j2").render(
        run=run_dir.resolve().name,
        facts=_facts(metrics),
        figures=[(title, draw(metrics)) for title, draw in FIGURES.items() if title != BY_PREFIX or buckets],
        events=[event for event in metrics.events if event["event"] in ("start", "stop", "finish")],
        config=config,
    )
    path = run_dir / REPORT_NAME
    with atomic_write(path, "w") as file:
        file.write(page)
    return path


def _facts(metrics: RunMetrics) -> dict[str, str]:
    last = metrics.steps[-1]
    rates = sorted(metrics.series("tokens_per_s")[1])
    facts = {
        "step": f"{last['step']:,}",
        "training loss": f"{last['loss']:.4f} nats per scored token",
        "tokens": f"{last['tokens_consumed']:,}, of them {last['targets_consumed']:,} scored",
        "tokens per second": f"{rates[len(rates) // 2]:,.0f} (median)",
        "starts": str(sum(event["event"] == "start" for event in metrics.events)),
    }
    for event in metrics.events:
        if event["event"] == "validation":
            facts |= {
                f"validation {key.replace('_', ' ')}": f"{value:.4f}"
                for key, value in event.items()
                if isinstance(value, float) and key != "time" and measure_and_bucket(key)[1] is None
            }
    return facts


def _losses(axes: Any, metrics: RunMetrics) -> None:
    axes.plot(*metrics.series("loss"), label="training", linewidth=1)
    for key, label in (("prefix_loss", "validation, prefix"), ("causal_loss", "validation, causal")):
        steps, values = metrics.event_series("validation", key)
        if steps:
            axes.plot(steps, values, marker="o", markersize=3, label=label)
    axes.set_ylabel("nats per scored token")
    axes.legend()


def _losses_by_prefix_len(axes: Any, metrics: RunMetrics) -> None:
    for key, style in (("prefix_loss", "-"), ("causal_loss", ":")):
        for number, (bucket, series) in enumerate(metrics.by_prefix_len(key).items()):
            label = f"{bucket} tokens" if key == "prefix_loss" else None
            axes.plot(*series, style, color=f"C{number}", marker="o", markersize=3, linewidth=1, label=label)
    axes.set_ylabel("nats per scored token")
    axes.legend(title="prefix; dotted: read causally")


def _series(key: str, unit: str) -> Callable[[Any, RunMetrics], None]:
    def draw(axes: Any, metrics: RunMetrics) -> None:
        axes.plot(*metrics.series(key), linewidth=1)
        axes.set_ylabel(unit)

    return draw


def _figure(draw: Callable[[Any, RunMetrics], None]) -> Callable[[RunMetrics], str]:
    def render(metrics: RunMetrics) -> str:
        figure, axes = pyplot.subplots(figsize=(8, 3.2), layout="constrained")
        draw(axes, metrics)
        axes.set_xlabel("step")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        for event in metrics.events:
            if event["event"] == "start" and event["step"] > 0:
                axes.axvline(event["step"], color="grey", linestyle=":", linewidth=1)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg")
        pyplot.close(figure)
        return buffer.getvalue()[buffer.getvalue().index("<svg") :]

    return render


FIGURES = {
    "Loss": _figure(_losses),
    BY_PREFIX: _figure(_losses_by_prefix_len),
    "Learning rate": _figure(_series("lr", "learning rate")),
    "Gradient norm before clipping": _figure(_series("grad_norm", "norm")),
    "Throughput": _figure(_series("tokens_per_s", "tokens per second")),
    "Time waiting for data": _figure(_series("data_wait_fraction", "fraction of the time")),
}
