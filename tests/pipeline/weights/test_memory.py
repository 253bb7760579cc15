"""Weights of 100 MB come in and go out in 40 MB of memory, whatever files they are in.

The limit is the kernel's, on what a process may have of its own (RLIMIT_DATA), set in a process that has done the same
with a tiny model. Files that are mapped count too, though they take no memory that cannot be given back: their size is
added.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_checkpoint import make_checkpoint
from tiny_gpt2 import VOCAB_SIZE, make_gpt2, save_gpt2
from training import train_config
from transformers import GPT2Config, GPT2LMHeadModel

from data_prep.tokenizers import load_tokenizer
from pipeline.weights.gpt2_layout import logical_shapes
from pipeline.weights.hf_directory import read_config

ALLOWED_BYTES = 40 * 10**6
MODEL_BYTES = 100 * 10**6
PROGRAM = """
import re, resource, sys
from pathlib import Path
import torch
from pipeline.weights.hugging_face import export_weights, import_weights
from stored_weights import load_weights

root, out, model_bytes, allowed_bytes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
torch.ones(2000, 2000).T.contiguous()  # starts the threads that copies are made by
import_weights(root / "tiny", out / "warm-in")  # and so for what else is only needed once
export_weights(out / "warm-in", out / "warm-out")


def limited(mapped_copies, work):
    now = 1024 * int(re.search(r"VmData:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
    unlimited = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (now + mapped_copies * model_bytes + allowed_bytes, unlimited[1]))
    try:
        work()
    except (MemoryError, RuntimeError) as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, unlimited)
    return "done"


print("safetensors:", limited(1, lambda: import_weights(root / "hf", out / "imported")))
print("bin:", limited(1, lambda: import_weights(root / "bin", out / "imported-bin")))
print("checkpoint:", limited(0, lambda: export_weights(root / "run", out / "exported")))  # is read and not mapped
print("all at once:", limited(0, lambda: load_weights(root / "run")))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """hf/ safetensors, bin/ pytorch_model.bin, run/ with a checkpoint that two tensor-parallel ranks have written."""
    root = tmp_path_factory.mktemp("large")
    save_gpt2(make_gpt2(), root / "tiny")
    config = GPT2Config(
        vocab_size=VOCAB_SIZE, n_positions=32, n_embd=512, n_layer=8, n_head=4, eos_token_id=VOCAB_SIZE - 1
    )
    model = GPT2LMHeadModel(config)
    save_gpt2(model, root / "hf")
    shutil.copytree(root / "hf", root / "bin", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(model.state_dict(), root / "bin" / "pytorch_model.bin")
    shape = read_config(root / "hf").model
    make_checkpoint(
        root / "run",
        1,
        config=train_config(
            root / "run", root, **{f"model__{key}": value for key, value in shape.model_dump().items()}
        ),
        parameters={
            name: (full, None if len(full) == 1 or name == "wpe.weight" else 1 if "down" in name else 0)
            for name, full in logical_shapes(shape, VOCAB_SIZE).items()
        },
        tensor_parallel_size=2,
        vocab_size=VOCAB_SIZE,
        tokenizer_sha256=load_tokenizer(root / "hf").sha256,
    )
    shutil.copytree(root / "hf", root / "run" / "tokenizer", ignore=shutil.ignore_patterns("*.safetensors"))
    return root


def test_a_model_comes_in_and_goes_out_in_less_memory_than_it_takes(root: Path, tmp_path: Path) -> None:
    """And the limit is one: to load the same weights all at once is too much for it."""
    size = (root / "hf" / "model.safetensors").stat().st_size
    assert size > MODEL_BYTES
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = [str(root), str(tmp_path), str(size + 2**20), str(ALLOWED_BYTES)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *came_through, refused = done.stdout.splitlines()
    assert came_through == ["safetensors: done", "bin: done", "checkpoint: done"]
    assert "memory" in refused
