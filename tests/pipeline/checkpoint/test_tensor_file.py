"""Any range of a tensor comes out as it went in, and what is not there or cannot be read is named."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from foreword.errors import CheckpointError
from pipeline.checkpoint.tensor_file import TensorFile

TENSORS = {"a": torch.arange(1000.0), "b/c.weight": torch.rand(7, generator=torch.Generator().manual_seed(0))}


@pytest.fixture
def path(tmp_path):
    save_file(TENSORS, tmp_path / "file.safetensors", metadata={"format": "pt"})
    return tmp_path / "file.safetensors"


@pytest.mark.parametrize(("start", "end"), [(0, 7), (0, 1), (6, 7), (3, 3), (2, 5)])
@pytest.mark.parametrize("key", TENSORS)
def test_a_range_is_read(path, key, start, end):
    file = TensorFile(path)
    assert torch.equal(file.read(key, start, end), TENSORS[key][start:end])
    file.close()


def test_what_was_read_stays_when_the_file_goes(path):
    file = TensorFile(path)
    tensor = file.read("a", 0, 1000)
    file.close()
    os.truncate(path, 0)
    assert torch.equal(tensor, TENSORS["a"])


@pytest.mark.parametrize(
    ("key", "start", "end", "message"),
    [("x", 0, 1, "it has no tensor x"), ("a", 0, 1001, "no elements 0 to 1001"), ("a", -1, 1, "no elements -1 to 1")],
)
def test_what_is_not_there_is_named(path, key, start, end, message):
    file = TensorFile(path)
    with pytest.raises(CheckpointError, match=message):
        file.read(key, start, end)
    file.close()


def test_a_file_that_was_cut_off_while_it_was_open_is_an_error_and_not_the_end_of_the_process(path):
    file = TensorFile(path)
    os.truncate(path, 2000)
    with pytest.raises(CheckpointError, match=r"file\.safetensors: cannot be read: it ends too early"):
        file.read("a", 0, 1000)
    file.close()


def test_a_disk_that_cannot_read_is_named(path, monkeypatch):
    file = TensorFile(path)

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(CheckpointError, match="cannot be read: Input/output error"):
        file.read("a", 0, 1000)
    file.close()


@pytest.mark.parametrize(
    "content", [b"", b"short", b"\xff" * 8, (2).to_bytes(8, "little") + b"[]", (9).to_bytes(8, "little") + b'{"a": {}}']
)
def test_what_is_no_safetensors_file_is_refused(path, content):
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read: "):
        TensorFile(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before


def test_a_file_that_is_gone_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone: cannot be read: No such file or directory"):
        TensorFile(tmp_path / "gone")
