"""The `foreword compare` command."""

import json
from pathlib import Path

import click


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN RUN...")
@click.option("--out", type=click.Path(path_type=Path), default="comparison.html", show_default=True, help="The page.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def compare(runs: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Compare runs: losses against tokens and against target tokens on one page, and a table.

    Against target tokens a prefix-LM and a causal model are compared by how often they were told what comes next, and
    against tokens by what they have read.
    """
    from pipeline.report.compare import open_runs, show, write_comparison

    compared = open_runs(runs)
    write_comparison(compared, out)
    if as_json:
        click.echo(json.dumps([run.facts for run in compared]))
    else:
        click.echo(show(compared))
        click.echo(f"\n{out}")
