"""`foreword generate` as it is typed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny_gpt2 import make_gpt2, pretend_objective, save_gpt2

from foreword.errors import CheckpointError, ConfigError, DataError
from pipeline.commands.generate import generate
from pipeline.weights.hugging_face import import_weights

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Said to have been trained on everything, with the layout that they were imported from beside them."""
    root = tmp_path_factory.mktemp("weights")
    save_gpt2(make_gpt2(), root / "hf")
    import_weights(root / "hf", root / "weights")
    pretend_objective(root / "weights", {"prefix": 1.0, "bidirectional": 1.0})
    return root / "weights"


@pytest.fixture
def run(weights: Path) -> Run:
    def run_it(*arguments: str, model: Path = weights, **options: object) -> Result:
        ends = () if "--suffix-context" in arguments else ("--max-new-tokens", "6")
        words = [str(model), *ends, *arguments]
        return CliRunner().invoke(generate, words, catch_exceptions=False, **options)

    return run_it


def test_it_prints_the_prompt_and_what_comes_behind_it(run: Run, tmp_path: Path) -> None:
    printed = run("--prompt", "A prompt").stdout
    assert printed.startswith("A prompt")
    assert len(printed) > len("A prompt\n")
    (tmp_path / "prompt.txt").write_text("A prompt")
    assert run("--prompt-file", str(tmp_path / "prompt.txt")).stdout == printed
    assert run("--prompt-file", "-", input="A prompt").stdout == printed
    assert run("--prompt", "A prompt", "--no-cache").stdout == printed
    assert run("--prompt", "A prompt", "--seed", "1").stdout != printed
    reply = run("--turn", "Hello", "--turn", "Hi").stdout
    assert reply.endswith("\n") and "Hello" not in reply


def test_the_prompt_is_read_as_the_model_was_trained_unless_it_is_said_otherwise(run: Run) -> None:
    by_default, in_both_directions, causal = (
        json.loads(run("--jsonl", "-", *reading, input='{"prompt": "A prompt"}').stdout)["generated_ids"]
        for reading in ((), ("--bidirectional",), ("--causal",))
    )
    assert by_default == in_both_directions != causal


def test_it_fills_a_gap_and_prints_what_stands_around_it(run: Run) -> None:
    printed = run("--prefix", "left ", "--gap", "3", "--suffix-context", " right").stdout
    assert printed.startswith("left ") and printed.endswith(" right\n")
    assert run("--gap", "3", "--suffix-context", "right").stdout.endswith("right\n")
    record = '{"prefix": "left ", "suffix_context": " right"}\n'
    (by_default,) = map(json.loads, run("--jsonl", "-", input=record).stdout.splitlines())
    assert len(by_default["generated_ids"]) == 8
    (answer,) = map(json.loads, run("--jsonl", "-", "--gap", "3", input=record).stdout.splitlines())
    assert len(answer["generated_ids"]) == 3
    assert f"left {answer['generated']} right\n" == printed


def test_lines_come_back_as_lines_and_a_bad_one_is_counted(run: Run, tmp_path: Path) -> None:
    good = '{"prompt": "A prompt", "id": 3}\n{"turns": ["Hi"]}\n{"gap": 2, "suffix_context": "x"}\n'
    (tmp_path / "in.jsonl").write_text(good)
    printed = run("--jsonl", str(tmp_path / "in.jsonl")).stdout
    answers = [json.loads(line) for line in printed.splitlines()]
    assert f"{answers[0]['prompt']}{answers[0]['generated']}\n" == run("--prompt", "A prompt").stdout_bytes.decode()
    assert answers[0]["id"] == 3 and len(answers) == 3
    assert run("--jsonl", "-", "--batch-size", "1", input=good).stdout == printed
    out = tmp_path / "out.jsonl"
    with pytest.raises(DataError, match=r"out\.jsonl: 1 line could not be answered"):
        run("--jsonl", "-", "--out", str(out), input=good + '{"prompt": ""}\n')
    assert [json.loads(line) for line in out.read_text().splitlines()][:3] == answers
    with pytest.raises(ConfigError, match="exists already"):
        run("--jsonl", "-", "--out", str(out), input=good)


