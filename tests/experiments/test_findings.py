"""What is made of the experiments' figures is right, and the experiments can be made."""

import pytest
from arms import ARMS
from findings import COMPARISONS, buckets_table, comparisons_table, losses_table, mean_interval

from data_prep.config import PrepConfig
from foreword.config import load_config
from pipeline.config.train import TrainConfig

SEEDS = (1, 2, 3)


def evaluations(loss_of: dict[tuple[str, str], float], spread: float) -> dict:
    """As `foreword eval --json` tells them, with `spread` more nats for each further seed, the same for all arms."""
    found = {}
    for seed in SEEDS:
        for arm in ARMS:
            readings = {
                reading: {
                    "loss": loss_of.get((arm.name, reading), 5.0) + spread * seed,
                    "bits_per_byte": 2.0,
                    "targets": 7,
                }
                for reading in ("causal", "prefix")
            }
            buckets = [{"shortest": 0, "longest": 1, **readings}, {"shortest": 64, "longest": None, **readings}]
            found[arm.name, seed] = {**readings, "by_prefix_len": buckets}
    return found


def test_an_interval_is_students() -> None:
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 4.302653 / 3**0.5))


def test_arms_are_compared_within_a_seed() -> None:
    """However far apart the seeds are: what all arms share has no part in the interval."""
    table = comparisons_table(evaluations({("prefix", "prefix"): 4.75}, spread=10.0))
    (equal_tokens,) = [line for line in table.splitlines() if line.startswith("| prefix or causal, equal tokens ")]
    assert equal_tokens.endswith("| `prefix` read both ways - `causal` read causally | -0.2500 ± 0.0000 | 3 of 3 |")


def test_losses_are_shown_with_their_spread_and_what_was_consumed() -> None:
    table = losses_table(evaluations({("causal", "causal"): 3.0}, spread=1.0), {"causal": (2000, 1990)})
    assert "| `causal` | 2,000 | 1,990 | 5.0000 ± 1.0000 | 7.0000 ± 1.0000 |" in table


def test_every_bucket_of_prefix_lengths_has_a_line() -> None:
    lines = buckets_table(evaluations({("prefix", "prefix"): 6.0}, spread=0.0)).splitlines()[2:]
    assert lines[0] == "| 0-1 | 7 | 5.0000 ± 0.0000 | 6.0000 ± 0.0000 | +1.0000 ± 0.0000 |"
    assert lines[1].startswith("| 64+ |")


def test_an_arm_stands_behind_the_one_it_begins_with_and_all_that_is_compared_is_run() -> None:
    """The pool of `run.py` relies on the first."""
    names = [arm.name for arm in ARMS]
    assert all(arm.begins_with in [None, *names[:place]] for place, arm in enumerate(ARMS))
    assert {side[0] for comparison in COMPARISONS for side in (comparison.first, comparison.second)} == set(names)


def test_the_configurations_are_valid_and_fit() -> None:
    prep = load_config("experiments/data.yaml", [], PrepConfig)
    train = load_config("experiments/train.yaml", [], TrainConfig)
    assert str(prep.output) == str(train.data.corpus)
    assert prep.sequence_length == train.model.max_position_embeddings
    steps, every = train.schedule.total_steps, train.evaluation.every_steps
    assert all(steps * arm.share % every == 0 for arm in ARMS)  # so that each run ends with a validation
