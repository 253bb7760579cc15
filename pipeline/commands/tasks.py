"""The `foreword tasks` command."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import click

from pipeline.commands.processes import ManyProcessesCommand, joined, processes_option, start_processes


@click.command(cls=ManyProcessesCommand)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--tasks", "names", required=True, metavar="NAME,...", help="Shipped ones, of --task-dir, or lm-eval's.")
@click.option("--task-dir", type=click.Path(path_type=Path), help="Task files of your own, in lm-eval's format.")
@click.option("--limit", type=click.IntRange(min=1), help="Ask only the first so many items of each task.")
@click.option("--fewshot", type=click.IntRange(min=0), help="Examples in each context; by default as the task says.")
@click.option("--causal/--bidirectional", "causal", default=None, help="How contexts are read; by default as trained.")
@click.option("--batch-size", default=8, show_default=True, type=click.IntRange(min=1), help="Per forward pass.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1), help="Of few-shot examples.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--tensor-parallel-size", default=1, show_default=True, type=click.IntRange(min=1))
@processes_option
def tasks(
    checkpoint: Path,
    names: str,
    task_dir: Path | None,
    limit: int | None,
    fewshot: int | None,
    causal: bool | None,
    batch_size: int,
    seed: int,
    as_json: bool,
    tensor_parallel_size: int,
    processes: int | None,
) -> None:
    """Ask CHECKPOINT the items of zero-shot tasks, through lm-evaluation-harness.

    CHECKPOINT is a run, one of its checkpoints, weights, or an export. Contexts are read in both directions by a model
    that was trained on prefixes. Shipped here, and asked without a network: foreword_last_word, foreword_next_word,
    foreword_winograd and foreword_fill_in.
    """
    from foreword.errors import MachineError

    asked = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    if not asked:
        raise click.UsageError("--tasks names no task")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm, the harness's progress bars, is first imported
    from pipeline.weights.pretrained import open_pretrained

    if importlib.util.find_spec("lm_eval") is None:
        raise MachineError(
            "lm-evaluation-harness is not installed", where="foreword tasks", remedy="pip install 'foreword[tasks]'"
        )
    pretrained = open_pretrained(checkpoint)
    tokenizer = pretrained.load_tokenizer()
    if processes is not None:
        start_processes(processes)

    from pipeline.distributed.agreement import all_ranks
    from pipeline.tasks.adapter import ForewordLM
    from pipeline.tasks.run import run_tasks, show

    with joined(tensor_parallel_size) as parallel:
        reading = pretrained.reads_prompts if causal is None else "causal" if causal else "prefix"
        model = ForewordLM(pretrained.load_model().to(parallel.device), tokenizer, reading, parallel, batch_size)
        results = all_ranks(
            lambda: run_tasks(model, asked, task_dir=task_dir, num_fewshot=fewshot, limit=limit, seed=seed)
        )
        if parallel.is_main:
            facts = {"checkpoint": str(pretrained.path), "reading": reading, "limit": limit}
            click.echo(json.dumps({**facts, "tasks": results}) if as_json else show(results))
