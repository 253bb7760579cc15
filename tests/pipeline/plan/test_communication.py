"""What each GPU sends is what the formulas of the papers say, and takes longer on more nodes and slower networks."""

from pathlib import Path

import pytest
from training import train_config

from pipeline.plan.communication import (
    Collective,
    Group,
    bandwidth_s,
    data_parallel,
    groups,
    latency_s,
    sent,
    tensor_parallel,
)
from pipeline.plan.hardware import Hardware, gpu_named, network_named

HARDWARE = Hardware(gpu_named("h100"), 8, network_named("ndr400"))
PARAMETERS = 1000


def volume(zero_stage: int, micro_batches: int = 1, ranks: int = 8) -> float:
    parallel = {"zero_stage": zero_stage}
    config = train_config(Path("run"), Path("corpus"), precision="bf16", parallel=parallel)
    made = data_parallel(config, PARAMETERS, micro_batches, Group(ranks, 1))
    return sum(sent(collective).bytes for collective in made)


@pytest.mark.parametrize(
    ("zero_stage", "bytes_a_parameter"),
    [
        (0, 2 * 4),  # an all-reduce of fp32 gradients
        (1, 2 * 4 + 2),  # and an all-gather of bf16 weights
        (2, 2 * 4 + 2),
        (3, 2 * 2 + 4),  # two all-gathers, and a reduce-scatter
    ],
)
def test_a_stage_sends_what_deepspeed_sends(zero_stage, bytes_a_parameter):
    assert volume(zero_stage) == pytest.approx(7 / 8 * PARAMETERS * bytes_a_parameter)


def test_accumulation_costs_communication_at_stages_2_and_3_only():
    grown = [volume(stage, micro_batches=4) / volume(stage) for stage in range(4)]
    assert grown == pytest.approx([1, 1, (4 * 8 + 2) / 10, 4])


def test_one_process_sends_nothing():
    assert all(volume(stage, ranks=1) == 0 for stage in range(4))
    assert latency_s(Collective("all-reduce", 1e9, 5, Group(1, 1)), HARDWARE) == 0


def test_levels_send_as_much_as_one_ring_over_all_ranks():
    """(m - 1) / m + (k - 1) / (k m) = (k m - 1) / (k m)."""
    made = sent(Collective("all-reduce", 1e9, 1, Group(8, 16)))
    assert made.bytes == pytest.approx(2 * 127 / 128 * 1e9)
    assert made.between_nodes_bytes == pytest.approx(2 * 15 / 16 * 1e9 / 8)


def test_an_all_reduce_is_a_reduce_scatter_and_an_all_gather():
    parts = [bandwidth_s(Collective(kind, 1e9, 1, Group(8, 4)), HARDWARE) for kind in ("reduce-scatter", "all-gather")]
    assert sum(parts) == pytest.approx(bandwidth_s(Collective("all-reduce", 1e9, 1, Group(8, 4)), HARDWARE))


def test_sequence_parallelism_sends_a_quarter_more_in_the_layers():
    def hidden_states(sequence_parallel: bool) -> float:
        parallel = {"tensor_parallel_size": 2, "sequence_parallel": sequence_parallel}
        config = train_config(Path("run"), Path("corpus"), parallel=parallel, model__num_layers=1000)
        return sum(sent(made).bytes for made in tensor_parallel(config, 32, 1, Group(2, 1)))

    assert hidden_states(True) / hidden_states(False) == pytest.approx(1.25, rel=1e-3)


def test_tensor_parallel_ranks_are_neighbours_and_the_others_span_nodes():
    assert groups(64, 4, 8) == (Group(2, 8), Group(4, 1))
    assert groups(4, 1, 8) == (Group(4, 1), Group(1, 1))
    assert groups(32, 16, 8) == (Group(1, 2), Group(8, 2))


@pytest.mark.parametrize("kind", ["all-reduce", "reduce-scatter", "all-gather"])
def test_time_grows_with_nodes_and_messages_and_on_slower_networks(kind):
    slow = Hardware(HARDWARE.gpu, 8, network_named("ethernet-100g"))
    few, many = Collective(kind, 1e9, 1, Group(8, 2)), Collective(kind, 1e9, 3, Group(8, 32))
    assert latency_s(many, HARDWARE) > 3 * latency_s(few, HARDWARE)
    assert bandwidth_s(many, HARDWARE) > bandwidth_s(few, HARDWARE)
    assert bandwidth_s(few, slow) > 5 * bandwidth_s(few, HARDWARE)
