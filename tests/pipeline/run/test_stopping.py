"""The command as a user runs it: stopped by a signal, continued, and refused what cannot be."""

import getpass
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from tiny_corpus import make_corpus
from training import STEPS, curve, records, train_all, train_config

from pipeline.checkpoint.find import complete_checkpoints
from pipeline.run.stop import StopRequest

TIMEOUT_S = 120.0


def command(config_path: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "foreword", "train", str(config_path), *arguments]


def write_config(path: Path, run_dir: Path, corpus: Path, **changes) -> Path:
    config = train_config(run_dir, corpus, **changes)
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return path


def wait_for_step(run_dir: Path, step: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        if (run_dir / "metrics.jsonl").exists() and any(record["step"] >= step for record in records(run_dir)):
            return
        time.sleep(0.05)
    raise AssertionError(f"step {step} was not reached in {TIMEOUT_S} s")


@pytest.mark.slow
def test_a_signal_stops_at_a_step_boundary_and_the_same_command_finishes(tmp_path):
    """One of the two processes alone hears the signal; both stop, with a checkpoint and exit code 75."""
    corpus = make_corpus(tmp_path / "corpus").path
    steps = 400
    config = write_config(
        tmp_path / "c.yaml", tmp_path / "run", corpus, schedule__total_steps=steps, checkpoint__every_steps=steps
    )
    arguments = command(config, "--processes", "2")
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    wait_for_step(tmp_path / "run", 5, process)
    ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(ranks[1]), signal.SIGUSR1)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 75, errors
    assert "the same command continues from here" in errors
    assert "Traceback" not in errors
    ((stopped_at, _),) = complete_checkpoints(tmp_path / "run")
    assert 5 <= stopped_at < steps

    finished = subprocess.run(arguments, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "resumed from" in finished.stderr

    uninterrupted = train_config(tmp_path / "whole", corpus, schedule__total_steps=steps, checkpoint__every_steps=steps)
    assert train_all(2, uninterrupted) == [[None], [None]]
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")


@pytest.mark.slow
def test_a_process_that_is_killed_is_named_and_a_run_directory_has_one_trainer(tmp_path):
    corpus = make_corpus(tmp_path / "corpus").path
    config = write_config(tmp_path / "c.yaml", tmp_path / "run", corpus, schedule__total_steps=100_000)
    process = subprocess.Popen(command(config, "--processes", "2"), stderr=subprocess.PIPE, text=True)
    wait_for_step(tmp_path / "run", 5, process)
    second = subprocess.run(command(config), capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert second.returncode == 2
    holder = f"process {ranks[0]} on {socket.gethostname()}, started by {getpass.getuser()} at "
    assert f"{tmp_path / 'run'}: another process is training in this directory: {holder}" in second.stderr

    os.kill(int(ranks[1]), signal.SIGKILL)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 128 + signal.SIGKILL
    assert errors.splitlines()[-1] == "warning: rank 1 was ended by SIGKILL (out of memory?)"


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory) -> Path:
    """The directory of a finished run, with its corpus and its configuration beside it."""
    root = tmp_path_factory.mktemp("finished")
    corpus = make_corpus(root / "corpus").path
    write_config(root / "c.yaml", root / "run", corpus)
    assert train_all(1, train_config(root / "run", corpus)) == [[None]]
    return root


def test_a_finished_run_ends_at_once(finished_run, run_alone):
    before = curve(finished_run / "run")
    again = run_alone(finished_run / "c.yaml")
    assert again.code == 0
    assert curve(finished_run / "run") == before


@pytest.mark.parametrize(
    ("override", "code", "message"),
    [
        ("optimiser.lr=1", 2, "did you mean 'optimizer'?"),
        ("parallel.tensor_parallel_size=3", 2, "tensor_parallel_size 3 does not divide model.num_attention_heads 4"),
        ("parallel.tensor_parallel_size=2", 2, "1 processes cannot form groups of tensor_parallel_size 2"),
        ("precision=fp16 parallel.zero_stage=0", 2, "precision fp16 needs parallel.zero_stage 1, 2 or 3"),
        ("parallel.offload_optimizer=true parallel.zero_stage=0", 2, "offload_optimizer needs zero_stage 1, 2 or 3"),
        ("parallel.offload_parameters=true parallel.zero_stage=2", 2, "offload_parameters needs zero_stage 3"),
        ("batch.micro_batch_size=3", 2, "global_batch_size 8 is not a multiple of"),
        ("model.max_position_embeddings=16", 2, "the corpus has rows of 32 tokens and the model 16 positions"),
        ("attention=varlen", 2, "varlen"),
        ("data.corpus=nowhere", 3, "no such corpus directory"),
        ("data.train_split=trein", 2, "the corpus has no split 'trein'"),
        ("data.validation_split=dev run_dir=never", 2, "the corpus has no split 'dev'"),
        ("model.num_layers=3", 3, "model.num_layers: 2 in the checkpoint, 3 now"),
    ],
)
def test_a_mistake_is_named_with_its_remedy_and_without_a_traceback(finished_run, run_alone, override, code, message):
    result = run_alone(finished_run / "c.yaml", *override.split())
    assert result.code == code, result.errors
    assert message in result.errors
    assert "Traceback" not in result.errors
    assert "step " not in result.errors  # before the first one


def test_another_corpus_is_refused_with_the_difference(finished_run, run_alone, tmp_path):
    other = make_corpus(tmp_path / "other", seed=99).path
    result = run_alone(finished_run / "c.yaml", f"data.corpus={other}")
    assert result.code == 3
    assert "corpus manifest_sha256" in result.errors


def test_a_truncated_shard_is_refused_by_name(finished_run, run_alone, tmp_path):
    corpus = make_corpus(tmp_path / "torn").path
    shard = corpus / "train" / "00000.tokens.npy"
    os.truncate(shard, shard.stat().st_size - 1)
    result = run_alone(finished_run / "c.yaml", f"data.corpus={corpus}", f"run_dir={tmp_path / 'run'}")
    assert result.code == 3
    assert "train/00000.tokens.npy" in result.errors


def test_what_has_changed_since_the_checkpoint_is_said(finished_run, run_alone):
    result = run_alone(finished_run / "c.yaml", "optimizer.lr=0.5", "data.seed=8")
    assert result.code == 0
    assert "changed since the checkpoint: optimizer.lr: 0.01 in the checkpoint, 0.5 now" in result.errors
    assert "changed since the checkpoint: data.seed: 7 in the checkpoint, 8 now" in result.errors
    assert result.errors.count("changed since") == 2


def test_a_run_that_stops_where_it_is_saved_does_not_save_again(finished_run, run_alone, monkeypatch):
    """A save replaces a checkpoint of the same step, which for a moment would then be missing."""
    newest = complete_checkpoints(finished_run / "run")[-1][1]
    before = (newest / "foreword.json").stat()
    monkeypatch.setattr(StopRequest, "heard", True)
    result = run_alone(finished_run / "c.yaml", f"schedule.total_steps={STEPS + 1}")
    assert result.code == 75
    assert str(newest) in result.errors
    assert (newest / "foreword.json").stat() == before
    assert [record["event"] for record in records(finished_run / "run")[-2:]] == ["stop", "summary"]


def test_every_record_of_the_metrics_file_is_json(finished_run):
    for line in (finished_run / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line)
