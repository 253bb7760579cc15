"""The demo's text: documentation in a fixed order, read from sources without running them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from stdlib_text import docstrings

SCRIPT = Path(__file__).parents[2] / "demo" / "stdlib_text.py"
LONG = "This sentence is here so that the docstring is long enough to be worth a document of its own."


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "new directory" / "text.jsonl"
    subprocess.run([sys.executable, SCRIPT, path], check=True, capture_output=True)
    return path


def test_there_are_thousands_of_different_documents(written: Path) -> None:
    records = [json.loads(line) for line in written.read_text(encoding="utf-8").splitlines()]
    assert all(record.keys() == {"text", "source"} for record in records)
    assert len({record["text"] for record in records}) == len(records) > 2000


def test_help_topics_and_docstrings_are_both_there(written: Path) -> None:
    sources = {json.loads(line)["source"] for line in written.read_text(encoding="utf-8").splitlines()}
    assert {"help:for", "doc:json.dumps", "doc:argparse"} <= sources


def test_the_same_python_writes_the_same_bytes(written: Path) -> None:
    again = written.with_name("again.jsonl")
    subprocess.run([sys.executable, SCRIPT, again], check=True, capture_output=True)
    assert again.read_bytes() == written.read_bytes()


def test_sources_are_parsed_and_never_run(tmp_path: Path) -> None:
    (tmp_path / "bomb.py").write_text(f'"""{LONG}"""\nraise SystemExit("run")\n')
    assert list(docstrings(tmp_path)) == [("doc:bomb", f"bomb\n\n{LONG}\n")]


def test_methods_carry_their_dotted_name_and_signature(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(f'class A:\n    def f(self, x=1):\n        """{LONG}"""\n')
    assert list(docstrings(tmp_path)) == [("doc:module.A.f", f"module.A.f(self, x=1)\n\n{LONG}\n")]


def test_tests_and_what_cannot_be_parsed_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "module.py").write_text(f'"""{LONG}"""\n')
    (tmp_path / "template.py").write_text("{% this is no python %}\n")
    (tmp_path / "latin.py").write_bytes(b'"""\xff"""\n')
    assert list(docstrings(tmp_path)) == []
