"""What is said at the start of a run, before anything is changed."""

import yaml
from tiny_corpus import make_corpus
from training import train_config

from data_prep.manifest import Manifest


def test_a_run_that_is_prefix_by_name_alone_is_told_so(tmp_path, run_alone):
    """Its corpus was prepared without prefixes, and none are drawn."""
    corpus = make_corpus(tmp_path / "corpus", rows=8, prefix_len=0)
    source = {"name": "s", "kind": "jsonl", "prefix": {"policy": "none"}, "files": {}, "dropped": {}}
    counts = dict.fromkeys(("records", "documents", "tokens", "text_bytes"), 1)
    values = corpus.manifest.model_dump() | {"sources": [source | counts]}
    Manifest.model_validate(values).save(corpus.path)
    config = train_config(tmp_path / "run", corpus.path, schedule={"total_steps": 1}, evaluation={})
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    warning = "corpus: prepared without prefixes, so the objective prefix is causal"
    first = run_alone(tmp_path / "c.yaml")
    assert first.code == 0, first.errors
    assert warning in first.errors
    for override in ("boundaries.policy=uniform", "objective=causal"):
        assert warning not in run_alone(tmp_path / "c.yaml", override).errors
