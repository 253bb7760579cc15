"""The bytes that a rank writes are a safetensors file of its fragments, ready to be written without a copy."""

import pytest
import torch
from safetensors.torch import load

from pipeline.checkpoint.fragments import Fragment
from pipeline.checkpoint.image import HostImage
from pipeline.checkpoint.meta import KINDS
from pipeline.checkpoint.write import ALIGNMENT_BYTES


def fragments(sizes: dict[str, int], seed: int) -> list[Fragment]:
    random = torch.Generator().manual_seed(seed)
    return [
        Fragment(name, 0, {kind: torch.rand(numel, generator=random) for kind in KINDS})
        for name, numel in sizes.items()
    ]


@pytest.mark.parametrize("sizes", [{"a": 1}, {"a": 1023, "b.weight": 5, "c": 4096}])
def test_the_library_reads_what_was_filled_in_last(sizes):
    image = HostImage(sizes, torch.device("cpu"))
    for seed in (1, 2):
        filled = fragments(sizes, seed)
        image.fill(filled)
        tensors = load(bytes(image.content))
        assert len(tensors) == len(KINDS) * len(sizes)
        for fragment in filled:
            for kind in KINDS:
                assert torch.equal(tensors[f"{kind}/{fragment.name}"], fragment.state[kind])


def test_it_lies_where_the_page_cache_can_be_bypassed():
    image = HostImage({"a": 100_000}, torch.device("cpu"))
    assert torch.frombuffer(image.content, dtype=torch.uint8).data_ptr() % ALIGNMENT_BYTES == 0
