"""A run -> `report.html`: its curves, what happened to it, what it wrote, its data and its configuration."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foreword.config import load_config
from foreword.errors import ConfigError, DataError
from foreword.pages import bars
from pipeline.config.objective import describe_objectives
from pipeline.config.train import TrainConfig
from pipeline.report.charts import Chart, Curve, charts_for_a_page
from pipeline.report.corpus_facts import corpus_facts
from pipeline.report.history import Moment, history, seconds_by_part, wall_time_s
from pipeline.report.page import write_report_page
from pipeline.telemetry.metrics import RunMetrics, read_metrics
from pipeline.telemetry.summary import TITLES

CONFIG_NAME, REPORT_NAME = "config.yaml", "report.html"
VALIDATIONS = (
    ("prefix_loss", "validation, prefix"),
    ("causal_loss", "validation, causal"),
    ("masked_loss", "validation, masked"),
)


def write_report(run_dir: Path, job_events: Sequence[Mapping[str, Any]] = ()) -> Path:
    """Write `report.html` into the run's directory and return its path.

    Args:
        run_dir: the run.
        job_events: what its jobs said of themselves, see `history`.

    Raises:
        DataError: the directory holds no run, or a run without a single logged step or its configuration.
    """
    metrics = read_run(run_dir)
    path = run_dir / CONFIG_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path) from None
    try:
        config: TrainConfig | None = load_config(path, [], TrainConfig)
    except ConfigError:
        config = None  # of another version of Foreword; it is shown as it is
    moments = history(metrics, job_events)
    parts = {key: value for key, value in seconds_by_part(metrics).items() if value}
    write_report_page(
        run_dir / REPORT_NAME,
        "run.html.j2",
        run=run_dir.resolve().name,
        what=_what(config),
        state=_state(metrics),
        tiles=_tiles(metrics),
        charts=charts_for_a_page(run_charts(metrics, moments)),
        moments=moments,
        parts=bars([(TITLES.get(key, key), value, f"{value:,.1f} s") for key, value in parts.items()]),
        samples=_samples(metrics),
        corpora=corpus_facts(config.data) if config else [],
        draws=config is not None and config.boundaries.policy != "shards" and config.boundaries.policy,
        config=text,
    )
    return run_dir / REPORT_NAME


def read_run(run_dir: Path) -> RunMetrics:
    """A run's records.

    Raises:
        DataError: the directory holds no run, or one without a single logged step.
    """
    metrics = read_metrics(run_dir)
    if not metrics.steps:
        raise DataError("no step has been logged yet", where=run_dir, remedy="wait for logging.every_steps steps")
    return metrics


def run_charts(metrics: RunMetrics, moments: Sequence[Moment]) -> list[Chart]:
    """All charts of a run, empty ones among them."""
    marks = {float(m.step): str(m.mark) for m in moments if m.mark is not None and m.step is not None}
    skipped = [m.step for m in moments if m.what == "skipped" and m.step is not None]

    def chart(title: str, unit: str, *curves: Curve, **others: Any) -> Chart:
        return Chart(title, unit, curves, marks=marks, **others)

    validation = [
        Curve(label, *metrics.event_series("validation", key), colour=colour, points=True)
        for colour, (key, label) in enumerate(VALIDATIONS, start=1)
    ]
    buckets = [
        Curve(bucket if key == "prefix_loss" else None, *series, number, dotted=key == "causal_loss", points=True)
        for key in ("prefix_loss", "causal_loss")
        for number, (bucket, series) in enumerate(metrics.by_prefix_len(key).items())
    ]
    nats = "nats per scored token"
    return [
        chart("Loss", nats, Curve("training", *metrics.series("loss")), *validation, ticks=skipped),
        chart(
            "Validation loss by length of the prefix",
            nats,
            *buckets,
            note="One colour for each range of prefix lengths, in tokens; dotted: read causally.",
        ),
        chart("Learning rate", "learning rate", Curve(None, *metrics.series("lr"))),
        chart(
            "Gradient norm before clipping",
            "norm",
            Curve(None, *metrics.series("grad_norm")),
            scale="log",
            ticks=skipped,
        ),
        chart(
            "Throughput",
            "per second",
            Curve("tokens", *metrics.series("tokens_per_s")),
            Curve("targets", *metrics.series("targets_per_s"), colour=1),
        ),
        chart("Model FLOPs utilisation", "% of the peak", Curve(None, *_scaled(metrics, "mfu", 100))),
        chart("Time waiting for data", "% of the time", Curve(None, *_scaled(metrics, "data_wait_fraction", 100))),
        chart("Memory of rank 0", "GB", Curve(None, *_scaled(metrics, "memory_bytes", 1e-9))),
    ]


def _scaled(metrics: RunMetrics, key: str, factor: float) -> tuple[list[int], list[float]]:
    steps, values = metrics.series(key)
    return steps, [factor * value for value in values]


def _what(config: TrainConfig | None) -> str:
    if config is None:
        return ""
    shape, parallel = config.model, config.parallel
    return (
        f"Objective {describe_objectives(config.objective)}; {shape.num_layers} layers, "
        f"hidden size {shape.hidden_size}, {shape.num_attention_heads} heads; {config.precision}, "
        f"ZeRO {parallel.zero_stage}, tensor parallel {parallel.tensor_parallel_size}."
    )


def _state(metrics: RunMetrics) -> str:
    last = [event for event in metrics.events if event["event"] in ("start", "stop", "finish")]
    if not last or last[-1]["event"] == "start":
        return "not finished"
    if last[-1]["event"] == "finish":
        return "finished"
    return f"stopped: {last[-1].get('reason', '')}"


def _tiles(metrics: RunMetrics) -> list[tuple[str, str]]:
    last = metrics.steps[-1]
    tiles = [("step", f"{last['step']:,}"), ("training loss", f"{last['loss']:.4f}")]
    for key, label in VALIDATIONS:
        _, values = metrics.event_series("validation", key)
        if values:
            tiles.append((f"{label}; best {min(values):.4f}", f"{values[-1]:.4f}"))
    _, bits = metrics.event_series("validation", "prefix_bits_per_byte")
    if bits:
        tiles.append(("bits per byte, prefix", f"{bits[-1]:.4f}"))
    tiles += [("tokens", f"{last['tokens_consumed']:,}"), ("of them targets", f"{last['targets_consumed']:,}")]
    for key, label, form in (("tokens_per_s", "tokens per second, median", ",.0f"), ("mfu", "MFU, median", ".1%")):
        rates = sorted(metrics.series(key)[1])
        if rates:
            tiles.append((label, format(rates[len(rates) // 2], form)))
    tiles.append(("running time", duration(wall_time_s(metrics))))
    tiles.append(("starts", str(sum(event["event"] == "start" for event in metrics.events))))
    skipped = sum(event["event"] == "skipped" for event in metrics.events)
    return [*tiles, ("skipped steps", f"{skipped:,}")] if skipped else tiles


def _samples(metrics: RunMetrics) -> list[dict[str, Any]]:
    """Prompt, what really follows, and the continuations with their steps: one such entry for each prompt."""
    by_prompt: dict[str, dict[str, Any]] = {}
    for event in metrics.events:
        for sample in event["samples"] if event["event"] == "samples" else ():
            entry = by_prompt.setdefault(sample["prompt"], {**sample, "continuations": {}})
            entry["continuations"][event["step"]] = sample["continuation"]
    return [{**entry, "continuations": sorted(entry["continuations"].items())} for entry in by_prompt.values()]


def duration(seconds: float) -> str:
    """Like 1 h 05 min, 5 min or 12.3 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02} min"
