"""`foreword tokenizer train` and `foreword prep`. Heavy imports wait until a command runs."""

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
def prep(config: str, overrides: tuple[str, ...]) -> None:
    """Prepare the corpus that CONFIG describes: raw text in, packed shards out.

    A stopped or killed run continues with the same command. Values of CONFIG are changed with KEY=VALUE, for example
    workers=8 or text.normalization=none.
    """
    from data_prep.config import PrepConfig
    from foreword.config import load_config

    settings = load_config(config, overrides, PrepConfig)
    from data_prep.prepare import prepare

    manifest = prepare(settings)
    for name, split in manifest.splits.items():
        padding = split.padding / (split.tokens + split.padding)
        click.echo(
            f"{name}: {split.rows:,} rows, {split.documents:,} documents, {split.tokens:,} tokens, "
            f"{split.targets:,} targets, {padding:.2%} padding, {len(split.shards)} shards"
        )
    click.echo(settings.output)
