"""What a run would be is told, and what cannot be is refused, for any number of processes and without torch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from tiny_corpus import SEQUENCE_LENGTH, VOCAB_SIZE, make_corpus
from training import HALF, STEPS, records, train_all, train_config

from foreword.cli import foreword
from foreword.config import load_config
from foreword.errors import ConfigError, ForewordError
from pipeline.config.train import TrainConfig
from pipeline.data.corpora import open_corpora
from pipeline.plan.census import estimate_census
from pipeline.plan.flops import attended_pairs, training_flops
from pipeline.plan.run_plan import RunData, RunPlan, describe_beginning, describe_needs, describe_run, plan_run
from pipeline.plan.sizes import count_parameters


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("plan") / "corpus").path


def plan(config: TrainConfig, world_size: int, **options) -> RunPlan:
    return plan_run(config, RunData.of(open_corpora(config), config), world_size, **options)


def dry_run(path: Path, *words: str) -> Result:
    return CliRunner().invoke(foreword, ["train", "--dry-run", str(path), *words])


@pytest.fixture
def config_file(tmp_path, corpus) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(train_config(tmp_path / "run", corpus).model_dump(mode="json")))
    return path


def test_a_plan_multiplies_out(tmp_path, corpus):
    batch = {"global_batch_size": 64, "micro_batch_size": 4, "warmup": {"start_size": 32, "steps": 4}}
    config = train_config(tmp_path / "run", corpus, batch=batch, parallel__tensor_parallel_size=2)
    made = plan(config, 16)
    assert (made.data_parallel_size, made.gradient_accumulation_steps, made.total_steps) == (8, 2, STEPS)
    assert made.global_batch_tokens == 64 * SEQUENCE_LENGTH
    assert made.total_rows == 4 * 32 + 4 * 64
    assert made.total_tokens == made.total_rows * SEQUENCE_LENGTH
    assert made.data.epoch_rows == {"corpus": 48.0}
    assert f"read {made.total_rows / 48:.2f} times" in describe_run(made)
    assert made.parameters == count_parameters(config.model, VOCAB_SIZE)
    counts = made.data.census.targets, made.data.census.attended_pairs
    per_row = training_flops(config.model, 128, SEQUENCE_LENGTH, *counts)
    assert made.flops_per_step == pytest.approx(64 * per_row)
    assert made.total_flops == pytest.approx(made.total_rows * per_row)


def test_targets_are_those_that_the_manifest_counts_when_every_row_is_looked_at(tmp_path, corpus):
    config = train_config(tmp_path / "run", corpus)
    corpora = open_corpora(config)
    whole = RunData.of(corpora, config).census
    counted = corpora.first.manifest.splits["train"].targets
    assert whole.targets * 48 == pytest.approx(counted, rel=0.02)  # 1,024 rows are 21 epochs and a third


def test_what_a_run_writes_has_the_size_that_was_planned(tmp_path, corpus):
    config = train_config(tmp_path / "run", corpus, logging__every_steps=STEPS)
    planned, corpora = plan(config, 1), open_corpora(config)
    assert describe_beginning(config, corpora) == "new, with weights drawn from seed 1234"
    assert train_all(1, config) == [[None]]
    saved = [record for record in records(tmp_path / "run") if record.get("event") == "checkpoint"]
    assert len(saved) == planned.checkpoints == STEPS // HALF
    for record in saved:
        assert record["size_bytes"] == pytest.approx(planned.checkpoint_bytes, rel=0.03)  # names take the rest
    assert describe_beginning(config, corpora) == f"continues after step {STEPS}"
    assert describe_beginning(config, corpora, fresh=True).startswith("new")
    other = train_config(tmp_path / "other", corpus, init_from=str(tmp_path / "run"))
    newest = tmp_path / "run" / "checkpoints" / f"step_{STEPS:08d}"
    assert describe_beginning(other, corpora) == f"new, with the weights of {newest}"


@pytest.mark.parametrize("objective", ["causal", "prefix", "bidirectional", {"causal": 1, "prefix": 3}])
def test_an_estimate_is_what_rows_of_one_document_come_to(tmp_path, objective):
    """Held to rows of one segment, prefixes of all lengths: the estimate forgets what is of the order of a row."""
    length = 512
    config = train_config(tmp_path / "run", tmp_path, objective=objective)
    estimated = estimate_census(length, config)
    prefix_len = np.arange(1, length)
    of_prefix = np.stack([0 * prefix_len, 0 * prefix_len + length, prefix_len], axis=1)
    targets = {"causal": length, "prefix": (length + 1 - prefix_len).mean(), "bidirectional": 0.15 * length}
    pairs = {
        "causal": attended_pairs(np.array([[0, length, 0]])),
        "prefix": attended_pairs(of_prefix) / len(prefix_len),
        "bidirectional": attended_pairs(np.array([[0, length, length]])),
    }
    weights = config.objective
    assert estimated.targets == pytest.approx(mean_by(weights, targets), rel=0.01)
    assert estimated.attended_pairs == pytest.approx(mean_by(weights, pairs), rel=0.01)


def mean_by(weights: dict, values: dict) -> float:
    return sum(weight * values[name] for name, weight in weights.items()) / sum(weights.values())


@pytest.mark.parametrize(("keep", "expected"), [({}, 5), ({"keep_best": False}, 4), ({"keep_every_steps": 50}, 9)])
def test_checkpoints_on_the_disk_are_those_that_are_kept_and_the_one_being_written(tmp_path, corpus, keep, expected):
    changes = {"schedule__total_steps": 200, "checkpoint": {"every_steps": 10, "keep_last": 3, **keep}}
    assert plan(train_config(tmp_path / "run", corpus, **changes), 1).checkpoints == expected


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("--world-size 3 parallel.tensor_parallel_size=2", 2, "3 processes cannot form groups of tensor_parallel_size"),
        ("--world-size 512", 2, "global_batch_size 8 is not a multiple of data-parallel size 512 x micro_batch_size 2"),
        ("--world-size 3 parallel.tensor_parallel_size=3", 2, "tensor_parallel_size 3 does not divide"),
        (
            "--world-size 3 parallel.tensor_parallel_size=3 model.num_attention_heads=3 model.hidden_size=48",
            2,
            "3 does not divide the padded vocabulary, 128",
        ),
        ("batch.warmup.start_size=3 batch.warmup.steps=2", 2, "the batch does not grow to 8"),
        ("batch.global_batch_size=null batch.global_batch_tokens=100", 2, "is not a multiple of the corpus's"),
        ("model.max_position_embeddings=16", 2, "the corpus has rows of 32 tokens and the model 16 positions"),
        ("attention=varlen", 2, "attention backend 'varlen' computes in bf16 and fp16"),
        ("init_from=nowhere", 2, "init_from.path: nowhere: no such checkpoint"),
        ("run_dir=/dev/null/run", 2, "/dev/null is not a directory"),
        ("data.corpus=nowhere", 3, "no such corpus directory"),
        ("data.train_split=trein", 2, "the corpus has no split 'trein'"),
        ("optimizer.lrr=1", 2, "did you mean 'lr'?"),
    ],
)
def test_what_cannot_work_is_refused(config_file, words, code, message):
    refused = dry_run(config_file, *words.split())
    assert isinstance(refused.exception, ForewordError)
    assert refused.exception.exit_code == code
    assert message in str(refused.exception)
    assert refused.stdout == ""


def test_tokens_that_ranks_cannot_share_are_refused(tmp_path):
    odd = make_corpus(tmp_path / "corpus", sequence_length=33).path
    parallel = {"tensor_parallel_size": 2, "sequence_parallel": True}
    batch = {"global_batch_size": 8, "micro_batch_size": 1}
    config = train_config(tmp_path / "run", odd, model__max_position_embeddings=33, parallel=parallel, batch=batch)
    with pytest.raises(ConfigError, match="micro-batches of 33 tokens are not 2 equal parts"):
        plan(config, 2)


def test_a_run_directory_with_another_model_in_it_is_refused(config_file, corpus):
    assert train_all(1, train_config(config_file.parent / "run", corpus, schedule__total_steps=3)) == [[None]]
    refused = dry_run(config_file, "model.num_layers=3")
    assert isinstance(refused.exception, ForewordError)
    assert refused.exception.exit_code == 3
    assert "model.num_layers: 2 in the checkpoint, 3 now" in str(refused.exception)
    assert "continues after step 3" in dry_run(config_file).stderr
    assert "new, with weights drawn" in dry_run(config_file, "model.num_layers=3", "--fresh").stderr


def test_the_command_prints_the_configuration_and_the_plan_and_changes_nothing(config_file, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    done = dry_run(config_file, "--world-size", "4", "optimizer.lr=3e-4")
    assert done.exit_code == 0, done.stderr
    (tmp_path / "resolved.yaml").write_text(done.stdout)
    resolved = load_config(tmp_path / "resolved.yaml", [], TrainConfig)
    assert resolved == load_config(config_file, ["optimizer.lr=3e-4"], TrainConfig)
    assert "processes  4, one a GPU\nparallel   tensor 1 x data 4, ZeRO 1, fp32\n" in done.stderr
    assert "8 rows = 2 a forward pass x 4 data-parallel x 1 accumulated" in done.stderr
    (tmp_path / "resolved.yaml").unlink()
    assert sorted(tmp_path.rglob("*")) == before


def test_the_plan_needs_neither_torch_nor_the_processes(config_file):
    program = (
        "import json, sys\n"
        "from foreword.cli import main\n"
        f"sys.argv = ['foreword', 'train', '--dry-run', {str(config_file)!r}, '--processes', '2']\n"
        "try:\n    main()\n"
        "finally:\n    print(json.dumps(sorted({'torch', 'deepspeed', 'megatron'} & sys.modules.keys())))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []
    assert "processes  2, " in done.stderr


def test_a_network_adds_what_is_predicted(config_file):
    words = ("--world-size", "4", "precision=bf16")
    assert "predicted" not in dry_run(config_file, *words).stderr
    done = dry_run(config_file, *words, "--network", "200,9.6", "--gpu", "A100", "--utilisation", "0.5")
    assert done.exit_code == 0, done.stderr
    assert "predicted  A100, 8 a node, 200 Gbit/s a GPU, 9.6 us; arithmetic at 50% of 312 TFLOP/s" in done.stderr


@pytest.mark.parametrize("words", [("--network", "tin-can"), ("--network", "hdr200", "--gpu", "abacus")])
def test_unknown_hardware_is_refused(config_file, words):
    refused = dry_run(config_file, "precision=bf16", *words)
    assert isinstance(refused.exception, ConfigError)


def test_times_are_not_predicted_in_fp32(config_file):
    with pytest.raises(ConfigError, match="bf16 and fp16 only"):
        raise dry_run(config_file, "--network", "hdr200").exception


@pytest.mark.parametrize(
    "words",
    [
        ("--world-size", "2"),
        ("--network", "hdr200"),
        ("--dry-run", "--gpu", "a100"),
        ("--dry-run", "--profile"),
        ("--dry-run", "--from", "4"),
    ],
)
def test_options_that_do_not_go_together_are_refused(config_file, words):
    assert CliRunner().invoke(foreword, ["train", str(config_file), *words]).exit_code == 2


@pytest.mark.parametrize(
    ("changes", "on_gpus", "attention"),
    [
        ({"precision": "bf16"}, True, "varlen"),
        ({"precision": "fp32"}, True, "flex"),
        ({"precision": "bf16"}, False, "sdpa"),
        ({"precision": "bf16", "attention": "sdpa"}, True, "sdpa"),
    ],
)
def test_memory_is_that_of_the_attention_backend_that_will_be_taken(tmp_path, corpus, changes, on_gpus, attention):
    made = plan(train_config(tmp_path / "run", corpus, **changes), 1, on_gpus=on_gpus)
    assert made.attention == attention
    assert f"activations ({attention})" in describe_needs(made)
