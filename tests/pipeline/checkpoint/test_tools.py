"""The tools that work on checkpoints without a run: reshape, diff and average."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file
from stored_weights import load_weights
from tiny_checkpoint import PARAMETERS, logical_tensor, make_checkpoint
from tiny_gpt2 import VOCAB_SIZE, make_gpt2, save_gpt2
from training import train_config

from foreword.errors import CheckpointError, ConfigError
from foreword.files import sha256_of
from pipeline.checkpoint.inspect import verify_checkpoint
from pipeline.checkpoint.meta import KINDS, MASTER, read_meta, write_meta
from pipeline.checkpoint.read import CheckpointReader
from pipeline.checkpoint.reshape import reshape_checkpoint
from pipeline.commands.checkpoint import checkpoint as command
from pipeline.weights.hugging_face import import_weights
from pipeline.weights.pretrained import open_pretrained


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture
def config(tmp_path):
    return train_config(tmp_path / "run", tmp_path / "corpus")


@pytest.fixture
def source(config) -> Path:
    return make_checkpoint(config.run_dir, 3, config=config)


def edit(checkpoint: Path, key: str, index: int, value: float) -> None:
    """Change one element of one tensor, and make the checkpoint whole again."""
    (path,) = checkpoint.glob("*.safetensors")
    tensors = load_file(path)
    tensors[key][index] = value
    save_file(tensors, path)
    meta = read_meta(checkpoint)
    entry = meta.files[path.name].model_copy(update={"sha256": sha256_of(path)})
    write_meta(checkpoint, meta.model_copy(update={"files": {path.name: entry}}))


@pytest.mark.parametrize("elements_per_file", [7, 2**24])
def test_reshaping_there_and_back_gives_the_same_bits(source, tmp_path, monkeypatch, elements_per_file):
    monkeypatch.setattr("pipeline.checkpoint.reshape.ELEMENTS_PER_FILE", elements_per_file)
    (source.parent.parent / "tokenizer").mkdir()
    assert run("reshape", source, tmp_path / "two", "--tp", 2).exit_code == 0
    assert run("reshape", tmp_path / "two", tmp_path / "one", "--tp", 1).exit_code == 0
    for path, size in ((tmp_path / "two", 2), (tmp_path / "one", 1)):
        assert verify_checkpoint(path) == []
        assert (path / "tokenizer").is_dir()
        meta = read_meta(path)
        assert meta.topology.tensor_parallel_size == size
        assert meta.progress.step == 3
        assert max(sum(f.numel for f in e.fragments.values()) for e in meta.files.values()) <= elements_per_file
        with CheckpointReader(path, meta) as reader:
            for name in PARAMETERS:
                for kind in KINDS:
                    assert torch.equal(reader.read_full(name, kind), logical_tensor(name, kind))


def test_reshape_refuses_a_size_that_does_not_divide_a_taken_name_and_damage(source, tmp_path):
    with pytest.raises(ConfigError, match="tensor-parallel size 3 does not divide num_attention_heads, 4"):
        reshape_checkpoint(source, tmp_path / "out", 3)
    with pytest.raises(ConfigError, match="exists already"):
        reshape_checkpoint(source, source, 2)
    (path,) = source.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(CheckpointError, match="its SHA-256 is"):
        reshape_checkpoint(source, tmp_path / "out", 2)
    assert not (tmp_path / "out").exists()


def test_equal_checkpoints_of_other_cuts_do_not_differ(config, source, tmp_path):
    other = make_checkpoint(tmp_path / "other", 3, config=config, tensor_parallel_size=2)
    result = run("diff", source, other)
    assert result.exit_code == 0, result.output
    assert result.output == f"0 of {3 * len(PARAMETERS)} tensors differ\n"


def test_a_changed_element_is_found_with_its_size(source, tmp_path):
    other = tmp_path / "step_00000003"
    shutil.copytree(source, other)
    old = float(logical_tensor("up.weight", "exp_avg").reshape(-1)[5])
    edit(other, "exp_avg/up.weight", 5, old + 0.25)
    result = run("diff", source, other, "--json")
    assert result.exit_code == 1
    answer = json.loads(result.output)
    (difference,) = answer["differences"]
    assert (difference["name"], difference["kind"], difference["elements"]) == ("up.weight", "exp_avg", 1)
    assert difference["max_abs"] == pytest.approx(0.25, rel=1e-6)
    assert difference["max_rel"] == pytest.approx(0.25 / max(abs(old), abs(old + 0.25)), rel=1e-6)
    assert "up.weight" in run("diff", source, other).output


def test_what_is_no_number_differs_by_infinity_and_equals_itself(source, tmp_path):
    other = tmp_path / "step_00000003"
    shutil.copytree(source, other)
    edit(other, "fp32/ln.bias", 0, math.nan)
    assert json.loads(run("diff", source, other, "--json").output)["differences"][0]["max_abs"] == math.inf
    assert run("diff", other, other).exit_code == 0


def test_step_and_parameters_that_one_side_lacks_are_differences(config, source, tmp_path):
    fewer = {name: shape for name, shape in PARAMETERS.items() if name != "ln.bias"}
    other = make_checkpoint(tmp_path / "other", 4, config=config, parameters=fewer | {"up.weight": ((6, 12), 0)})
    result = run("diff", source, other)
    assert result.exit_code == 1
    assert f"ln.bias: only in {source}" in result.output
    assert "up.weight: shape (12, 6) in" in result.output
    assert "optimizer_steps: 3 and 4" in result.output


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> list[Path]:
    """Two imported GPT-2s with other weights."""
    root = tmp_path_factory.mktemp("imported")
    for seed in (0, 1):
        save_gpt2(make_gpt2(seed), root / f"hf{seed}")
        import_weights(root / f"hf{seed}", root / f"w{seed}")
    return [root / "w0", root / "w1"]


def test_the_average_is_the_mean_and_is_used_as_weights_are(weights, tmp_path, one_process):
    """Of weights, and of a checkpoint of the same model and tokenizer."""
    first = open_pretrained(weights[0])
    shapes = {name: (tuple(tensor.shape), None) for name, tensor in load_weights(weights[0]).items()}
    model = {f"model__{key}": value for key, value in first.config.model_dump().items()}
    config = train_config(tmp_path / "run", tmp_path, objective="causal", **model)
    make_checkpoint(
        config.run_dir,
        5,
        config=config,
        parameters=shapes,
        vocab_size=VOCAB_SIZE,
        tokenizer_sha256=first.tokenizer_sha256,
    )
    shutil.copytree(weights[0] / "tokenizer", config.run_dir / "tokenizer")
    result = run("average", *weights, config.run_dir, tmp_path / "mean")
    assert result.exit_code == 0, result.output

    mean = open_pretrained(tmp_path / "mean")
    a, b = (load_weights(path) for path in weights)
    for name, tensor in load_weights(mean.path).items():
        expected = (a[name].double() + b[name] + logical_tensor(name, MASTER, parameters=shapes)) / 3
        assert torch.equal(tensor, expected.float()), name
    assert mean.load_tokenizer().sha256 == first.tokenizer_sha256
    assert mean.load_model().wte.weight.shape == (shapes["wte.weight"][0])


def test_an_average_over_different_models_is_refused_with_the_difference(source, weights, tmp_path):
    result = run("average", weights[0], source, tmp_path / "mean")
    assert isinstance(result.exception, CheckpointError)
    assert "model.max_position_embeddings: 24 in" in str(result.exception)
    assert "objective: causal in" in str(result.exception)
    assert run("average", weights[0], tmp_path / "mean").exit_code == 2
