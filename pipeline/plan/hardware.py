"""GPUs and networks as small tables of published figures; what a user may name, and what he may give instead.

Bandwidths are of one direction and in bytes per second, latencies those of one step of a ring.
"""

import math
from dataclasses import dataclass

import numpy as np

from foreword.errors import ConfigError
from pipeline.plan.flops import PEAK_FLOPS

# of NVLink's rate, as all-reduce reaches it on a node of A100s: 235 of 300 GB/s (github.com/stas00/ml-engineering,
# network/README.md); taken for networks too
ACHIEVED_BANDWIDTH = 0.8
# NCCL's own model of its rings, protocol "simple" (github.com/NVIDIA/nccl, src/graph/tuning.cc: baseLat, hwLat)
COLLECTIVE_LATENCY_S = 8.4e-6
NVLINK_LATENCY_S = 3.4e-6
INFINIBAND_LATENCY_S = 9.6e-6
ETHERNET_LATENCY_S = 30e-6  # an assumption, for TCP

# hidden size -> share of the peak that training reached on one node of eight A100s, FLOPs counted as `flops` counts
# them. From tokens/s that github.com/mosaicml/llm-foundry, scripts/train/benchmarking/README.md, publishes for its
# 125m, 350m, 760m and 1b models, in rows of 1,024 tokens (760m: 2,048).
A100_UTILISATION = {768: 0.40, 1024: 0.47, 1536: 0.52, 2048: 0.58}
# The same page for 760m and 1b; below that it has no figures for H100s, and 0.7 of what A100s reach is taken.
H100_UTILISATION = {768: 0.28, 1024: 0.33, 1536: 0.38, 2048: 0.40}


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        name: as it is named in options and `PEAK_FLOPS`.
        memory_bytes: its own.
        nvlink_bytes_per_s: to all others of its node together, as the vendor says.
        utilisation: hidden size of the model -> share of the peak that its arithmetic reaches.
    """

    name: str
    memory_bytes: float
    nvlink_bytes_per_s: float
    utilisation: dict[int, float]

    @property
    def peak_flops(self) -> float:
        """In bf16, FLOP/s."""
        return PEAK_FLOPS[self.name]

    def utilisation_at(self, hidden_size: int) -> float:
        """Share of the peak for a model of this width: in proportion between the table's, and its ends beyond them."""
        return float(np.interp(hidden_size, list(self.utilisation), list(self.utilisation.values())))


@dataclass(frozen=True)
class Network:
    """What connects nodes.

    Attributes:
        name: for a person.
        gpu_bytes_per_s: of each GPU's own port; None where the GPUs of a node share one.
        node_bytes_per_s: of that one.
        latency_s: of one step between nodes.
    """

    name: str
    gpu_bytes_per_s: float | None
    node_bytes_per_s: float | None
    latency_s: float

    def bytes_per_s(self, gpus_per_node: int) -> float:
        """What each GPU of a node has when all of them send."""
        if self.gpu_bytes_per_s is not None:
            return self.gpu_bytes_per_s
        assert self.node_bytes_per_s is not None
        return self.node_bytes_per_s / gpus_per_node


# NVLink: 300 and 450 GB/s in one direction (github.com/stas00/ml-engineering, network/README.md)
GPUS = {
    gpu.name.lower(): gpu
    for gpu in (
        Gpu("A100", 80e9, 300e9, A100_UTILISATION),
        Gpu("H100", 80e9, 450e9, H100_UTILISATION),
        Gpu("H200", 141e9, 450e9, H100_UTILISATION),
    )
}
# InfiniBand HDR and NDR run at 200 and 400 Gbit/s a port, with a port for each GPU
NETWORKS = {
    network.name: network
    for network in (
        Network("hdr200", 25e9, None, INFINIBAND_LATENCY_S),
        Network("ndr400", 50e9, None, INFINIBAND_LATENCY_S),
        Network("ethernet-400g", None, 50e9, ETHERNET_LATENCY_S),
        Network("ethernet-100g", None, 12.5e9, ETHERNET_LATENCY_S),
    )
}


@dataclass(frozen=True)
class Hardware:
    """A cluster as far as a prediction knows it."""

    gpu: Gpu
    gpus_per_node: int
    network: Network


def gpu_named(name: str) -> Gpu:
    """A GPU of the table, in capitals or not.

    Raises:
        ConfigError: it is not in the table.
    """
    if name.lower() not in GPUS:
        raise ConfigError(f"no figures for a GPU {name!r}", where="gpu", remedy=f"use one of {', '.join(GPUS)}")
    return GPUS[name.lower()]


def network_named(text: str) -> Network:
    """A network of the table, or `GBIT,MICROSECONDS`: of each GPU's port, and of a step between nodes.

    Raises:
        ConfigError: it is neither.
    """
    if text in NETWORKS:
        return NETWORKS[text]
    remedy = f"use one of {', '.join(NETWORKS)}, or Gbit/s of each GPU and microseconds, for example 200,9.6"
    words = text.split(",")
    if len(words) != 2:
        raise ConfigError(f"no network {text!r}", where="network", remedy=remedy)
    try:
        gbit, microseconds = map(float, words)
    except ValueError:
        raise ConfigError(f"{text!r} is not two numbers", where="network", remedy=remedy) from None
    if not (math.isfinite(gbit) and gbit > 0 and math.isfinite(microseconds) and microseconds >= 0):
        message = f"{text!r}: the bandwidth must be above 0 and the latency not below, and both finite"
        raise ConfigError(message, where="network", remedy=remedy)
    return Network(f"{gbit:g} Gbit/s a GPU, {microseconds:g} us", gbit * 1e9 / 8, None, microseconds * 1e-6)
