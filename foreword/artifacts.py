"""`foreword verify PATH` and `foreword inspect PATH`: a corpus or a checkpoint, told by what the directory holds."""

import json
import os
import sys
from pathlib import Path

import click

from foreword.errors import ConfigError, DataError

EXIT_NOT_WHOLE = 1
CORPUS_MARK = "manifest.json"
CHECKPOINT_MARK = "foreword.json"


def kind_of(path: Path) -> str:
    """Whether `path` is a "corpus" or a "checkpoint".

    Raises:
        ConfigError: there is no such directory.
        DataError: neither, or not finished.
    """
    if (path / CORPUS_MARK).is_file():
        return "corpus"
    if (path / CHECKPOINT_MARK).is_file():
        return "checkpoint"
    if not path.is_dir():
        raise ConfigError("no such directory", where=path, remedy="give the directory of a corpus or of a checkpoint")
    raise DataError(
        f"neither a finished corpus ({CORPUS_MARK}) nor a whole checkpoint ({CHECKPOINT_MARK})",
        where=path,
        remedy="a corpus continues with `foreword prep`; a checkpoint is like RUN/checkpoints/step_00001000",
    )


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--workers", type=click.IntRange(min=1), help="Processes for a corpus; by default one per processor.")
def verify(path: Path, workers: int | None) -> None:
    """Check every hash of the corpus or checkpoint at PATH; exit 1 when it is not whole."""
    try:
        kind = kind_of(path)
    except DataError as error:
        click.echo(f"foreword: {error}", err=True)
        sys.exit(EXIT_NOT_WHOLE)
    if kind == "corpus":
        from data_prep.verify import verify_corpus

        problems = verify_corpus(path, workers or len(os.sched_getaffinity(0)))
    else:
        from pipeline.checkpoint.inspect import verify_checkpoint

        problems = verify_checkpoint(path)
    for problem in problems:
        click.echo(problem)
    if problems:
        click.echo(f"{path}: not whole, {len(problems)} {'problem' if len(problems) == 1 else 'problems'}", err=True)
        sys.exit(EXIT_NOT_WHOLE)
    click.echo(f"{path}: this {kind} is whole")


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.option("--row", type=int, help="Draw one row of a corpus with its segments and prefixes.")
@click.option("--split", default="train", show_default=True, help="The split that --row counts in.")
def inspect(path: Path, as_json: bool, row: int | None, split: str) -> None:
    """Show what the corpus or checkpoint at PATH holds."""
    if kind_of(path) == "corpus":
        _inspect_corpus(path, as_json, row, split)
        return
    if row is not None:
        raise click.UsageError("--row goes with a corpus, this is a checkpoint")
    from pipeline.checkpoint.inspect import describe_checkpoint

    description = describe_checkpoint(path)
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
