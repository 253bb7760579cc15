"""FLOPs are counted as the model computes them, with no more attention than the mask allows."""

import numpy as np
import pytest
from tiny_corpus import VOCAB_SIZE
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config.model import ModelConfig
from pipeline.data.batch import make_batch
from pipeline.model import build_model
from pipeline.plan.flops import PEAK_FLOPS, attended_pairs, peak_flops, training_flops

CONFIG = ModelConfig(num_layers=3, hidden_size=32, num_attention_heads=4, max_position_embeddings=24)
PADDED = 128


def test_by_hand():
    """Two segments of 4 and 6 tokens, the second with a prefix of 3, in a model of one layer and hidden size 2."""
    config = ModelConfig(num_layers=1, hidden_size=2, num_attention_heads=1)
    pairs = (1 + 2 + 3 + 4) + (3 + 3 + 3 + 4 + 5 + 6)
    assert attended_pairs(np.array([[0, 4, 0], [4, 6, 3]])) == pairs == 34
    forward = 2 * (10 * 48 + 34 * (2 + 2) + 6 * 2 * 128)  # 10 tokens, 6 of them scored; 12 x 2 x 2 weights of a block
    assert training_flops(config, PADDED, tokens=10, targets=6, attended_pairs=pairs) == 3 * forward


@pytest.mark.parametrize("prefix_len", [0, 9])
def test_the_products_besides_attention_are_those_that_pytorch_counts(one_process, prefix_len):
    model = build_model(CONFIG, VOCAB_SIZE, seed=1).bfloat16()  # in fp32 the loss uses addmm_, which PyTorch overlooks
    rows = np.random.default_rng(0).integers(0, VOCAB_SIZE, (2, 25))
    batch = make_batch(rows, [np.array([[0, prefix_len]])] * 2, np.arange(2))
    with FlopCounterMode(display=False) as counter:
        model(batch).backward()
    counted = counter.get_flop_counts()["Global"]
    products = sum(flops for operation, flops in counted.items() if "attention" not in str(operation))
    assert training_flops(CONFIG, PADDED, 48, batch.num_targets, attended_pairs=0) == products


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H20", 148e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA GB200", 2500e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA RTX A6000", 154.8e12),
        ("NVIDIA RTX 6000 Ada Generation", 364.2e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("Tesla V100-SXM2-16GB", 125e12),
        ("Tesla T4", 65e12),
        ("NVIDIA T400 4GB", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA H1000", None),
    ],
)
def test_a_gpus_peak_is_that_of_its_own_name(name, peak):
    assert peak_flops(name) == peak


def test_every_known_name_finds_its_own_peak():
    assert all(peak_flops(f"NVIDIA {words}") == peak for words, peak in PEAK_FLOPS.items())
