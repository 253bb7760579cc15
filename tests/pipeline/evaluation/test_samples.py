"""Samples are continuations of fixed prompts, the same in any topology, and change nothing in the training."""

from pathlib import Path

import numpy as np
import pytest
from tiny_corpus import make_corpus
from tiny_preparation import documents, train_tokenizer, write_preparation
from training import curve, records, train_all, train_config

from data_prep.config import PrepConfig
from data_prep.prepare import prepare
from data_prep.shards import PADDING, Corpus
from foreword.config import load_config
from foreword.errors import ConfigError
from pipeline.evaluation.samples import choose_prompts

STEPS, NEW_TOKENS = 4, 6


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of real text, with a tokenizer."""
    root = tmp_path_factory.mktemp("corpus")
    config = write_preparation(root, train_tokenizer(root / "tokenizer.model"), root / "corpus", workers=1)
    prepare(load_config(config, [], PrepConfig))
    return root / "corpus"


def samples_of(run_dir: Path) -> dict[int, list[dict]]:
    return {record["step"]: record["samples"] for record in records(run_dir) if record.get("event") == "samples"}


@pytest.mark.slow
def test_samples_are_the_same_in_any_topology_and_change_nothing(corpus: Path, tmp_path: Path) -> None:
    topologies = {
        "zero 1": {},
        "zero 3": {"parallel": {"zero_stage": 3}},
        "tensor": {"parallel": {"tensor_parallel_size": 2, "sequence_parallel": True}},
        "both": {"parallel": {"tensor_parallel_size": 2, "zero_stage": 3}},
    }
    common = {
        "schedule": {"total_steps": STEPS},
        "evaluation": {"every_steps": 2, "samples": 3, "sample_tokens": NEW_TOKENS},
        "checkpoint__every_steps": STEPS,
    }
    without = common | {"evaluation": {"every_steps": 2}}
    configs = {name: train_config(tmp_path / name, corpus, **common, **changes) for name, changes in topologies.items()}
    configs |= {
        f"{name}, no samples": train_config(tmp_path / f"no {name}", corpus, **without, **topologies[name])
        for name in ("zero 1", "zero 3")
    }
    for errors in train_all(2, *configs.values()):
        assert errors == [None] * len(configs)
    found = {name: samples_of(configs[name].run_dir) for name in topologies}
    expected = found.pop("zero 1")
    assert list(expected) == [2, 4]
    for name, samples in found.items():
        assert samples == expected, name
    for name in ("zero 1", "zero 3"):
        assert curve(configs[name].run_dir) == curve(configs[f"{name}, no samples"].run_dir)
    texts = " ".join(documents())
    for sample in expected[4]:
        assert sample["reading"] == "prefix"
        assert sample["prompt"].strip() in texts
        assert sample["truth"]
    assert [sample["prompt"] for sample in expected[2]] == [sample["prompt"] for sample in expected[4]]
    assert [sample["continuation"] for sample in expected[2]] != [sample["continuation"] for sample in expected[4]]


def test_prompts_end_where_prefixes_do_or_in_the_middle(tmp_path: Path) -> None:
    for prefix_len in (None, 0):
        split = make_corpus(tmp_path / str(prefix_len), rows=30, prefix_len=prefix_len).split("train")
        prompts = choose_prompts(split, 10, longest=4, num_truth=3)
        assert prompts == choose_prompts(split, 10, longest=4, num_truth=3)
        assert len(prompts) == 10
        for number, prompt in enumerate(prompts):
            row = split.row(3 * number)
            start, prefix = row.segments.astype(int).T
            length = np.diff(np.append(start, len(row.tokens)))
            length[prefix == PADDING] = 0
            first, longest, inside = (int(values[length.argmax()]) for values in (start, length, prefix))
            boundary = first + (inside if 1 < inside < longest else longest // 2)
            assert prompt.ids == row.tokens[max(first, boundary - 4) : boundary].tolist()
            assert prompt.truth == row.tokens[boundary : min(first + longest, boundary + 3)].tolist()


def test_a_small_split_has_few_prompts(tmp_path: Path) -> None:
    split = Corpus.open(make_corpus(tmp_path, rows=2).path).split("train")
    assert len(choose_prompts(split, 10, longest=4, num_truth=3)) == 2


def test_samples_without_a_time_or_a_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="samples are drawn at evaluations"):
        train_config(tmp_path, tmp_path, evaluation={"samples": 1})
    with pytest.raises(ConfigError, match="sample_tokens 32 leaves no position for a prompt"):
        train_config(tmp_path, tmp_path, evaluation={"every_steps": 1, "samples": 1, "sample_tokens": 32})
