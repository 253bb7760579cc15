"""`foreword tokenizer train` and `foreword prep`. Heavy imports wait until a command runs."""

from pathlib import Path

import click

CONFIG = click.argument("config", type=click.Path())
OVERRIDES = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")


@click.group()
def tokenizer() -> None:
    """Make tokenizers."""


@tokenizer.command()
@CONFIG
@OVERRIDES
def train(config: str, overrides: tuple[str, ...]) -> None:
    """Train a sentencepiece model on a sample of the sources in CONFIG.

    The model is written to CONFIG's tokenizer.path.
    """
    from data_prep.config import PrepConfig
    from data_prep.tokenizers.training import train_tokenizer
    from foreword.config import load_config

    path = train_tokenizer(load_config(config, overrides, PrepConfig))
    click.echo(path)


@click.command()
@CONFIG
@OVERRIDES
@click.option("--task", type=click.IntRange(min=0), help="Do only this one of --tasks shares of the input.")
@click.option("--tasks", type=click.IntRange(min=1), help="How many shares there are.")
@click.option("--finish", is_flag=True, help="Make the corpus when all tasks are done.")
@click.option("--dry-run", is_flag=True, help="Predict documents, tokens, time and disk from a sample; make nothing.")
def prep(
    config: str, overrides: tuple[str, ...], task: int | None, tasks: int | None, finish: bool, dry_run: bool
) -> None:
    """Prepare the corpus that CONFIG describes: raw text in, packed shards out.

    A stopped or killed run continues with the same command. Values of CONFIG are changed with KEY=VALUE, for example
    workers=8 or text.normalization=none.

    Over a cluster, run it with --task 0 --tasks N to --task N-1 --tasks N, in any order or at once, into one shared
    output, and then once with --finish. The corpus is the same, byte for byte.
    """
    if (task is None) != (tasks is None):
        raise click.UsageError("--task and --tasks go together")
    if task is not None and tasks is not None and task >= tasks:
        raise click.UsageError(f"--task {task}: tasks are counted from 0, the last one is {tasks - 1}")
    if finish and task is not None:
        raise click.UsageError("--finish comes when the tasks are done; it does not go with --task")
    if dry_run and (finish or task is not None):
        raise click.UsageError("--dry-run predicts the whole preparation; it goes with neither --task nor --finish")
    if not dry_run and _speaks_of_workers(config, overrides):
        from data_prep.workers import start_fork_server

        start_fork_server()  # it gets ready while this process reads the configuration
    from data_prep.config import PrepConfig
    from foreword.config import load_config

    settings = load_config(config, overrides, PrepConfig)
    if dry_run:
        from rich.console import Console

        from data_prep.predict import predict, show_prediction

        show_prediction(predict(settings), settings, Console())
        return
    from data_prep import prepare

    if task is not None and tasks is not None:
        done = prepare.prepare_task(settings, task, tasks)
        click.echo(f"task {task} of {tasks}: {done.slices} slices, {done.size_bytes / 1e6:,.1f} MB of input")
        return
    manifest = prepare.finish(settings) if finish else prepare.prepare(settings)
    for name, split in manifest.splits.items():
        padding = split.padding / (split.tokens + split.padding)
        click.echo(
            f"{name}: {split.rows:,} rows, {split.documents:,} documents, {split.tokens:,} tokens, "
            f"{split.targets:,} targets, {padding:.2%} padding, {len(split.shards)} shards"
        )
    click.echo(settings.output)


def _speaks_of_workers(config: str, overrides: tuple[str, ...]) -> bool:
    """Whether several processes are likely, told without the libraries that read configurations."""
    try:
        return "workers" in Path(config).read_text(encoding="utf-8") + " ".join(overrides)
    except (OSError, ValueError):
        return False  # to be said properly by whoever reads it
