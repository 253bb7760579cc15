"""Killed and stopped at drawn moments of every stage, a preparation continues to the same bytes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import killed_runs
import pytest
from corpus_files import bytes_of
from jsonl_files import write_jsonl

from data_prep.verify import verify_corpus
from foreword.config import dump_config


@pytest.fixture
def config_path(make_config, tmp_path, texts) -> Path:
    path = write_jsonl(tmp_path / "text.jsonl", [*texts[:150], *texts[:150:3]])
    changes = {"prefix": {"policy": "uniform"}, "slice_bytes": 20_000, "shard_tokens": 20_000}
    config = make_config(path, **changes, write_documents=True)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    return tmp_path / "config.yaml"


@pytest.mark.parametrize(("number", "seed"), [(signal.SIGKILL, 1), (signal.SIGINT, 2)])
def test_ended_in_every_stage_and_continued_the_bytes_are_the_same(config_path, tmp_path, number, seed):
    command = [sys.executable, killed_runs.__file__, config_path, str(int(number)), str(seed)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    ended = json.loads(result.stdout)
    assert ended.pop("in peace") == 0
    if number == signal.SIGKILL:
        assert set(ended) == set(killed_runs.STAGES) and set(ended.values()) == {-signal.SIGKILL}
    else:  # a stop is asked for between two units of work, so the last of them end in their own time
        assert ended["tokenize"] == ended["pack"] == 75 and set(ended.values()) <= {0, 75}
    assert bytes_of(tmp_path / "corpus") == bytes_of(tmp_path / "corpus-whole")
    assert not (tmp_path / "corpus" / ".work").exists()


def test_sigterm_to_all_processes_at_once_stops_and_the_same_command_finishes(config_path, tmp_path):
    command = [sys.executable, "-m", "foreword", "prep", config_path, "workers=2", "slice_bytes=2000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while process.poll() is None and len(list((tmp_path / "corpus" / ".work" / "slices").glob("*.json"))) < 3:
        time.sleep(0.002)
    subprocess.run(["kill", "-TERM", "--", f"-{process.pid}"], check=True)
    _, message = process.communicate()
    assert process.returncode == 75, message
    assert "stopped on SIGTERM" in message and "run the same command again" in message
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    assert verify_corpus(tmp_path / "corpus", 1) == []
