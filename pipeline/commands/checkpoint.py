"""`foreword checkpoint`: reshape, compare and average checkpoints, without a run."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pipeline.weights.compare import Comparison

EXIT_DIFFERENT = 1


@click.group()
def checkpoint() -> None:
    """Reshape, compare or average checkpoints.

    Wherever a checkpoint is wanted, a run stands for its newest complete one.
    """


@checkpoint.command()
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("out", metavar="DST", type=click.Path(path_type=Path))
@click.option("--tp", required=True, type=click.IntRange(min=1), help="The tensor-parallel size of DST.")
def reshape(source: Path, out: Path, tp: int) -> None:
    """Write the checkpoint SRC as DST, cut for another tensor-parallel size.

    Training does not need it: it resumes from any checkpoint on any number of processes, tensor-parallel size and ZeRO
    stage. The latter two are no property of a checkpoint's files, so there is nothing to choose for them here.
    """
    from pipeline.checkpoint.reshape import reshape_checkpoint

    meta = reshape_checkpoint(source, out, tp)
    click.echo(f"{out}: step {meta.progress.step}, tensor-parallel size {tp}, {len(meta.files)} files")


@checkpoint.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--rows", default=20, show_default=True, type=click.IntRange(min=1), help="Tensors in the table.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table, with all tensors.")
def diff(a: Path, b: Path, rows: int, as_json: bool) -> None:
    """Say which tensors of A and B differ and by how much: weights, moments, step counts; exit 1 when any does.

    A and B are runs, checkpoints (of any topology) or weights; of weights alone, weights are compared.
    """
    from pipeline.weights.compare import compare

    comparison = compare(a, b)
    if as_json:
        click.echo(json.dumps(comparison.as_dict()))
    else:
        _show(comparison, rows)
    if not comparison.same:
        sys.exit(EXIT_DIFFERENT)


@checkpoint.command()
@click.argument("checkpoints", metavar="CHECKPOINT...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def average(checkpoints: tuple[Path, ...], out: Path) -> None:
    """Write the mean of the weights of several checkpoints as OUT, for eval, generate, export and init_from."""
    from pipeline.weights.average import average_weights

    if len(checkpoints) < 2:
        raise click.UsageError("give at least two checkpoints, and then OUT")
    average_weights(checkpoints, out)
    click.echo(f"{out}: the mean of {len(checkpoints)} checkpoints; use it as weights, or with init_from={out}")


def _show(comparison: "Comparison", rows: int) -> None:
    from rich.console import Console
    from rich.table import Table

    for line in comparison.structure:
        click.echo(line)
    for key, (a, b) in comparison.facts.items():
        click.echo(f"{key}: {a:,} and {b:,}")
    if comparison.differences:
        table = Table("tensor", "what", box=None, pad_edge=False)
        for column in ("elements that differ", "max abs", "max rel"):
            table.add_column(column, justify="right")
        for d in comparison.differences[:rows]:
            table.add_row(d.name, d.kind, f"{d.elements:,} of {d.of:,}", f"{d.max_abs:.3e}", f"{d.max_rel:.3e}")
        Console(width=120).print(table)
    different, shown = len(comparison.differences), min(rows, len(comparison.differences))
    more = f", the {shown} largest shown" if shown < different else ""
    click.echo(f"{different} of {comparison.compared} tensors differ{more}")
