"""What a training configuration means, and what it refuses: objectives, boundaries, masking, data and beginnings."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from training import train_config

from foreword.config import dump_config, load_config
from foreword.errors import ConfigError
from pipeline.config.objective import describe_objectives, prompt_reading
from pipeline.config.run import InitFrom
from pipeline.config.train import TrainConfig


def read(tmp_path: Path, *overrides: str, **changes: Any) -> TrainConfig:
    """As a command reads it: from a file, with overrides."""
    config = train_config(tmp_path / "run", tmp_path / "corpus").model_dump(mode="json") | changes
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    return load_config(tmp_path / "c.yaml", overrides, TrainConfig)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("causal", {"causal": 1.0}),
        ({"prefix": 2, "causal": 1}, {"causal": 1.0, "prefix": 2.0}),
        ({"bidirectional": 0.5, "prefix": 0}, {"bidirectional": 1.0}),
    ],
)
def test_an_objective_is_a_name_or_a_mapping_to_weights(tmp_path, written, meant):
    config = read(tmp_path, objective=written)
    assert config.objective == meant
    assert list(config.objective) == list(meant)
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "again.yaml", [], TrainConfig) == config


def test_objectives_can_be_mixed_on_the_command_line(tmp_path):
    assert read(tmp_path, "objective={causal: 1, prefix: 3}").objective == {"causal": 1.0, "prefix": 3.0}
    assert read(tmp_path, "objective.causal=0", objective={"causal": 1, "prefix": 1}).objective == {"prefix": 1.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "prefixes"}, "an objective is one of causal, prefix, bidirectional, or a mapping of them"),
        ({"objective": {"masked": 1}}, "objective"),
        ({"objective": {"causal": 0, "prefix": 0}}, "no objective has a weight above 0"),
        ({"objective": {"causal": -1, "prefix": 1}}, "greater than or equal to 0"),
        ({"boundaries": {"policy": "fraction"}}, "policy: fraction and fraction: .* go together"),
        ({"boundaries": {"fraction": [0.1, 0.5]}}, "policy: fraction and fraction: .* go together"),
        ({"boundaries": {"policy": "fraction", "fraction": [0.6, 0.5]}}, r"\[0.6, 0.5\] is not \[LOWEST, HIGHEST\]"),
        ({"boundaries": {"policy": "fraction", "fraction": [0.6, 1.5]}}, "less than or equal to 1"),
        ({"masking": {"masked": 0.8, "random": 0.3}}, "masked 0.8 and random 0.3 are more than all"),
        ({"masking": {"chosen": 0}}, "greater than 0"),
        ({"data": {}}, "set corpus to the directory of one, or corpora to several"),
        ({"data": {"corpus": "a", "corpora": {"b": {"path": "b"}}}}, "corpus and corpora are both set"),
        ({"data": {"corpora": {"b": {"path": "b", "weight": 0}}}}, "greater than 0"),
        ({"data": {"corpora": {"a/b": {"path": "b"}}}}, "pattern"),
        ({"data": {"corpus": "a", "seed": 2**64}}, "data.seed: Input should be less than"),
        ({"init_from": {"path": "a", "optimizer": "kept"}}, "'reset' or 'keep'"),
        ({"init_from": {"optimizer": "keep"}}, "missing key 'init_from.path'"),
        ({"init_from": {"path": "a", "optimiser": "keep"}}, "did you mean 'optimizer'"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_key(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, **changes)


@pytest.mark.parametrize(
    ("overrides", "meant"),
    [
        ([], None),
        (["init_from=runs/a"], InitFrom(path=Path("runs/a"))),
        (["init_from.path=runs/a", "init_from.optimizer=keep"], InitFrom(path=Path("runs/a"), optimizer="keep")),
        (["init_from={path: runs/a, position: keep}"], InitFrom(path=Path("runs/a"), position="keep")),
    ],
)
def test_a_beginning_is_a_path_or_says_what_is_kept(tmp_path, overrides, meant):
    config = read(tmp_path, *overrides)
    assert config.init_from == meant
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "again.yaml", [], TrainConfig) == config


def test_a_model_that_has_seen_prefixes_at_all_reads_prompts_as_prefixes():
    assert prompt_reading({"prefix": 1.0}) == prompt_reading({"causal": 9.0, "prefix": 0.1}) == "prefix"
    assert prompt_reading({"causal": 1.0}) == prompt_reading({"causal": 1.0, "bidirectional": 9.0}) == "causal"
    assert describe_objectives({"prefix": 1.0}) == "prefix"
    assert describe_objectives({"causal": 1.0, "prefix": 0.25}) == "causal 1, prefix 0.25"