def test_it_prints_nothing_of_a_stop_text_nor_of_what_comes_behind_it(run: Run) -> None:
    endless = run("--prompt", "A prompt", "--temperature", "0", "--max-new-tokens", "12").stdout
    stop = endless[-4:-2]
    printed = run("--prompt", "A prompt", "--temperature", "0", "--max-new-tokens", "12", "--stop", stop).stdout
    assert printed == endless[: endless.index(stop)] + "\n"


def test_a_prompt_that_fills_the_positions_is_continued_to_their_end_with_a_word(run: Run) -> None:
    outcome = run("--prompt", "x" * 23)
    assert "it ends because the model has 24 positions" in outcome.stderr
    with pytest.raises(ConfigError, match="the prompt has 25 tokens and the model 24 positions"):
        run("--prompt", "x" * 25)


def test_a_directory_in_the_hugging_face_layout_will_do(run: Run, weights: Path, tmp_path: Path) -> None:
    original = weights.parent / "hf"
    printed = run("--prompt", "A prompt", model=original).stdout
    assert printed == run("--prompt", "A prompt", "--causal").stdout
    with pytest.raises(ConfigError, match="cannot fill gaps"):
        run("--prefix", "left", "--suffix-context", "right", model=original)
    with pytest.raises(CheckpointError, match="neither a checkpoint nor a run"):
        run("--prompt", "x", model=tmp_path)
    other = shutil.copytree(original, tmp_path / "other")
    settings = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(settings | {"vocab_size": 200}))
    with pytest.raises(ConfigError, match="the tokenizer has 257 ids and the model 200"):
        run("--prompt", "x", model=other)
    (other / "config.json").write_text(json.dumps(settings | {"model_type": "llama"}))
    with pytest.raises(ConfigError, match="only 'gpt2' is supported"):
        run("--prompt", "x", model=other)


def test_every_precision_computes(run: Run) -> None:
    for dtype in ("bf16", "fp16"):
        assert run("--prompt", "A prompt", "--dtype", dtype, "--temperature", "0").stdout.startswith("A prompt")


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--prompt", "A", "--turn", "B"),
        ("--prompt", "A", "--jsonl", "-"),
        ("--prompt", "A", "--suffix-context", "B"),
        ("--turn", "A", "--prefix", "B"),
        ("--jsonl", "-", "--prefix", "B"),
        ("--prompt", "A", "--gap", "2"),
        ("--prompt", "A", "--batch-size", "2"),
        ("--suffix-context", "A", "--stop", "B"),
        ("--suffix-context", "A", "--causal"),
        ("--suffix-context", "A", "--no-cache"),
        ("--suffix-context", "A", "--max-new-tokens", "3"),
        ("--prompt", "A", "--out", "x"),
        ("--prompt", "A", "--stop", ""),
        ("--prompt", "A", "--temperature", "nan"),
        ("--prompt", "A", "--temperature", "inf"),
        ("--prompt", "A", "--top-p", "nan"),
        ("--prompt", "A", "--repetition-penalty", "0"),
        ("--prompt", "A", "--seed", "9" * 30),
        ("--prompt", "A", "--gap", "0"),
    ],
)
def test_options_that_mean_nothing_are_a_usage_error(run: Run, words: tuple[str, ...]) -> None:
    assert run(*words).exit_code == 2


def test_mistakes_in_a_prompt_are_named(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the prompt is empty"):
        run("--prompt", "")
    with pytest.raises(ConfigError, match="nothing around the gap"):
        run("--prefix", "", "--suffix-context", "")
    for words in (("--prompt", "a\udcff"), ("--turn", "a\udcff"), ("--suffix-context", "a\udcff")):
        with pytest.raises(ConfigError, match="not UTF-8 text"):  # how Python reads other bytes on a command line
            run(*words)
    (tmp_path / "latin").write_bytes("Größe".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        run("--prompt-file", str(tmp_path / "latin"))
