"""`foreword train --profile` leaves traces of the steps that it names, and trains as without it."""

import json
from pathlib import Path

import pytest
import yaml
from processes import run_distributed
from tiny_corpus import make_corpus
from training import curve, records, train_config

import pipeline.distributed.launch
from pipeline.commands.train import PROFILED_STEPS, train


def train_profiled(config, profile_steps: int) -> None:
    from pipeline.train import train

    train(config, profile_steps=profile_steps)


@pytest.fixture(scope="module")
def profiled(tmp_path_factory) -> Path:
    """A run of two ranks of which two steps were profiled."""
    root = tmp_path_factory.mktemp("profiled")
    config = train_config(root / "run", make_corpus(root / "corpus").path)
    run_distributed(2, train_profiled, config, 2)
    return root


def names_in(trace: Path) -> set[str]:
    return {event.get("name", "") for event in json.loads(trace.read_text())["traceEvents"]}


def test_every_rank_leaves_a_trace_of_the_steps_in_its_name(profiled):
    traces = sorted((profiled / "run" / "profile").iterdir())
    assert [trace.name for trace in traces] == [f"steps_00000005-00000006_rank_{rank}.json" for rank in (0, 1)]
    for trace in traces:
        assert {"aten::addmm", "c10d::allreduce_"} <= names_in(trace)
        assert sum(name.startswith("ProfilerStep#") for name in names_in(trace)) == 2


def test_a_run_that_ends_early_leaves_what_it_has_and_its_table_and_the_same_curve(profiled, run_alone, tmp_path):
    """Alone, by the command; of three steps that were wanted it takes one."""
    path = tmp_path / "c.yaml"
    config = train_config(tmp_path / "run", profiled / "corpus", evaluation__every_steps=None)
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    done = run_alone(path, "--profile", "schedule.kind=constant", "schedule.total_steps=5")
    assert done.code == 0, done.errors
    (trace,) = (tmp_path / "run" / "profile").iterdir()
    assert trace.name == "steps_00000005-00000005_rank_0.json"
    table = done.errors[done.errors.index("the most expensive operations") :].splitlines()
    assert all(line.endswith("%") for line in table[1:11])
    assert table[11] == f"traces of 1 steps, for https://ui.perfetto.dev: {trace.parent}"
    assert records(tmp_path / "run")[-1]["profiling_s"] > 0

    plain = run_alone(path, f"run_dir={tmp_path / 'plain'}", "schedule.kind=constant", "schedule.total_steps=5")
    assert plain.code == 0
    assert not (tmp_path / "plain" / "profile").exists()
    assert curve(tmp_path / "plain") == curve(tmp_path / "run")


def test_a_run_too_short_to_be_profiled_says_so(profiled, run_alone, tmp_path):
    config = train_config(tmp_path / "run", profiled / "corpus", evaluation__every_steps=None)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    done = run_alone(tmp_path / "c.yaml", "schedule.total_steps=4", "--profile")
    assert done.code == 0
    assert "nothing is profiled: the first step to be was 5" in done.errors


def test_a_trace_that_cannot_be_written_is_a_warning(profiled, run_alone, tmp_path):
    config = train_config(tmp_path / "run", profiled / "corpus", evaluation__every_steps=None)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "profile").write_text("in the way")
    done = run_alone(tmp_path / "c.yaml", "--profile=1", "schedule.total_steps=6")
    assert done.code == 0
    assert "warning: the trace of rank 0 cannot be written" in done.errors
    assert max(curve(tmp_path / "run")) == 6


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        (["--profile", "c.yaml"], PROFILED_STEPS),
        (["c.yaml", "--profile", "optimizer.lr=1"], PROFILED_STEPS),
        (["c.yaml", "--profile"], PROFILED_STEPS),
        (["--profile", "7", "c.yaml"], 7),
        (["c.yaml", "--profile=8"], 8),
        (["c.yaml"], None),
    ],
)
def test_the_option_takes_a_number_or_none_wherever_it_stands(words, steps):
    parameters = train.make_context("train", words).params
    assert (parameters["config"], parameters["profile_steps"]) == ("c.yaml", steps)


def test_processes_are_started_with_the_option(profiled, monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(pipeline.distributed.launch, "launch", lambda words, processes: started.append(words) or 0)
    config = train_config(tmp_path / "run", profiled / "corpus")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    with pytest.raises(SystemExit):
        train.main(["--profile", "4", "--processes", "2", str(tmp_path / "c.yaml")])
    assert started == [["train", "--profile=4", str(tmp_path / "c.yaml")]]
