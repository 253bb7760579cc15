"""Weights, checkpoints and configurations from elsewhere are data: what they hold is refused or read, and never run."""

import os
import pickle
import re
import tokenize
from pathlib import Path

import pytest
import torch
from stored_weights import load_weights
from tiny_checkpoint import make_checkpoint
from tiny_gpt2 import make_gpt2, save_gpt2
from training import train_config

from foreword.config import load_config
from foreword.errors import CheckpointError, ConfigError, DataError
from foreword.files import sha256_of
from pipeline.checkpoint.headers import header_problems
from pipeline.checkpoint.meta import read_meta, write_meta
from pipeline.config.train import TrainConfig
from pipeline.weights.hugging_face import import_weights


class Bomb:
    """Unpickled, it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def crater(tmp_path) -> Path:
    """What would be there if anything had been run."""
    return tmp_path / "crater"


def test_the_bomb_is_a_bomb(tmp_path, crater):
    path = tmp_path / "bomb"
    torch.save({"wte.weight": Bomb(crater)}, path)
    torch.load(path, weights_only=False)
    assert crater.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_among_hugging_face_weights_is_refused_by_name(tmp_path, crater, zipped):
    source = tmp_path / "gpt2"
    save_gpt2(make_gpt2(), source)
    (source / "model.safetensors").unlink()
    weights = {"transformer.wte.weight": Bomb(crater)}
    torch.save(weights, source / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(DataError, match=r"pytorch_model\.bin: cannot be read as weights"):
        import_weights(source, tmp_path / "out")
    assert not crater.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_bare_pickle_under_the_name_of_weights_is_refused(tmp_path, crater, name):
    source = tmp_path / "gpt2"
    save_gpt2(make_gpt2(), source)
    (source / "model.safetensors").unlink()
    (source / name).write_bytes(pickle.dumps(Bomb(crater), protocol=2))
    with pytest.raises(DataError, match="cannot be read as weights"):
        import_weights(source, tmp_path / "out")
    assert not crater.exists()


def test_a_pickle_in_a_checkpoint_is_no_tensor_even_when_foreword_json_vouches_for_it(tmp_path, crater):
    config = train_config(tmp_path / "run", tmp_path)
    checkpoint = make_checkpoint(config.run_dir, 1, config=config)
    (path,) = checkpoint.glob("*.safetensors")
    torch.save({"fp32/wte.weight": Bomb(crater)}, path)
    meta = read_meta(checkpoint)
    entry = meta.files[path.name].model_copy(update={"size": path.stat().st_size, "sha256": sha256_of(path)})
    write_meta(checkpoint, meta.model_copy(update={"files": {path.name: entry}}))
    assert len(header_problems(checkpoint, read_meta(checkpoint))) == 1
    with pytest.raises(CheckpointError, match=path.name):
        load_weights(checkpoint)
    assert not crater.exists()


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.mkdir [{crater}]",
        "!!python/object/new:os.mkdir [{crater}]",
        "!!python/name:os.system",
    ],
)
def test_a_configuration_makes_no_objects(tmp_path, crater, value):
    path = tmp_path / "config.yaml"
    path.write_text(f"run_dir: {value.format(crater=crater)}\n")
    with pytest.raises(ConfigError, match=r"config\.yaml:1: not valid YAML: could not determine a constructor"):
        load_config(path, [], TrainConfig)
    with pytest.raises(ConfigError):
        load_config(path, [f"run_dir={value.format(crater=crater)}"], TrainConfig)
    assert not crater.exists()


def code_of(path: Path) -> str:
    """A file without its comments, texts and spaces."""
    with path.open("rb") as file:
        tokens = tokenize.tokenize(file.readline)
        return "".join(token.string for token in tokens if token.type not in (tokenize.STRING, tokenize.COMMENT))


def test_nothing_of_the_project_unpickles_what_comes_from_a_file():
    """Searched for, because a reader that is written later should be seen here."""
    words = re.compile(r"pickle\.load|yaml\.(load|unsafe|full)|weights_only=False|allow_pickle=True|remote_code=True")
    root = Path(__file__).parents[3]
    rooms = [
        path for package in ("foreword", "data_prep", "pipeline", "slurm") for path in (root / package).rglob("*.py")
    ]
    assert len(rooms) > 100
    assert [str(path) for path in rooms if words.search(code_of(path))] == []
