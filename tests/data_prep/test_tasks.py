"""Preparation by tasks: any number of them, at once, killed and repeated, gives the corpus of one machine."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from corpus_files import bytes_of
from jsonl_files import write_jsonl

from data_prep.plan import Plan, PlannedSlice
from data_prep.prepare import finish, prepare, prepare_task
from data_prep.work import task_work, whole_work
from foreword.config import dump_config
from foreword.errors import ConfigError, DataError

CHANGES = {
    "prefix": {"policy": "uniform"},
    "splits": {"valid": 0.1, "test": 0.05},
    "slice_bytes": 10_000,
    "shard_tokens": 40_000,
}


@pytest.fixture
def paths(tmp_path, texts) -> list[Path]:
    """Two files in many slices, with copies of documents between them and inside them."""
    return [
        write_jsonl(tmp_path / "a.jsonl", [*texts, *texts[::3]]),
        write_jsonl(tmp_path / "b.jsonl", [*texts[::2], *(f"{text} again" for text in texts)]),
    ]


def command(tmp_path: Path, *options: object) -> subprocess.Popen:
    words = [sys.executable, "-m", "foreword", "prep", str(tmp_path / "config.yaml"), *map(str, options)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def test_tasks_at_once_one_of_them_killed_and_repeated_give_the_bytes_of_one_machine(make_config, paths, tmp_path):
    whole = make_config(*paths, output=str(tmp_path / "whole"), **CHANGES)
    manifest = prepare(whole)
    assert manifest.sources[1].dropped["duplicate"] > 50
    config = make_config(*paths, output=str(tmp_path / "tasks"), **CHANGES)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    processes = [command(tmp_path, "--task", task, "--tasks", 3) for task in range(3)]
    while not list((tmp_path / "tasks" / ".work" / "scratch" / "1-of-3").glob("*")):
        assert processes[1].poll() is None
        time.sleep(0.001)
    os.killpg(processes[1].pid, signal.SIGKILL)
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, -signal.SIGKILL, 0]

    refused = command(tmp_path, "--finish")
    _, message = refused.communicate()
    assert refused.returncode == 3
    assert "slices are not done" in message and "with --tasks 3: --task 1\n" in message and "Traceback" not in message

    repeated = command(tmp_path, "--task", 1, "--tasks", 3)
    assert "task 1 of 3" in repeated.communicate()[0]
    finishing = command(tmp_path, "--finish", "workers=2")
    assert "train: " in finishing.communicate()[0]
    assert bytes_of(tmp_path / "tasks") == bytes_of(tmp_path / "whole")


def test_a_repeated_task_finds_its_finished_slices(make_config, paths):
    config = make_config(*paths, **CHANGES)
    done = prepare_task(config, 0, 2)
    slices = sorted((Path(config.output) / ".work" / "slices").iterdir())
    before = [path.stat().st_mtime_ns for path in slices]
    assert len(slices) == 3 * done.slices > 9
    torn = slices[1]
    torn.write_bytes(torn.read_bytes()[:-2])
    assert prepare_task(config, 0, 2) == done
    after = [path.stat().st_mtime_ns for path in slices]
    assert [path.stem for path, *times in zip(slices, before, after, strict=True) if times[0] != times[1]] == [
        torn.stem
    ] * 3


def test_what_tasks_left_undone_a_whole_run_does(make_config, paths, tmp_path):
    whole = make_config(*paths, output=str(tmp_path / "whole"), **CHANGES)
    prepare(whole)
    config = make_config(*paths, **CHANGES)
    prepare_task(config, 2, 5)
    prepare_task(config, 0, 3)
    prepare(config)
    assert bytes_of(Path(config.output)) == bytes_of(Path(whole.output))


def test_finishing_without_tasks_or_with_torn_slices_is_refused(make_config, paths):
    config = make_config(*paths, **CHANGES)
    with pytest.raises(ConfigError, match="no task has run"):
        finish(config)
    assert not Path(config.output).exists()
    prepare_task(config, 0, 1)
    torn = Path(config.output) / ".work" / "slices" / "000003.documents"
    torn.write_bytes(torn.read_bytes()[:-1] + b"x")
    expected = r"1 of \d+ slices are not done:\n +with --tasks 1: --task 0\n +slice 3: .*a\.jsonl"
    with pytest.raises(DataError, match=expected):
        finish(config)


def test_tasks_and_finish_refuse_another_configuration(make_config, paths):
    prepare_task(make_config(*paths, **CHANGES), 0, 2)
    changed = make_config(*paths, **{**CHANGES, "prefix": {"policy": "none"}})
    for attempt in (lambda: prepare_task(changed, 1, 2), lambda: finish(changed), lambda: prepare(changed)):
        with pytest.raises(ConfigError, match=r"prefix.policy: \"uniform\" -> \"none\""):
            attempt()


def test_who_may_work_beside_whom(make_config, paths):
    config = make_config(*paths, **CHANGES)
    output = Path(config.output)
    with task_work(output, 0, 3):
        with pytest.raises(ConfigError, match="task 0 of 3 is running already"):
            prepare_task(config, 0, 3)
        for attempt in (prepare, finish):
            prepare_task(config, 1, 3)
            with pytest.raises(ConfigError, match="another process"):
                attempt(config)
    with whole_work(output), pytest.raises(ConfigError, match="another process"):
        prepare_task(config, 1, 3)


def test_every_slice_belongs_to_one_task_and_tasks_have_equal_work():
    sizes = [64] * 40 + [1, 0, 500, 3, 64, 64]
    slices = [PlannedSlice(file=0, begin=0, end=0, size_bytes=size) for size in sizes]
    plan = Plan(config={}, tokenizer={}, slice_bytes=64, files=[], slices=slices)
    for tasks in (1, 3, 7, 100):
        shares = plan.shares(tasks)
        assert Counter(number for share in shares for number in share) == Counter(range(len(sizes)))
        loads = [sum(sizes[number] for number in share) for share in shares]
        assert max(loads) <= max(500, sum(sizes) / tasks + 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "3", "--tasks", "3"], "the last one is 2"),
        (["--task", "0"], "go together"),
        (["--task", "0", "--tasks", "2", "--finish"], "does not go with"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    from click.testing import CliRunner

    from data_prep.commands import prep

    result = CliRunner().invoke(prep, ["config.yaml", *options])
    assert result.exit_code == 2 and message in result.output
