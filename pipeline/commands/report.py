"""The `foreword report` command."""

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
def report(run: Path) -> None:
    """Write RUN/report.html: loss curves, throughput, restarts and the configuration on one page."""
    from pipeline.telemetry.report import write_report

    click.echo(write_report(run))
