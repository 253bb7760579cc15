"""Floating-point operations that a training step asks for, counted from the mask and not from its rectangle.

Counts the matrix products only, a multiply-add as two, and the backward pass as twice the forward pass (as in PaLM's
appendix B, Chowdhery et al. 2022, but with the attention's real number of query-key pairs and the head only where there
is a loss).
"""

import torch

from pipeline.config import ModelConfig
from pipeline.data.batch import Batch

# dense bf16 peak of one device, in FLOP/s, by a part of its name; vendors' data sheets
PEAK_FLOPS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "V100": 125e12,
}


def training_flops(
    config: ModelConfig, padded_vocab_size: int, tokens: int, targets: int, attended_pairs: int
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


def attended_pairs(batch: Batch) -> int:
    """Query-key pairs that the batch's mask allows, in one layer; known without asking the device.

    A segment of n tokens has n (n + 1) / 2 causal pairs, and a prefix of p adds the p (p - 1) / 2 that look ahead.
    """
    length_G, prefix_len_G = batch.segments_G3[:, 1], batch.segments_G3[:, 2]
    return int((length_G * (length_G + 1) + prefix_len_G * (prefix_len_G - 1)).sum()) // 2


def device_peak_flops(device: torch.device) -> float | None:
    """Peak of this device in FLOP/s, or None where it is not known (a CPU, say)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)
