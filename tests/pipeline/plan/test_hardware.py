"""Networks and GPUs are named or given in numbers, and nonsense is refused with what can be said instead."""

import pytest

from foreword.errors import ConfigError
from pipeline.plan.hardware import GPUS, NETWORKS, gpu_named, network_named


def test_numbers_are_those_of_each_gpu():
    own = network_named("200,9.6")
    assert own.bytes_per_s(8) == own.bytes_per_s(4) == NETWORKS["hdr200"].bytes_per_s(8) == 25e9
    assert own.latency_s == pytest.approx(NETWORKS["hdr200"].latency_s)


def test_gpus_of_a_node_share_its_one_port():
    assert network_named("ethernet-100g").bytes_per_s(8) == 12.5e9 / 8


@pytest.mark.parametrize("text", ["", "hdr", "200", "200,", "a,b", "0,5", "-1,5", "200,-1", "nan,1", "inf,1", "1,2,3"])
def test_nonsense_is_refused_with_what_is_known(text):
    with pytest.raises(ConfigError, match="hdr200, ndr400, ethernet-400g, ethernet-100g, or Gbit/s"):
        network_named(text)


def test_an_unknown_gpu_is_refused_with_the_known_ones():
    assert gpu_named("H100") == gpu_named("h100")
    with pytest.raises(ConfigError, match="a100, h100, h200"):
        gpu_named("abacus")


@pytest.mark.parametrize("gpu", GPUS.values(), ids=lambda gpu: gpu.name)
def test_utilisation_grows_with_the_width_and_ends_with_its_table(gpu):
    reached = [gpu.utilisation_at(width) for width in (64, 768, 1280, 1600, 2048, 8192)]
    assert reached == sorted(reached)
    assert reached[0] == reached[1] == gpu.utilisation[768]
    assert reached[-1] == gpu.utilisation[2048]
