"""The commands that use a trained model: `foreword eval`, `generate`, `import` and `export`."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pipeline.distributed.parallel import Parallel
    from pipeline.evaluate import EvalResult, Score


class _FiniteRange(click.FloatRange):
    """A range that NaN, which no comparison finds outside of it, is not in."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


FINITE_FROM_ZERO = _FiniteRange(min=0)
SHARE = _FiniteRange(0, 1, min_open=True)
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


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--prompt", required=True, help="The text to continue.")
@click.option("--max-new-tokens", default=128, show_default=True, type=click.IntRange(min=1))
@click.option("--temperature", default=0.8, show_default=True, type=FINITE_FROM_ZERO, help="0 is greedy.")
@click.option("--top-k", type=click.IntRange(min=1), help="Draw from the k likeliest tokens.")
@click.option("--top-p", type=SHARE, help="Draw from this much probability.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**63 - 1))
@click.option("--prefix/--causal", default=None, help="How to read the prompt; by default as the model was trained.")
def generate(
    checkpoint: Path,
    prompt: str,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    prefix: bool | None,
) -> None:
    """Continue a prompt with CHECKPOINT: a run, one of its checkpoints, or imported weights.

    A model trained on prefixes, alone or among other objectives, reads the prompt in both directions. Prints the prompt
    with its continuation.
    """
    from pipeline.generate import generate as continue_prompt
    from pipeline.weights.pretrained import open_pretrained

    pretrained = open_pretrained(checkpoint)
    tokenizer = pretrained.load_tokenizer()
    prompt_ids = tokenizer.encode(prompt)
    with _joined() as parallel:
        generated = continue_prompt(
            pretrained.load_model().to(parallel.device),
            prompt_ids,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            prefix=pretrained.reads_prompts == "prefix" if prefix is None else prefix,
            stop_id=tokenizer.eod_id,
        )
    # decoded together: a token may hold only a part of a character, or stand for a space only inside of a text
    click.echo(tokenizer.decode([*prompt_ids, *generated]))


@click.command(name="import")
@click.argument("hf_dir", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--tokenizer", "tokenizer_path", type=click.Path(path_type=Path), help="When it is not in HF_DIR.")
def import_(hf_dir: Path, out: Path, tokenizer_path: Path | None) -> None:
    """Turn Hugging Face GPT-2 weights in HF_DIR into OUT, which `foreword train` starts from with init_from=OUT."""
    from foreword.console import say
    from pipeline.weights.hugging_face import import_weights

    meta = import_weights(hf_dir, out, tokenizer_path)
    shape = f"{meta.model.num_layers} layers, hidden size {meta.model.hidden_size}, {meta.vocab_size} tokens"
    say(f"imported into {out}: {shape}; train from it with init_from={out}")


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def export(checkpoint: Path, out: Path) -> None:
    """Write CHECKPOINT (a run, a checkpoint, or imported weights) as OUT, a directory for GPT2LMHeadModel."""
    from foreword.console import say, warn
    from pipeline.weights.hugging_face import export_weights

    exported = export_weights(checkpoint, out)
    say(f"exported to {out}")
    if exported.reads_prompts == "prefix":
        warn("this model was trained to read prompts in both directions; GPT2LMHeadModel reads them causally")
    if "bidirectional" in exported.objective:
        warn("this model was trained on masked tokens too; a mask token in the vocabulary's padding is not exported")


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
