"""Any range of any slice is read, whatever the cut that was written."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_checkpoint import PARAMETERS, logical_tensor, make_checkpoint
from training import train_config

from foreword.errors import CheckpointError
from pipeline.checkpoint.meta import KINDS, read_meta
from pipeline.checkpoint.read import CheckpointReader

SIZES = (1, 2, 4)


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    """Tensor-parallel size -> a reader of the same logical tensors."""
    root = tmp_path_factory.mktemp("cuts")
    made = [make_checkpoint(root, size, config=train_config(root, root), tensor_parallel_size=size) for size in SIZES]
    return {size: CheckpointReader(path, read_meta(path)) for size, path in zip(SIZES, made, strict=True)}


@given(
    name=st.sampled_from(sorted(PARAMETERS)),
    kind=st.sampled_from(KINDS),
    written=st.sampled_from(SIZES),
    size=st.sampled_from(SIZES),
    data=st.data(),
)
def test_a_range_of_a_slice_is_the_same_however_it_was_written(readers, name, kind, written, size, data):
    dim = PARAMETERS[name][1]
    rank = data.draw(st.integers(0, size - 1))
    full = logical_tensor(name, kind)
    flat = (full if dim is None else full.chunk(size, dim=dim)[rank]).reshape(-1)
    start = data.draw(st.integers(0, flat.numel() - 1))
    numel = data.draw(st.integers(1, flat.numel() - start))
    read = readers[written].read_slice_range(name, kind, rank, size, start, numel)
    assert torch.equal(read, flat[start : start + numel])


def test_a_range_that_is_not_there_is_an_error_and_no_shorter_tensor(readers):
    with pytest.raises(CheckpointError, match=r"lacks fp32 of ln\.bias, elements from 6"):
        readers[1].read_range("ln.bias", "fp32", 0, 4, 3)
