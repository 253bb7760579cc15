"""Charts keep what matters of their curves, and take the colours of the page."""

import re

import numpy as np
import pytest

from pipeline.report.charts import Chart, Curve, svg, thin


@pytest.mark.parametrize("count", [1, 2, 7, 99, 100, 101, 1234])
def test_a_thinned_curve_keeps_its_mean_its_ends_and_its_extremes(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    x, (mean, least, greatest) = thin(np.arange(count), values, most=100)
    assert len(x) == min(count, 100)
    assert (least.min(), greatest.max()) == (values.min(), values.max())
    assert (least <= mean + 1e-12).all() and (mean <= greatest + 1e-12).all()
    assert (np.diff(x) > 0).all()
    if count <= 100:
        assert mean == pytest.approx(values)


def test_what_is_not_finite_is_left_out() -> None:
    x, (mean, *_) = thin([1, 2, 3], [1.0, np.nan, np.inf])
    assert (x.tolist(), mean.tolist()) == ([1.0], [1.0])
    assert thin([], [])[0].size == 0


def test_a_chart_has_the_pages_colours_and_real_text() -> None:
    curves = [Curve("one & two", [0, 1], [1.0, 2.0]), Curve("other", [0, 1], [2.0, 1.0], colour=1)]
    text = svg(Chart('a "title"', "nats", curves, marks={1.0: "7"}, ticks=[0.5]))
    assert not re.search(r"#[0-9a-f]{6}", text)
    assert {"var(--ink)", "var(--c0)", "var(--c1)", "var(--c4)"} <= set(re.findall(r"var\(--\w+\)", text))
    assert all(f">{label}<" in text for label in ("one &amp; two", "other", "nats", "step", "7"))
    assert 'aria-label="a &quot;title&quot;"' in text
    assert "width=" not in text.partition(">")[0]


def test_the_same_chart_is_drawn_the_same_every_time() -> None:
    chart = Chart("t", "y", [Curve("a", [0, 1], [1.0, 2.0])])
    assert svg(chart) == svg(chart)
