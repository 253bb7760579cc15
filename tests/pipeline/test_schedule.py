"""The learning rate as a function of the step."""

import pytest

from pipeline.config import ScheduleConfig
from pipeline.schedule import learning_rate


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_warmup_rises_linearly_to_the_peak(kind):
    schedule = ScheduleConfig(kind=kind, total_steps=100, warmup_steps=10)
    rates = [learning_rate(step, 1.0, schedule) for step in range(11)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == pytest.approx(1.0)


@pytest.mark.parametrize(("kind", "halfway"), [("cosine", 0.55), ("linear", 0.55), ("constant", 1.0)])
def test_the_decay_passes_its_middle_and_ends_at_the_minimum(kind, halfway):
    schedule = ScheduleConfig(kind=kind, total_steps=100, warmup_steps=0, min_lr_ratio=0.1)
    assert learning_rate(50, 1.0, schedule) == pytest.approx(halfway)
    assert learning_rate(100, 1.0, schedule) == pytest.approx(1.0 if kind == "constant" else 0.1)
    assert learning_rate(1000, 1.0, schedule) == learning_rate(100, 1.0, schedule)


def test_a_warmup_as_long_as_the_run_is_refused():
    with pytest.raises(ValueError, match="warmup_steps 10 must be below total_steps 10"):
        ScheduleConfig(total_steps=10, warmup_steps=10)
