"""Curves -> charts as SVG inside of a page: small, so that they can be read on a phone, in the page's own colours.

Text stays text in the page's font. Colours are the page's variables, so that a chart is dark where the page is. Curves
of many points are thinned to the mean of neighbours, with a band from the least to the greatest of them.
"""

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import matplotlib
import numpy as np

matplotlib.use("svg")
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

SIZE_INCHES = (5.0, 3.0)  # 360 points: as wide as a phone, so that its text is as large as it says
MOST_POINTS = 300
NUM_COLOURS = 8
# stand for the page's variables until the SVG is written
_INK, _SOFT, _LINE = "#010101", "#010102", "#010103"
_SERIES = tuple(f"#0102{index:02x}" for index in range(NUM_COLOURS))
_VARIABLES = {_INK: "ink", _SOFT: "soft", _LINE: "line"} | {_SERIES[i]: f"c{i}" for i in range(NUM_COLOURS)}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "foreword",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _SOFT,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "grid.color": _LINE,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.labelcolor": _INK,
}


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        label: in the legend; None has no entry.
        x, y: points, x in ascending order.
        colour: number of the page's colour.
        dotted: whether the line is.
        points: whether each point is marked, because there are few.
    """

    label: str | None
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    dotted: bool = False
    points: bool = False


@dataclass(frozen=True)
class Chart:
    """What a chart shows.

    Attributes:
        title: above it.
        y_label: with the unit.
        curves: those without points are left out.
        x_label: with the unit.
        scale: of the y axis.
        marks: x -> short text, for vertical lines such as restarts.
        ticks: x of small ticks at the foot, such as skipped steps.
        note: below it, for what the legend cannot say.
    """

    title: str
    y_label: str
    curves: Sequence[Curve]
    x_label: str = "step"
    scale: Literal["linear", "log"] = "linear"
    marks: dict[float, str] = field(default_factory=dict)
    ticks: Sequence[float] = ()
    note: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(len(curve.x) for curve in self.curves)


def svg(chart: Chart) -> str:
    """The chart as an <svg> element."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        axes = figure.subplots()
        for curve in chart.curves:
            if len(curve.x):
                _draw(axes, curve)
        axes.set_yscale(chart.scale)
        axes.set_ylabel(chart.y_label)
        axes.set_xlabel(chart.x_label)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(_short))
        if chart.scale == "linear":
            axes.yaxis.set_major_formatter(FuncFormatter(_short))
        axes.grid(linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(which="both", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        for x, text in chart.marks.items():
            axes.axvline(x, color=_SOFT, linestyle=":", linewidth=1)
            axes.annotate(
                text, (x, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", color=_SOFT, fontsize=8
            )
        if len(chart.ticks):
            foot = np.zeros(len(chart.ticks))
            at_the_foot = axes.get_xaxis_transform()
            axes.plot(chart.ticks, foot, "|", color=_SERIES[4], markersize=9, transform=at_the_foot, clip_on=False)
        if sum(bool(curve.label and len(curve.x)) for curve in chart.curves) > 1:
            axes.legend(ncols=2 if len(chart.curves) > 3 else 1, handlelength=1.4, columnspacing=1.0, labelspacing=0.3)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _for_a_page(buffer.getvalue(), chart.title)


def thin(x: Sequence[float], y: Sequence[float], most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` points: x [n], and y [3, n], the means of neighbours with their least and greatest.

    Values that are not finite are left out.
    """
    values_2N = np.array([x, y], dtype=np.float64)
    values_2N = values_2N[:, np.isfinite(values_2N[1])]
    count = values_2N.shape[1]
    if not count:
        return np.empty(0), np.empty((3, 0))
    parts = np.unique(np.arange(min(count, most)) * count // min(count, most))
    sizes = np.diff(np.append(parts, count))
    mean_x, mean_y = (np.add.reduceat(row, parts) / sizes for row in values_2N)
    extremes = [operation.reduceat(values_2N[1], parts) for operation in (np.minimum, np.maximum)]
    return mean_x, np.stack([mean_y, *extremes])


def _draw(axes: Any, curve: Curve) -> None:
    x, (mean, least, greatest) = thin(curve.x, curve.y)
    colour = _SERIES[curve.colour % NUM_COLOURS]
    few = curve.points and len(x) <= 40
    style: dict[str, Any] = {"marker": "o", "markersize": 3.5} if few or len(x) == 1 else {}
    axes.plot(x, mean, ":" if curve.dotted else "-", color=colour, linewidth=1.5, label=curve.label, **style)
    if (greatest > least).any():
        axes.fill_between(x, least, greatest, color=colour, alpha=0.18, linewidth=0)


def _short(value: float, _: object = None) -> str:
    """A tick's number in few characters."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):g}{unit}"
    return f"{value:g}"


def _for_a_page(text: str, title: str) -> str:
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="|url\()#([\w.-]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    text = re.sub(r"font(-family)?: ([^;\"]*?)'?sans-serif'?[^;\"]*", _with_the_pages_font, text)
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt" ', "", text, count=1)
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _with_the_pages_font(match: re.Match[str]) -> str:
    return "font-family: inherit" if match[1] else f"font: {match[2]}system-ui, sans-serif"


def charts_for_a_page(charts: Iterable[Chart]) -> list[tuple[Chart, str]]:
    """Those that show something, with their SVG."""
    return [(chart, svg(chart)) for chart in charts if not chart.is_empty]
