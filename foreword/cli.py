"""`foreword COMMAND ...`: finds the command's module only when the command is used.

Each room brings its own commands (`data_prep/commands.py` and so on); this file knows their names and one line of help,
so that `foreword --help` imports neither torch nor pyarrow. Users' mistakes end here as one message and an exit code.
"""

import importlib
import sys
import traceback

import click

from foreword import __version__
from foreword.errors import ForewordError, PeerError

# name -> (module, attribute, short help); the order is the order in --help: the way of the data
COMMANDS = {
    "tokenizer": ("data_prep.commands", "tokenizer", "Train a sentencepiece tokenizer from the same sources."),
    "prep": ("data_prep.commands", "prep", "Raw text -> a corpus of packed shards."),
    "verify": ("pipeline.commands.artifacts", "verify", "Check every hash of a corpus or a checkpoint."),
    "inspect": ("pipeline.commands.artifacts", "inspect", "Show what a corpus or a checkpoint holds."),
    "train": ("pipeline.commands.train", "train", "Train: alone, under torchrun, or under srun."),
    "eval": ("pipeline.commands.evaluation", "evaluate", "Loss, bits per byte and accuracy on a corpus."),
    "tasks": ("pipeline.commands.tasks", "tasks", "Zero-shot tasks, through lm-evaluation-harness."),
    "generate": ("pipeline.commands.generate", "generate", "Continue prompts, read in both directions; fill gaps."),
    "import": ("pipeline.commands.hugging_face", "import_", "Hugging Face GPT-2 weights -> weights to train from."),
    "export": ("pipeline.commands.hugging_face", "export", "A checkpoint -> a directory for transformers."),
    "checkpoint": ("pipeline.commands.checkpoint", "checkpoint", "Reshape, compare or average checkpoints."),
    "report": ("slurm.run_commands", "report", "A run's curves, restarts and samples as one HTML page."),
    "compare": ("pipeline.commands.compare", "compare", "Several runs on one page, and as a table."),
    "submit": ("slurm.commands", "submit", "Render an sbatch script from a config and submit it."),
    "status": ("slurm.run_commands", "status", "How far a run or a corpus is, and what happened to its jobs."),
    "logs": ("slurm.run_commands", "logs", "What the jobs of a run or a corpus wrote."),
    "cancel": ("slurm.run_commands", "cancel", "End the jobs of a run or a corpus; they save first."),
    "job": ("slurm.job.commands", "job", "What the scripts of `foreword submit` call on the nodes."),
    "doctor": ("slurm.commands", "doctor", "What this machine has, and what is missing."),
}


class LazyGroup(click.Group):
    """A click group that imports a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command itself; this is where its module is imported."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        return getattr(importlib.import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, written without importing a command's module."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="foreword")
def foreword() -> None:
    """Raw web text to a trained GPT-2-sized language model, causal or prefix-LM."""


def main() -> None:
    """Entry point of the console script."""
    try:
        foreword()
    except ForewordError as error:
        if isinstance(error, PeerError) and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        print(f"foreword: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
