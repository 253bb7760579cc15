"""The course of a run as a function of the steps and samples behind it."""

from itertools import islice

import pytest

from foreword.errors import ConfigError
from pipeline.config.optimization import BatchConfig, ScheduleConfig
from pipeline.schedule import Schedule

LENGTH = 16


def schedule(batch: dict | None = None, **config) -> Schedule:
    config = {"total_steps": 100} | config if "total_tokens" not in config else config
    batch = {"global_batch_size": 8} if batch is None else batch
    return Schedule(ScheduleConfig(**config), 1.0, BatchConfig(micro_batch_size=2, **batch), LENGTH)


def rates(course: Schedule, steps: int) -> list[float]:
    """Learning rates of the first steps."""
    samples, values = 0, []
    for step in range(steps):
        values.append(course.learning_rate(step, samples))
        samples += course.batch_size(step, samples)
    return values


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_warmup_rises_linearly_to_the_peak(kind):
    values = rates(schedule(kind=kind, warmup_steps=10), 11)
    assert values[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert values[10] == pytest.approx(1.0)


@pytest.mark.parametrize(("kind", "halfway"), [("cosine", 0.55), ("linear", 0.55), ("constant", 1.0)])
def test_the_decay_passes_its_middle_and_ends_at_the_minimum(kind, halfway):
    course = schedule(kind=kind, min_lr_ratio=0.1)
    assert course.learning_rate(50, 400) == pytest.approx(halfway)
    assert course.learning_rate(100, 800) == pytest.approx(1.0 if kind == "constant" else 0.1)
    assert course.learning_rate(1000, 8000) == course.learning_rate(100, 800)


def test_wsd_stays_at_the_peak_and_falls_over_its_last_steps():
    values = rates(schedule(kind="wsd", warmup_steps=10, decay_steps=20, min_lr_ratio=0.5), 101)
    assert values[9:81] == pytest.approx([1.0] * 72)
    assert values[90] == pytest.approx(0.75)
    assert values[100] == pytest.approx(0.5)


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant", "wsd"])
def test_lengths_in_tokens_are_the_same_course_as_in_steps(kind):
    decay = {"decay_steps": 20} if kind == "wsd" else {}
    in_steps = schedule(kind=kind, warmup_steps=10, **decay)
    tokens = {f"{key.removesuffix('_steps')}_tokens": value * 8 * LENGTH for key, value in decay.items()}
    in_tokens = schedule(kind=kind, total_tokens=100 * 8 * LENGTH, warmup_tokens=10 * 8 * LENGTH, **tokens)
    assert rates(in_tokens, 101) == pytest.approx(rates(in_steps, 101))
    assert in_tokens.total_steps() == 100


def test_a_batch_in_tokens_is_the_same_as_in_rows():
    assert schedule({"global_batch_tokens": 8 * LENGTH}).global_batch_size == 8


def test_a_run_in_tokens_ends_with_the_step_that_reaches_its_length():
    course = schedule(total_tokens=1000)  # a step has 128
    assert (course.total_steps(), course.total_samples()) == (8, 64)
    assert not course.is_over(7, 56)
    assert course.is_over(8, 64)


@pytest.mark.parametrize("length", [{"steps": 6}, {"tokens": 6 * 6 * LENGTH}])
def test_the_batch_grows_at_equal_distances_to_its_full_size(length):
    course = schedule({"global_batch_size": 12, "warmup": {"start_size": 4, "increment": 4, **length}})
    sizes = list(islice(course.batch_sizes(0, 0), 12))
    assert sizes == ([4] * 3 + [8] * 3 + [12] * 6 if "steps" in length else [4] * 5 + [8] * 2 + [12] * 5)
    for resumed in range(12):  # the sizes from any point on are those of the uninterrupted run
        assert list(islice(course.batch_sizes(resumed, sum(sizes[:resumed])), 12 - resumed)) == sizes[resumed:]


def test_the_length_of_a_run_in_tokens_counts_its_smaller_batches():
    course = schedule(
        {"global_batch_size": 12, "warmup": {"start_size": 4, "steps": 6}}, total_tokens=(3 * 4 + 3 * 8 + 24) * LENGTH
    )
    assert (course.total_steps(), course.total_samples()) == (8, 60)
    assert course.total_steps(7, 48) == 8


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"total_steps": 10, "warmup_steps": 10}, "warmup_steps 10 must be below total_steps 10"),
        ({"total_tokens": 10, "warmup_steps": 1}, "warmup_steps beside total_tokens: use warmup_tokens"),
        ({}, "set either total_steps or total_tokens"),
        ({"total_steps": 10, "total_tokens": 10}, "set either total_steps or total_tokens"),
        ({"total_steps": 10, "kind": "wsd"}, "kind wsd needs decay_steps"),
        ({"total_steps": 10, "decay_steps": 2}, "decay_steps belongs to kind wsd"),
        ({"total_steps": 10, "kind": "wsd", "warmup_steps": 5, "decay_steps": 6}, "do not fit into total_steps 10"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ScheduleConfig(**values)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"global_batch_tokens": 100}, "use 96 or 112"),
        ({"global_batch_size": 8, "warmup": {"start_size": 8, "steps": 2}}, "does not grow to 8"),
        ({"global_batch_size": 9, "warmup": {"start_size": 4, "steps": 2}}, "does not grow to 9"),
    ],
)
def test_batches_that_cannot_be_reached_are_refused(batch, message):
    with pytest.raises(ConfigError, match=message):
        schedule(batch)


def test_the_size_of_a_batch_is_set_once():
    with pytest.raises(ValueError, match="set either global_batch_size or global_batch_tokens"):
        BatchConfig(micro_batch_size=1)
