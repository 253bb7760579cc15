"""The command that measures a trained model: `foreword eval`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pipeline.distributed.parallel import Parallel
    from pipeline.evaluate import EvalResult, Score

MEASURES = ("loss", "perplexity", "bits_per_byte")


@click.command(name="eval")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", "corpus_dir", required=True, type=click.Path(path_type=Path), help="A prepared corpus.")
@click.option("--split", "split_name", default="valid", show_default=True, help="Which split to score.")
@click.option("--rows", type=click.IntRange(min=1), help="Score this many rows, evenly spread; all by default.")
@click.option("--batch-size", default=8, show_default=True, type=click.IntRange(min=1), help="Rows per forward pass.")
@click.option("--unigram", is_flag=True, help="Score a unigram model of the train split beside it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def evaluate(
    checkpoint: Path, corpus_dir: Path, split_name: str, rows: int | None, batch_size: int, unigram: bool, as_json: bool
) -> None:
    """Score CHECKPOINT on a corpus: loss, perplexity and bits per byte, by length of the prefix.

    CHECKPOINT is a run, one of its checkpoints, or imported weights. The tokens behind each prefix are scored twice:
    with the prefix read in both directions, and with it read causally.
    """
    from data_prep.shards import Corpus
    from foreword.errors import DataError
    from pipeline.evaluate import evaluate as score
    from pipeline.evaluate import split_batches
    from pipeline.unigram import unigram_score
    from pipeline.weights.pretrained import open_pretrained

    pretrained, corpus = open_pretrained(checkpoint), Corpus.open(corpus_dir)
    if corpus.manifest.tokenizer.sha256 != pretrained.tokenizer_sha256:
        raise DataError(
            "the corpus was encoded with another tokenizer than the model's",
            where=corpus_dir,
            remedy=f"prepare it with the tokenizer in {pretrained.tokenizer_dir}",
        )
    token_bytes = corpus.token_bytes()
    with _joined() as parallel:

        def batches() -> Iterator:
            return split_batches(corpus, split_name, rows=rows, micro_batch_size=batch_size, parallel=parallel)

        model = pretrained.load_model().to(parallel.device)
        result = score(model, batches(), token_bytes, parallel.data_parallel_group)
        baseline = unigram_score(corpus.split("train"), batches(), token_bytes) if unigram else None
        if parallel.is_main:
            facts = {"checkpoint": str(pretrained.path), "corpus": str(corpus_dir), "split": split_name}
            own = {"unigram": baseline.as_dict()} if baseline else {}
            click.echo(json.dumps(facts | result.as_dict() | own) if as_json else _table(result, baseline))


@contextmanager
def _joined() -> Iterator["Parallel"]:
    """The other processes under torchrun or srun, or a world of one."""
    from pipeline.distributed.parallel import initialize

    parallel = initialize()
    try:
        yield parallel
    finally:
        parallel.destroy()


def _table(result: "EvalResult", baseline: "Score | None") -> str:
    """The result for a person."""
    from rich.console import Console
    from rich.table import Table

    from pipeline.evaluate import bucket_name

    table = Table("prefix length", box=None, pad_edge=False)
    for column in ("targets", "loss: prefix", "causal", "perplexity: prefix", "causal", "bits/byte: prefix", "causal"):
        table.add_column(column, justify="right")
    rows = {bucket_name(*bucket): readings for bucket, readings in result.by_prefix_len.items()}
    for name, readings in (rows | {"all": result.total}).items():
        table.add_row(name, f"{readings.prefix.targets:,}", *_cells(readings.prefix, readings.causal))
    if baseline:
        table.add_row("unigram model", f"{baseline.targets:,}", *_cells(baseline, baseline))
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip()


def _cells(prefix: "Score", causal: "Score") -> list[str]:
    return [f"{getattr(score, measure):.4f}" for measure in MEASURES for score in (prefix, causal)]
