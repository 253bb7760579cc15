"""Where time goes adds up, and rates are those of the steps alone."""

import pytest
import torch

from pipeline.config.model import ModelConfig
from pipeline.plan.flops import training_flops
from pipeline.telemetry import clock as clock_room
from pipeline.telemetry import throughput as throughput_room
from pipeline.telemetry.clock import Clock
from pipeline.telemetry.summary import summary_table
from pipeline.telemetry.throughput import Throughput, Work

MODEL = ModelConfig(num_layers=2, hidden_size=8, num_attention_heads=2)
STEP = Work(steps=1, tokens=1000, targets=400, attended_pairs=5000)


class Time:
    """A clock that goes when it is told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch) -> Time:
    time = Time()
    monkeypatch.setattr(clock_room, "perf_counter", time)
    return time


def a_run(time: Time, clock: Clock, throughput: Throughput) -> list[dict]:
    """3 s of start-up; two steps of 2 s, each after 0.5 s of waiting, an evaluation of 10 s between them; 4 s of saving
    in the middle of 1 s of evaluating. The rates after each step."""
    time.now += 3.0
    clock.go_over_to("training")
    rates = []
    for _ in range(2):
        with clock.spent_on("data_wait"):
            time.now += 0.5
        time.now += 2.0
        throughput.add(STEP)
        rates.append(throughput.rates())
        with clock.spent_on("evaluating"):
            time.now += 10.0
    with clock.spent_on("evaluating"):
        time.now += 1.0
        with clock.spent_on("saving"):
            time.now += 4.0
    return rates


def test_every_moment_belongs_to_one_part(time):
    clock = Clock(began=98.0)
    a_run(time, clock, Throughput(MODEL, 128, 2, torch.device("cpu"), clock))
    parts = {"start_up": 5, "training": 4, "data_wait": 1, "evaluating": 21, "saving": 4, "profiling": 0}
    assert clock.seconds() == parts
    assert sum(clock.seconds().values()) == time.now - 98.0


def test_a_clock_counts_moves_from_part_to_part_and_from_item_to_item_that_it_follows():
    clock = Clock()
    clock.go_over_to("training")
    clock.seconds()  # no move
    with clock.spent_on("data_wait"):
        items = clock.follow(number for number in (1, 2, 3))
    assert clock.moves == 3
    assert (len(items), items[-1], clock.moves) == (3, 3, 3)
    assert [number for _, number in enumerate(items)] == [1, 2, 3]
    assert clock.moves == 6


def test_rates_are_over_the_time_of_the_steps_and_mfu_over_all_devices(time, monkeypatch):
    monkeypatch.setattr(throughput_room, "device_peak_flops", lambda _: 1e6)
    clock = Clock()
    throughput = Throughput(MODEL, 128, 2, torch.device("cpu"), clock)
    flops = training_flops(MODEL, 128, 1000, 400, 5000)
    wanted = {"tokens_per_s": 400.0, "targets_per_s": 160.0, "flops_per_s": flops / 2.5, "mfu": flops / 2.5 / 2e6}
    rates = a_run(time, clock, throughput)
    assert rates == [wanted | {"data_wait_fraction": 0.2}] * 2
    assert wanted.items() <= throughput.summary().items()


def test_a_summary_adds_up_and_its_table_says_the_same(time):
    clock = Clock()
    throughput = Throughput(MODEL, 128, 1, torch.device("cpu"), clock)
    throughput.add(Work(steps=1, skipped_steps=1, tokens=1000, targets=400, attended_pairs=5000))
    a_run(time, clock, throughput)
    summary = throughput.summary()
    assert (summary["steps"], summary["skipped_steps"], summary["tokens"], summary["targets"]) == (3, 1, 3000, 1200)
    parts = ("start_up_s", "training_s", "data_wait_s", "evaluating_s", "saving_s")
    assert summary["total_s"] == sum(summary[part] for part in parts) == 33.0
    table = summary_table(summary)
    assert "3 steps, 1 of them skipped; 3,000 tokens, 1,200 of them targets" in table
    assert "600 tokens/s, 240 targets/s" in table
    assert "MFU" not in table
    assert [line.split()[-3:] for line in table.splitlines()[-2:]] == [["4.00", "s", "12.1%"], ["33.00", "s", "100.0%"]]


def test_a_start_without_a_step_has_no_rates(time):
    throughput = Throughput(MODEL, 128, 1, torch.device("cpu"), Clock(began=90.0))
    summary = throughput.summary()
    assert (summary["tokens_per_s"], summary["mfu"], summary["total_s"]) == (None, None, 10.0)
    assert "this start: 0 steps" in summary_table(summary)
