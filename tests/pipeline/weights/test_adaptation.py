"""A causal model is brought in, learns to read prefixes, and goes out again: in GPT-2's layout and in DialoGPT's."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from tiny_gpt2 import VOCAB_SIZE, make_gpt2, save_gpt2, save_tokenizer_files
from training import curve, train_all, train_config
from transformers import GPT2LMHeadModel

from data_prep.commands import prep
from data_prep.manifest import Manifest
from data_prep.shards import PADDING, Corpus
from pipeline.checkpoint.meta import read_meta
from pipeline.commands.generate import generate
from pipeline.commands.hugging_face import export, import_
from pipeline.config.train import TrainConfig
from pipeline.weights.modeling_foreword import PrefixGPT2LMHeadModel
from pipeline.weights.pretrained import open_pretrained

POSITIONS = 40
STEPS = 6
QUESTIONS = [f"What is {number} and {number}?" for number in range(60)]
REPLIES = [f"It is {2 * number}." for number in range(60)]


def as_gpt2(directory: Path) -> None:
    """safetensors, as transformers writes them today."""
    save_gpt2(make_gpt2(n_positions=POSITIONS), directory)


def as_dialogpt(directory: Path) -> None:
    """A .bin with the head and the causal masks, and a config.json of 2020; the files of the tokenizer are GPT-2's."""
    model = make_gpt2(seed=1, n_positions=POSITIONS)
    directory.mkdir()
    mask = torch.ones(1, 1, POSITIONS, POSITIONS, dtype=torch.uint8)
    masks = {f"transformer.h.{layer}.attn.bias": mask for layer in range(model.config.n_layer)}
    torch.save(model.state_dict() | masks, directory / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    settings = {name: getattr(model.config, name) for name in ("n_layer", "n_head", "n_embd", "n_positions")}
    settings |= {"architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new", "n_ctx": POSITIONS}
    settings |= {"vocab_size": VOCAB_SIZE, "layer_norm_epsilon": 1e-05, "eos_token_id": VOCAB_SIZE - 1}
    settings |= {"model_type": "gpt2", "task_specific_params": {"conversational": {"max_length": 1000}}}
    (directory / "config.json").write_text(json.dumps(settings))
    save_tokenizer_files(directory)


def documents() -> dict[str, object]:
    """Texts, of which each piece has a prefix of its own."""
    records = [{"text": f"{question} {reply}"} for question, reply in zip(QUESTIONS, REPLIES, strict=True)]
    return {"records": records, "prefix": {"policy": "uniform"}}


def dialogues() -> dict[str, object]:
    """Turns: what comes before a reply is its prefix."""
    records = [{"turns": list(pair)} for pair in zip(QUESTIONS, REPLIES, strict=True)]
    return {"records": records, "prefix": {"policy": "field", "turns_field": "turns"}}


def typed(command: object, *words: object) -> str:
    result = CliRunner().invoke(command, list(map(str, words)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout_bytes.decode()


def prepare(root: Path, records: list[dict], prefix: dict) -> Path:
    """With the tokenizer that came along."""
    (root / "text.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    values = {
        "output": str(root / "corpus"),
        "sources": [{"kind": "jsonl", "path": str(root / "text.jsonl")}],
        "tokenizer": {"path": str(root / "imported" / "tokenizer")},
        "prefix": prefix,
        "splits": {"valid": 0.2},
        "sequence_length": POSITIONS,
        "workers": 1,
    }
    (root / "prep.yaml").write_text(yaml.safe_dump(values))
    typed(prep, root / "prep.yaml")
    return root / "corpus"


def adapted(root: Path, corpus: Path) -> TrainConfig:
    shape = open_pretrained(root / "imported").config.model_dump()
    return train_config(
        root / "run",
        corpus,
        **{f"model__{key}": value for key, value in shape.items()},
        init_from=str(root / "imported"),
        objective="prefix",
        batch={"global_batch_size": Manifest.load(corpus).splits["train"].rows, "micro_batch_size": 1},
        parallel={"tensor_parallel_size": 2, "zero_stage": 1},
        optimizer__lr=3e-3,
        schedule__total_steps=STEPS,
        checkpoint__every_steps=STEPS,
        evaluation__every_steps=STEPS,
    )


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both ways as far as the run, which two processes go together that cut the model in two."""
    ways: dict[str, tuple[Callable[[Path], None], dict]] = {
        "gpt2": (as_gpt2, documents()),
        "dialogpt": (as_dialogpt, dialogues()),
    }
    roots, configs = {}, []
    for name, (save, text) in ways.items():
        root = roots[name] = tmp_path_factory.mktemp(name)
        save(root / "hf")
        typed(import_, root / "hf", root / "imported")
        configs.append(adapted(root, prepare(root, **text)))
    assert train_all(2, *configs) == [[None] * 2] * 2
    return roots


@pytest.fixture(params=["gpt2", "dialogpt"])
def root(request: pytest.FixtureRequest, roots: dict[str, Path]) -> Path:
    return roots[request.param]


def test_the_run_begins_with_those_weights_and_learns(root: Path) -> None:
    losses = curve(root / "run")
    assert losses[STEPS] < 0.9 * losses[1]
    (checkpoint,) = (root / "run" / "checkpoints").glob("step_*")
    origin = read_meta(checkpoint).origin
    assert origin is not None and origin.path == str(root / "imported") and origin.objective == {"causal": 1.0}


@torch.no_grad()
def test_its_first_loss_is_what_transformers_computes_under_those_prefixes(root: Path, tmp_path: Path) -> None:
    """The first step is over all rows, so their order does not matter; each segment is read alone there."""
    typed(export, root / "imported", tmp_path / "out")
    theirs = PrefixGPT2LMHeadModel.from_pretrained(tmp_path / "out").eval()
    split = Corpus.open(root / "corpus").split("train")
    nll, targets, longest_prefix = 0.0, 0, 0
    for row in split.rows(range(len(split))):
        tokens, segments = row.tokens, row.segments
        ends = [*segments[1:, 0], len(tokens)]
        for (start, prefix_len), end in zip(segments, ends, strict=True):
            if prefix_len != PADDING:
                ids = torch.from_numpy(tokens[start:end].astype(np.int64))[None]
                scored = end - start - max(prefix_len, 1)
                nll += scored * theirs(ids, prefix_length=int(prefix_len), labels=ids).loss.item()
                targets, longest_prefix = targets + scored, max(longest_prefix, prefix_len)
    assert longest_prefix > 10
    assert curve(root / "run")[1] == pytest.approx(nll / targets, rel=1e-5)


def test_what_comes_out_reads_prefixes_and_writes_the_same_here_and_there(root: Path, tmp_path: Path) -> None:
    typed(export, root / "run", tmp_path / "out")
    assert open_pretrained(root / "run").reads_prompts == "prefix"
    lines = tmp_path / "prompts.jsonl"
    turns = [{"turns": [QUESTIONS[3]]}, {"turns": [QUESTIONS[11], "?"]}]
    lines.write_text("".join(json.dumps(record) + "\n" for record in [{"prompt": "What is 7"}, *turns]))
    options = ("--jsonl", lines, "--temperature", 0, "--max-new-tokens", 8)
    here = typed(generate, root / "run", *options)
    assert typed(generate, tmp_path / "out", *options) == here
    tokenizer = open_pretrained(root / "run").load_tokenizer()
    theirs = PrefixGPT2LMHeadModel.from_pretrained(tmp_path / "out").eval()
    eod = [tokenizer.eod_id]
    prompts = [
        tokenizer.encode("What is 7"),
        tokenizer.encode(QUESTIONS[3]) + eod,
        tokenizer.encode(QUESTIONS[11]) + eod + tokenizer.encode("?") + eod,
    ]
    for prompt, line in zip(prompts, here.splitlines(), strict=True):
        written = theirs.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False)[0, len(prompt) :].tolist()
        assert [i for i in written if i != tokenizer.eod_id] == json.loads(line)["generated_ids"]


def test_the_model_card_has_the_runs_facts_and_no_path(root: Path, tmp_path: Path) -> None:
    typed(export, root / "run", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    (checkpoint,) = (root / "run" / "checkpoints").glob("step_*")
    meta = read_meta(checkpoint)
    head, body = card.removeprefix("---\n").split("\n---\n")
    assert yaml.safe_load(head) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["gpt2", "foreword", "prefix-lm"],
    }
    for fact in (
        f"GPT-2 with {GPT2LMHeadModel.from_pretrained(tmp_path / 'out').num_parameters():,} parameters",
        f"| steps | {STEPS} |",
        f"| tokens read | {meta.progress.tokens_consumed:,} |",
        f"| tokens predicted | {meta.progress.targets_consumed:,} |",
        f"{meta.loss:.4f} nats",
        f"{meta.validation_loss:.4f} nats",
        "the weights of imported, trained on causal",
        "tensor-parallel size 2, ZeRO stage 1",
        f"torch {meta.versions['torch']}",
        meta.corpus.parts[0].manifest_sha256,
        "`license:`",
    ):
        assert fact in body, fact
    shown = yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])
    assert shown["objective"] == "prefix" and shown["data"]["corpus"] == "corpus"
    assert "/" not in yaml.safe_dump(shown)
    assert str(root) not in card and str(tmp_path) not in card
    assert Manifest.load(root / "corpus").tokenizer.sha256 == open_pretrained(root / "run").tokenizer_sha256
