"""What was trained on several objectives is used as it was trained, as a checkpoint and as weights without a run."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from stored_weights import load_weights
from tiny_checkpoint import make_checkpoint
from tiny_gpt2 import VOCAB_SIZE, make_gpt2, save_gpt2
from training import train_config

from foreword.errors import CheckpointError
from pipeline.commands.generate import generate
from pipeline.generation.requests import TextGenerator
from pipeline.weights.average import average_weights
from pipeline.weights.directory import read_weights_meta
from pipeline.weights.hugging_face import import_weights
from pipeline.weights.pretrained import open_pretrained

ALL = {"causal": 1.0, "prefix": 2.0, "bidirectional": 1.0}
WITHOUT_PREFIX = {"causal": 1.0, "bidirectional": 1.0}
OBJECTIVES = {"prefix": {"prefix": 1.0}, "causal": {"causal": 1.0}, "all": ALL, "without-prefix": WITHOUT_PREFIX}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Runs of one small model, each said to have been trained on other objectives."""
    root = tmp_path_factory.mktemp("runs")
    save_gpt2(make_gpt2(), root / "hf")
    import_weights(root / "hf", root / "imported")
    imported = open_pretrained(root / "imported")
    model = {f"model__{key}": value for key, value in imported.config.model_dump().items()}
    for name, objective in OBJECTIVES.items():
        config = train_config(root / name, root, objective=objective, **model)
        make_checkpoint(
            config.run_dir,
            5,
            config=config,
            parameters={name: (tuple(tensor.shape), None) for name, tensor in load_weights(root / "imported").items()},
            vocab_size=VOCAB_SIZE,
            tokenizer_sha256=imported.tokenizer_sha256,
        )
        shutil.copytree(root / "imported" / "tokenizer", root / name / "tokenizer")
        average_weights([root / name] * 2, root / f"{name}-weights")
    return root


@pytest.mark.parametrize(
    ("name", "reading"), [("prefix", "prefix"), ("causal", "causal"), ("all", "prefix"), ("without-prefix", "causal")]
)
@pytest.mark.parametrize("kind", ["", "-weights"], ids=["checkpoint", "weights"])
def test_prompts_are_read_as_prefixes_by_whatever_was_trained_on_them_at_all(runs, name, reading, kind, monkeypatch):
    pretrained = open_pretrained(runs / f"{name}{kind}")
    assert pretrained.objective == OBJECTIVES[name]
    assert pretrained.reads_prompts == reading
    assert (pretrained.checkpoint is None) == bool(kind)
    read_as_prefix = []
    as_it_is = TextGenerator.answer
    monkeypatch.setattr(
        TextGenerator, "answer", lambda self, *given: read_as_prefix.append(self.prefix) or as_it_is(self, *given)
    )
    arguments = [str(runs / f"{name}{kind}"), "--prompt", "In the beginning", "--max-new-tokens", "1"]
    for option in ((), ("--bidirectional",), ("--causal",)):
        CliRunner().invoke(generate, [*arguments, *option], catch_exceptions=False)
    assert read_as_prefix == [reading == "prefix", True, False]


def test_imported_weights_are_causal_and_averages_keep_all_objectives(runs):
    assert read_weights_meta(runs / "imported").objective == {"causal": 1.0}
    assert read_weights_meta(runs / "all-weights").objective == ALL
    assert '"objective": "prefix"' in (runs / "prefix-weights" / "foreword.json").read_text()


def test_models_of_other_objectives_are_not_averaged(runs, tmp_path):
    with pytest.raises(CheckpointError, match=r"objective: causal 1, prefix 2, bidirectional 1 in .*, prefix in"):
        average_weights([runs / "all", runs / "prefix"], tmp_path / "mean")


@pytest.mark.parametrize(
    ("name", "mask_token_id"),
    [("all", VOCAB_SIZE), ("prefix", None), ("without-prefix", VOCAB_SIZE), ("causal", None)],
)
@pytest.mark.parametrize("kind", ["", "-weights"], ids=["checkpoint", "weights"])
def test_the_mask_token_is_known_of_whatever_was_trained_on_masked_tokens(runs, name, mask_token_id, kind):
    assert open_pretrained(runs / f"{name}{kind}").mask_token_id == mask_token_id
