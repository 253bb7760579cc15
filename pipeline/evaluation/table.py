"""What `foreword eval` tells, for a person."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.evaluation.scores import Score, bucket_name

WIDTH = 120
NO_TABLE_OF_DOCUMENTS = "by source: not known, because the corpus was prepared without its tables of documents"


def show(told: Mapping[str, Any], unigram: Score | None) -> str:
    """The values of `describe` and a baseline as lines of text."""
    table = Table(box=None, pad_edge=False)
    table.add_column("tokens")
    table.add_column("prefix read")
    for column in ("targets", "loss", "interval", "perplexity", "bits/byte", "accuracy"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, group in _groups(told):
        first, *others = list(_rows(group))
        table.add_row(name, *first)
        for row in others:
            table.add_row("", *row)
    if unigram is not None:
        numbers = (unigram.loss, unigram.perplexity, unigram.bits_per_byte, unigram.accuracy)
        loss, *rest = map(_number, numbers)
        table.add_row("unigram model", "", f"{unigram.targets:,}", loss, "", *rest)
    console = Console(width=WIDTH, color_system=None)
    with console.capture() as capture:
        console.print(table)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    return "\n".join([*lines, *_notes(told)])


def _groups(told: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "all", told
    for group in told["by_prefix_len"]:
        yield f"prefix of {bucket_name(group['shortest'], group['longest'])}", group
    for group in told["by_source"] or []:
        yield f"source {group['source']}", group


def _rows(group: Mapping[str, Any]) -> Iterator[list[str]]:
    for reading, shown in (("prefix", "both ways"), ("causal", "causally"), ("difference", "  difference")):
        values = group[reading]
        ends = (values["intervals"] or {}).get("loss")
        yield [
            shown,
            f"{values['targets']:,}" if "targets" in values else "",
            _number(values["loss"]),
            f"{ends[0]:.4f} to {ends[1]:.4f}" if ends else "",
            _number(values["perplexity"]) if "perplexity" in values else "",
            _number(values["bits_per_byte"]),
            _number(values["accuracy"]),
        ]


def _notes(told: Mapping[str, Any]) -> Iterator[str]:
    how = told["resampling"]
    if how["resamples"]:
        yield (
            f"interval: {how['confidence']:.0%} of the loss, from {how['resamples']:,} resamples of"
            f" {how['number']:,} {how['units']}, seed {how['seed']}; difference: causally - both ways"
        )
    if told["by_source"] is None:
        yield NO_TABLE_OF_DOCUMENTS


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4f}"
