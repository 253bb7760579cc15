"""`foreword verify PATH` and `foreword inspect PATH`: for a corpus, a run, a checkpoint or weights."""

import json
import os
import sys
from pathlib import Path
from typing import Any, Literal

import click

from foreword.errors import ConfigError, DataError, ForewordError

EXIT_NOT_WHOLE = 1
Kind = Literal["corpus", "weights", "checkpoint"]


def kind_of(path: Path) -> Kind:
    """What the directory `path` holds; a run counts as its checkpoints.

    Raises:
        ConfigError: there is no such directory.
        DataError: none of the three, or not finished.
    """
    if not path.is_dir():
        raise ConfigError("no such directory", where=path, remedy="give the directory of a corpus, run or checkpoint")
    if (path / "manifest.json").is_file():
        return "corpus"
    if (path / "foreword.json").is_file():
        from pipeline.weights.directory import is_weights

        return "weights" if is_weights(path) else "checkpoint"
    if (path / "checkpoints").is_dir() or path.name.startswith("step_"):
        return "checkpoint"
    raise DataError(
        "neither a finished corpus (manifest.json), nor a run, nor a checkpoint or weights (foreword.json)",
        where=path,
        remedy="a corpus that is not finished continues with `foreword prep`",
    )


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--workers", type=click.IntRange(min=1), help="Processes for a corpus; by default one per processor.")
def verify(path: Path, workers: int | None) -> None:
    """Check every hash of the corpus, run, checkpoint or weights at PATH; exit 1 when it is not whole."""
    kind: Kind | None = None
    try:
        kind = kind_of(path)
        problems = _problems(path, kind, workers or len(os.sched_getaffinity(0)))
    except ConfigError:
        raise
    except ForewordError as error:
        problems = [str(error)]
    for problem in problems:
        click.echo(problem)
    if problems:
        click.echo(f"{path}: not whole, {len(problems)} {'problem' if len(problems) == 1 else 'problems'}", err=True)
        sys.exit(EXIT_NOT_WHOLE)
    click.echo(f"{path}: whole ({kind})")


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.option("--row", type=int, help="Draw one row of a corpus with its segments and prefixes.")
@click.option("--split", default="train", show_default=True, help="The split that --row counts in.")
def inspect(path: Path, as_json: bool, row: int | None, split: str) -> None:
    """Show what the corpus, run, checkpoint or weights at PATH hold."""
    kind = kind_of(path)
    if kind == "corpus":
        _inspect_corpus(path, as_json, row, split)
        return
    if row is not None:
        raise click.UsageError(f"--row goes with a corpus, and {path} is not one")
    description = _describe(path, kind)
    if as_json:
        click.echo(json.dumps(description, indent=2, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.pretty import Pretty
    from rich.table import Table

    table = Table("key", "value")
    for key, value in description.items():
        table.add_row(key, value if isinstance(value, str) else Pretty(value))
    Console().print(table)


def _problems(path: Path, kind: Kind, workers: int) -> list[str]:
    if kind == "corpus":
        from data_prep.verify import verify_corpus

        return verify_corpus(path, workers)
    if kind == "weights":
        from pipeline.weights.directory import damage, read_weights_meta

        return damage(path, read_weights_meta(path), hashes=True)
    from pipeline.checkpoint.inspect import verify_checkpoint

    return verify_checkpoint(path)


def _describe(path: Path, kind: Kind) -> dict[str, Any]:
    if kind == "weights":
        from pipeline.weights.directory import read_weights_meta

        return read_weights_meta(path).model_dump(mode="json")
    from pipeline.checkpoint.inspect import describe_checkpoint

    return describe_checkpoint(path)


def _inspect_corpus(path: Path, as_json: bool, row: int | None, split: str) -> None:
    from rich.console import Console

    from data_prep import inspect as corpus

    if as_json:
        values = corpus.describe_corpus(path) if row is None else corpus.describe_row(path, split, row)
        click.echo(corpus.to_json(values))
    elif row is None:
        corpus.show_corpus(path, Console())
    else:
        corpus.show_row(path, split, row, Console())
