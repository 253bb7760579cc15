"""Floating-point operations that a training step asks for, counted from the mask and not from its rectangle.

Counts the matrix products only, a multiply-add as two, and the backward pass as twice the forward pass (as in PaLM's
appendix B, Chowdhery et al. 2022, but with the attention's real number of query-key pairs and the head only where there
is a loss). What activation checkpointing computes again is not counted: MFU is about what the model asks for.

Shape suffixes: G segments.
"""

import re

import numpy as np

from pipeline.config.model import ModelConfig

# Dense peak of one device with bf16 factors and fp32 sums, in FLOP/s (V100 and T4, which have no bf16: fp16), by the
# words of its name as the driver tells it. From the vendors' data sheets, where figures "with sparsity" are halved; of
# the GeForce cards the appendices of NVIDIA's white papers on Ampere, Ada and Blackwell.
PEAK_FLOPS = {
    "GB200": 2500e12,
    "B200": 2250e12,
    "B100": 1750e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H200 NVL": 835e12,
    "H100": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100 80GB HBM2e": 756e12,  # the PCIe card, as older drivers call it
    "H800": 989e12,
    "H800 PCIe": 756e12,
    "H20": 148e12,
    "A100": 312e12,
    "A800": 312e12,
    "A40": 149.7e12,
    "A30": 165e12,
    "A10": 125e12,
    "A10G": 70e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 6000 Ada": 364.2e12,
    "RTX A6000": 154.8e12,
    "RTX 5090": 209.5e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
    "T4": 65e12,
    "MI300X": 1307.4e12,
    "MI250X": 191.5e12,  # a card is two devices
}


def training_flops(
    config: ModelConfig, padded_vocab_size: int, tokens: float, targets: float, attended_pairs: float
) -> float:
    """Forward and backward FLOPs of `tokens` input tokens of which `targets` are scored.

    Args:
        config: the model's shape.
        padded_vocab_size: rows of the embedding and so of the head.
        tokens: input positions, padding included.
        targets: positions with a loss.
        attended_pairs: query-key pairs that the mask allows, in one layer, over all rows.
    """
    blocks = config.num_layers * 12 * config.hidden_size**2  # QKV 3, projection 1, MLP 8
    attention = config.num_layers * 2 * config.hidden_size  # scores, and their product with the values
    head = config.hidden_size * padded_vocab_size
    return 3.0 * 2.0 * (tokens * blocks + attended_pairs * attention + targets * head)


def attended_pairs(segments_G3: np.ndarray) -> int:
    """Query-key pairs that the mask of some segments allows, in one layer.

    A segment of n tokens has n (n + 1) / 2 causal pairs, and a prefix of p adds the p (p - 1) / 2 that look ahead.

    Args:
        segments_G3: int64, start, length and prefix length among the inputs, as `Batch.segments_G3` has them.
    """
    length_G, prefix_len_G = segments_G3[:, 1], segments_G3[:, 2]
    return int((length_G * (length_G + 1) + prefix_len_G * (prefix_len_G - 1)).sum()) // 2


def peak_flops(device_name: str) -> float | None:
    """Peak of a GPU in FLOP/s by its name; None where it is not known, as for a slice of a GPU (MIG)."""
    if _has_words(device_name, "MIG"):
        return None
    longest_first = sorted(PEAK_FLOPS, key=len, reverse=True)  # "H100 PCIe" is no "H100"
    return next((PEAK_FLOPS[words] for words in longest_first if _has_words(device_name, words)), None)


def _has_words(device_name: str, words: str) -> bool:
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(words)}(?![A-Za-z0-9])", device_name) is not None
