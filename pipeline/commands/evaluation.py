"""The `foreword eval` command."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands.processes import ManyProcessesCommand, joined, processes_option, start_processes

if TYPE_CHECKING:
    from data_prep.shards import Corpus
    from pipeline.data.batch import Batch
    from pipeline.data.objective import SegmentObjectives
    from pipeline.distributed.parallel import Parallel
    from pipeline.weights.pretrained import Pretrained

PRECISIONS = ("fp32", "bf16")


@click.command(name="eval", cls=ManyProcessesCommand)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", "corpus_dir", required=True, type=click.Path(path_type=Path), help="A prepared corpus.")
@click.option("--split", "split_name", default="valid", show_default=True, help="Which split to score.")
@click.option("--rows", type=click.IntRange(min=1), help="Score this many rows, evenly spread; all by default.")
@click.option(
    "--boundaries",
    type=click.Choice(["shards", "uniform", "fraction", "run"]),
    default="shards",
    show_default=True,
    help="Where prefixes end: as stored, drawn by a policy, or as the run's own validation has them.",
)
@click.option("--fraction", type=click.FloatRange(0, 1), nargs=2, help="The range of --boundaries fraction.")
@click.option("--draw-seed", type=click.IntRange(0, 2**63 - 1), help="Of drawn boundaries; by default the run's.")
@click.option("--batch-size", default=8, show_default=True, type=click.IntRange(min=1), help="Rows per forward pass.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", show_default=True, help="To compute in.")
@click.option("--resamples", default=1000, show_default=True, type=click.IntRange(min=0), help="For the intervals.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**63 - 1), help="Of the resamples.")
@click.option("--unigram", is_flag=True, help="Score a unigram model of the train split beside it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--tensor-parallel-size", default=1, show_default=True, type=click.IntRange(min=1))
@processes_option
def evaluate(
    checkpoint: Path,
    corpus_dir: Path,
    split_name: str,
    rows: int | None,
    boundaries: str,
    fraction: tuple[float, float] | None,
    draw_seed: int | None,
    batch_size: int,
    precision: str,
    resamples: int,
    seed: int,
    unigram: bool,
    as_json: bool,
    tensor_parallel_size: int,
    processes: int | None,
) -> None:
    """Score CHECKPOINT on a corpus: loss, perplexity, bits per byte and accuracy, by length of the prefix and source.

    CHECKPOINT is a run, one of its checkpoints, weights, or an export. The tokens behind each prefix are scored twice:
    with the prefix read in both directions, and with it read causally. Intervals are of 95 %, from resampled documents.
    The numbers are the same on any number of processes.
    """
    from data_prep.shards import Corpus
    from foreword.console import progress
    from pipeline.data.corpora import require_rows
    from pipeline.weights.pretrained import open_pretrained

    pretrained, corpus = open_pretrained(checkpoint), Corpus.open(corpus_dir)
    _require_fit(pretrained, corpus)
    split = require_rows(corpus.split(split_name))
    objectives = _boundaries(pretrained, boundaries, fraction, draw_seed)
    if processes is not None:
        start_processes(processes)

    from pipeline.attention import COMPUTE_DTYPES, select_backend
    from pipeline.distributed.agreement import main_rank
    from pipeline.evaluation import score_segments, split_batches
    from pipeline.evaluation.documents import origins_of
    from pipeline.evaluation.evaluation import describe
    from pipeline.evaluation.table import show
    from pipeline.evaluation.unigram import unigram_score

    token_bytes = corpus.token_bytes()
    with joined(tensor_parallel_size) as parallel:

        def batches(parallel: "Parallel" = parallel) -> "Iterator[Batch]":
            return split_batches(
                corpus, split_name, rows=rows, micro_batch_size=batch_size, parallel=parallel, objectives=objectives
            )

        def watched() -> "Iterator[Batch]":
            size, total = batch_size * parallel.data_parallel_size, min(rows or len(split), len(split))
            with progress("eval", total, "rows") as bar:
                for number, batch in enumerate(batches(), start=1):
                    yield batch
                    bar.update(min(number * size, total))

        model = pretrained.load_model().to(parallel.device, COMPUTE_DTYPES[precision])
        if precision != "fp32":
            model.backend = select_backend("auto", parallel.device, COMPUTE_DTYPES[precision])
        scores = score_segments(
            model, watched() if parallel.is_main else batches(), token_bytes, parallel.data_parallel_group
        )

        def told() -> str:
            origins = origins_of(corpus, split_name, scores.row, scores.segment)
            values = describe(scores, origins, resamples=resamples, seed=seed)
            baseline = unigram_score(corpus.split("train"), batches(parallel.alone), token_bytes) if unigram else None
            if not as_json:
                return show(values, baseline)
            facts = {
                "checkpoint": str(pretrained.path),
                "step": pretrained.checkpoint.progress.step if pretrained.checkpoint else None,
                "reads_prompts": pretrained.reads_prompts,
                "corpus": str(corpus_dir),
                "manifest_sha256": corpus.manifest_sha256,
                "split": split_name,
                "rows": min(rows or len(split), len(split)),
                "boundaries": _described(objectives),
                "precision": precision,
            }
            return json.dumps(facts | values | ({"unigram": baseline.as_dict()} if baseline else {}))

        text = main_rank(told)
        if parallel.is_main:
            click.echo(text)


def _require_fit(pretrained: "Pretrained", corpus: "Corpus") -> None:
    """Refuse a corpus of another tokenizer, or with rows that are too long."""
    from foreword.errors import ConfigError, DataError

    if corpus.manifest.tokenizer.sha256 != pretrained.tokenizer_sha256:
        raise DataError(
            "the corpus was encoded with another tokenizer than the model's",
            where=corpus.path,
            remedy=f"prepare it with the tokenizer in {pretrained.tokenizer_dir}",
        )
    length, positions = corpus.manifest.sequence_length, pretrained.config.max_position_embeddings
    if length > positions:
        raise ConfigError(
            f"the corpus has rows of {length} tokens and the model {positions} positions",
            where=corpus.path,
            remedy="prepare it with a smaller sequence_length",
        )


def _boundaries(
    pretrained: "Pretrained", policy: str, fraction: tuple[float, float] | None, draw_seed: int | None
) -> "SegmentObjectives | None":
    """What draws the boundaries; None where the shards' are taken."""
    from foreword.config import validate
    from foreword.errors import ConfigError
    from pipeline.config.data import DataConfig
    from pipeline.config.objective import BoundariesConfig
    from pipeline.data.objective import SegmentObjectives

    if (policy == "fraction") != (fraction is not None):
        raise click.UsageError("--boundaries fraction and --fraction LOWEST HIGHEST go together")
    saved = pretrained.checkpoint.config if pretrained.checkpoint else None
    if policy == "run":
        if saved is None:
            raise ConfigError(
                "weights without a run do not know how it was validated",
                where=pretrained.path,
                remedy="give the run or one of its checkpoints, or another --boundaries",
            )
        config = validate(saved.get("boundaries", {}), BoundariesConfig)
    else:
        config = validate({"policy": policy, "fraction": fraction}, BoundariesConfig)
    if config.policy == "shards":
        return None
    if draw_seed is None:
        draw_seed = validate(saved["data"], DataConfig).seed if saved else DataConfig.model_fields["seed"].default
    return SegmentObjectives({"prefix": 1.0}, config, draw_seed)


def _described(objectives: "SegmentObjectives | None") -> dict:
    if objectives is None:
        return {"policy": "shards"}
    return {**objectives.boundaries.model_dump(mode="json", exclude_none=True), "seed": objectives.seed}
