"""What README and the guide show can be typed: the commands, their options, the files and the links exist."""

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from foreword.cli import foreword
from foreword.config import load_config
from pipeline.config.train import TrainConfig

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND_LINE = re.compile(r"^ {4}(?:\$ )?(foreword .*)$", re.MULTILINE)
PATH = re.compile(r"(?<![\w/.-])(?:configs|data_prep|demo|docs|foreword|pipeline|slurm|tests)/[\w./-]*\w")
YAML_BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")

shown = [(page.name, line) for page in PAGES for line in COMMAND_LINE.findall(page.read_text()) if "[" not in line]


def blocks_of(page: str) -> list[str]:
    """The blocks of YAML in a page of the guide."""
    return YAML_BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text())


def parse(words: list[str]) -> None:
    """Parse a command line as `foreword` would, without running it; click raises where it would refuse."""
    command: click.Command = foreword
    context = command.make_context("foreword", words)
    while isinstance(command, click.Group):
        _, found, words = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None
        command, context = found, found.make_context(found.name, words, parent=context)


@pytest.mark.parametrize(("page", "line"), shown)
def test_a_shown_command_can_be_typed(page: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click.File, "convert", lambda self, value, *_: value)  # the reader's files are not here
    _, *words = shlex.split(line, comments=True)
    parse(words)


def test_readme_shows_commands() -> None:
    assert sum(page == "README.md" for page, _ in shown) >= 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_and_linked_pages_exist(page: Path) -> None:
    text = page.read_text()
    missing = [name for name in PATH.findall(text) if not (ROOT / name).exists()]
    missing += [target for target in LINK.findall(text) if not (page.parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize(
    "block", [block for page in ("evaluation", "objectives", "training") for block in blocks_of(page)]
)
def test_a_shown_part_of_a_training_configuration_can_be_read(block: str, tmp_path: Path) -> None:
    """As a layer over a complete configuration, which then has these values."""
    layer = yaml.safe_load(block)
    base = {"extends": str(ROOT / "configs" / "train" / "gpt2-124m-prefix.yaml")}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(base | layer))
    config = load_config(tmp_path / "c.yaml", [], TrainConfig).model_dump(mode="json")
    assert_holds(config, layer)


def assert_holds(config: dict, layer: dict) -> None:
    for key, value in layer.items():
        if isinstance(value, dict) and isinstance(config[key], dict):
            assert_holds(config[key], value)
        else:
            assert config[key] == value, key


def test_pages_about_training_show_configurations() -> None:
    assert len(blocks_of("objectives")) >= 6
    assert len(blocks_of("training")) >= 5
