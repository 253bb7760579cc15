"""Tasks through lm-evaluation-harness: scores equal those of its own adapter, and mistakes are named."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from processes import run_distributed
from tiny_gpt2 import make_gpt2, save_gpt2

pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'foreword[tasks]'")

from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model

from data_prep.tokenizers import load_tokenizer
from foreword.errors import ConfigError, DataError
from pipeline.commands.tasks import tasks as command
from pipeline.distributed.parallel import Parallel
from pipeline.tasks.adapter import ForewordLM
from pipeline.tasks.run import LOCAL_TASKS, run_tasks, shipped_tasks
from pipeline.weights.hugging_face import export_weights, import_weights
from pipeline.weights.pretrained import open_pretrained

TASKS = ["foreword_last_word", "foreword_next_word", "foreword_winograd", "foreword_fill_in"]
ONE_TASK = """\
task: sums
custom_dataset: !function sums.items
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: ["2", "3"]
doc_to_target: answer
"""
ITEMS = """\
from datasets import Dataset

def items(**_):
    return {"test": Dataset.from_list([{"question": "1 + 1 = ", "answer": 0}, {"question": "1 + 2 = ", "answer": 1}])}
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a causal model with few positions, so that contexts have to be cut."""
    root = tmp_path_factory.mktemp("model")
    save_gpt2(make_gpt2(n_positions=100), root / "hf")
    import_weights(root / "hf", root / "weights")
    return root / "weights"


def adapter(weights: Path, parallel: Parallel, reading: str) -> ForewordLM:
    pretrained = open_pretrained(weights)
    return ForewordLM(pretrained.load_model(), pretrained.load_tokenizer(), reading, parallel, batch_size=3)


def ask(model: object, *names: str, limit: int | None = 4, task_dir: Path | None = None) -> dict:
    return run_tasks(model, names, task_dir=task_dir, num_fewshot=None, limit=limit, seed=0)


@pytest.mark.slow
def test_scores_equal_those_of_the_exported_model_in_the_harness(
    weights: Path, tmp_path: Path, one_process: Parallel
) -> None:
    huggingface = pytest.importorskip("lm_eval.models.huggingface", reason="needs accelerate")
    export_weights(weights, tmp_path / "export")
    theirs = huggingface.HFLM(pretrained=str(tmp_path / "export"), device="cpu", dtype="float32", batch_size=2)
    ours = adapter(weights, one_process, "causal")
    expected, actual = ask(theirs, *TASKS), ask(ours, *TASKS)
    assert actual.keys() == set(TASKS)
    for task in TASKS:
        assert actual[task]["metrics"] == pytest.approx(expected[task]["metrics"], rel=1e-4)
        assert actual[task]["samples"] == 4
    texts = ["a text of one window", "and one that is longer than the model has positions " * 5, "x"]
    rolling = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts]
    assert ours.loglikelihood_rolling(rolling) == pytest.approx(theirs.loglikelihood_rolling(rolling), rel=1e-4)
    free = [Instance("generate_until", {}, (text, {"until": ["e"], "max_gen_toks": 6}), 0) for text in texts]
    assert ours.generate_until(free) == theirs.generate_until(free)
    pairs = [Instance("loglikelihood", {}, pair, 0) for pair in (("", "start"), ("a b ", "c"), ("é", "ß"))]
    for one, other in zip(ours.loglikelihood(pairs), theirs.loglikelihood(pairs), strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_contexts_are_read_in_both_directions_by_a_prefix_model_only(weights: Path, one_process: Parallel) -> None:
    prefix, causal = (
        ask(adapter(weights, one_process, reading), "foreword_last_word") for reading in ("prefix", "causal")
    )
    assert prefix["foreword_last_word"]["metrics"] != causal["foreword_last_word"]["metrics"]


def scores_here(weights: Path) -> str:
    arguments = [str(weights), "--tasks", ",".join(TASKS), "--limit", "3", "--json", "--batch-size", "2"]
    return CliRunner().invoke(command, arguments, catch_exceptions=False).stdout


@pytest.mark.slow
def test_two_processes_share_the_work_and_tell_the_same_once(weights: Path) -> None:
    first, second = run_distributed(2, scores_here, weights)
    alone = json.loads(scores_here(weights))
    assert second == ""
    assert json.loads(first)["tasks"].keys() == alone["tasks"].keys()
    for task, values in json.loads(first)["tasks"].items():
        assert values["metrics"] == pytest.approx(alone["tasks"][task]["metrics"], rel=1e-4)


def test_shipped_tasks_have_enough_well_formed_items() -> None:
    assert sorted(shipped_tasks()) == sorted(TASKS)
    items = {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(LOCAL_TASKS.glob("*.jsonl"))
    }
    assert list(items) == ["fill_in", "last_word", "winograd"]
    for name, found in items.items():
        assert 20 <= len(found) <= 50
        assert len({json.dumps(item) for item in found}) == len(found), name
    assert all(len(set(item["options"])) == 4 and item["label"] in range(4) for item in items["fill_in"])
    assert all(item["text"].count(" ") > 20 and item["text"][-1].isalpha() for item in items["last_word"])
    first, second = items["winograd"][::2], items["winograd"][1::2]
    for one, other in zip(first, second, strict=True):  # pairs whose answers differ by the end of the sentence alone
        assert (one["before"], one["options"], one["label"]) == (other["before"], other["options"], 1 - other["label"])


def test_tasks_of_ones_own_are_read_from_a_directory(weights: Path, tmp_path: Path, one_process: Parallel) -> None:
    (tmp_path / "sums.yaml").write_text(ONE_TASK)
    (tmp_path / "sums.py").write_text(ITEMS)
    found = ask(adapter(weights, one_process, "causal"), "sums", limit=None, task_dir=tmp_path)
    assert found["sums"]["samples"] == 2
    assert 0 <= found["sums"]["metrics"]["acc"] <= 1


def test_a_task_that_is_not_there_is_refused_with_the_nearest(weights: Path, one_process: Parallel) -> None:
    with pytest.raises(ConfigError, match=r"no task 'foreword_last_wrd'\n  -> did you mean foreword_last_word"):
        ask(None, "foreword_last_wrd")


def test_no_task_at_all_is_a_mistake_in_the_command(weights: Path) -> None:
    refused = CliRunner().invoke(command, [str(weights), "--tasks", " , "])
    assert refused.exit_code == 2
    assert "--tasks names no task" in refused.stderr


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("task: [", r"bad\.yaml:1: not valid YAML"),
        ("- task", r"bad\.yaml: a task file holds key: value lines"),
        (ONE_TASK.replace("sums.items", "sums.nothing"), "sums"),
        (ONE_TASK.replace("question", "no_such_field"), "sums: cannot be asked"),
    ],
)
def test_a_task_file_that_cannot_be_used_is_refused(
    weights: Path, tmp_path: Path, one_process: Parallel, content: str, told: str
) -> None:
    (tmp_path / "bad.yaml").write_text(content)
    (tmp_path / "sums.py").write_text(ITEMS)
    with pytest.raises(DataError, match=told):
        ask(adapter(weights, one_process, "causal"), "sums", task_dir=tmp_path)


def test_a_directory_without_tasks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no task file"):
        ask(None, "sums", task_dir=tmp_path)


def test_the_harness_knows_the_model_by_its_name_and_opens_it(
    weights: Path, one_process: Parallel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert get_model("foreword") is ForewordLM
    monkeypatch.setattr("pipeline.tasks.adapter.initialize", lambda: one_process)
    opened = ForewordLM.create_from_arg_string(f"pretrained={weights},causal=true", {"batch_size": "3"})
    assert (opened.reading, opened.max_length) == ("causal", 100)
    assert opened.tokenizer_name == load_tokenizer(weights / "tokenizer").sha256
    pair = Instance("loglikelihood", {}, ("a context", " and more"), 0)
    assert opened.loglikelihood([pair]) == adapter(weights, one_process, "causal").loglikelihood([pair])
