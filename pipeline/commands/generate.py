"""`foreword generate`: continuations of prompts, replies in dialogues, and what fills a gap."""

import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from pipeline.config.train import PRECISIONS

if TYPE_CHECKING:
    from pipeline.distributed.parallel import Parallel
    from pipeline.generation.requests import TextGenerator


class _FiniteRange(click.FloatRange):
    """A range that NaN, which no comparison finds outside of it, is not in."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


FINITE_FROM_ZERO = _FiniteRange(min=0)
POSITIVE = _FiniteRange(min=0, min_open=True)
SHARE = _FiniteRange(0, 1, min_open=True)
INPUTS = ("--prompt", "--prompt-file", "--turn", "--jsonl", "--prefix and --suffix-context")
# options that mean nothing elsewhere
OF_LINES = ("out", "batch_size")
OF_GAPS = ("gap_tokens",)
OF_CONTINUATIONS = ("max_new_tokens", "stop", "causal", "use_cache")


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--prompt", help="The text to continue.")
@click.option("--prompt-file", type=click.File("r", encoding="utf-8"), help="A file with it; - is standard input.")
@click.option("--turn", "turns", multiple=True, help="A turn of a dialogue so far, once for each; asks for the reply.")
@click.option("--jsonl", type=click.File("rb"), help="Many of all these, one JSON object a line; - is standard input.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Where the answers to --jsonl go.")
@click.option("--batch-size", default=8, show_default=True, type=click.IntRange(min=1), help="Lines at a time.")
@click.option("--prefix", help="The text before a gap that is to be filled in.")
@click.option("--suffix-context", help="The text behind it.")
@click.option(
    "--gap",
    "gap_tokens",
    default=8,
    show_default=True,
    type=click.IntRange(min=1),
    help="How many tokens are missing between the two.",
)
@click.option("--max-new-tokens", default=128, show_default=True, type=click.IntRange(min=1))
@click.option("--stop", multiple=True, help="End before this text; may be given several times.")
@click.option("--temperature", default=0.8, show_default=True, type=FINITE_FROM_ZERO, help="0 is greedy.")
@click.option("--top-k", type=click.IntRange(min=1), help="Draw from the k likeliest tokens.")
@click.option("--top-p", type=SHARE, help="Draw from this much probability.")
@click.option(
    "--repetition-penalty", default=1.0, show_default=True, type=POSITIVE, help="Above 1, less is said again."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**63 - 1))
@click.option(
    "--causal/--bidirectional", default=None, help="How to read the prompt; by default as the model was trained."
)
@click.option(
    "--cache/--no-cache", "use_cache", default=True, help="Without, it reads all again for each token; slow, the same."
)
@click.option("--dtype", type=click.Choice(PRECISIONS), default="fp32", show_default=True, help="To compute in.")
def generate(
    checkpoint: Path,
    prompt: str | None,
    prompt_file: IO[str] | None,
    turns: tuple[str, ...],
    jsonl: IO[bytes] | None,
    out: Path | None,
    batch_size: int,
    prefix: str | None,
    suffix_context: str | None,
    gap_tokens: int,
    max_new_tokens: int,
    stop: tuple[str, ...],
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    repetition_penalty: float,
    seed: int,
    causal: bool | None,
    use_cache: bool,
    dtype: str,
) -> None:
    """Continue a prompt with CHECKPOINT, reply in a dialogue, or fill a gap.

    CHECKPOINT is a run, one of its checkpoints, imported weights, or a directory in the Hugging Face layout. A model
    that was trained on prefixes, alone or among other objectives, reads the prompt in both directions.

    Prints the prompt and what comes behind it, as it comes; a reply without the turns before it. With --jsonl one JSON
    object a line: prompt, turns, or prefix and suffix_context with gap; they come back with generated, generated_ids
    and ended_by, or with error. Under torchrun all processes share the model's layers.
    """
    from foreword.errors import ConfigError, DataError
    from pipeline.attention import COMPUTE_DTYPES
    from pipeline.generation.requests import TextGenerator
    from pipeline.generation.sampling import Sampling
    from pipeline.weights.pretrained import open_pretrained

    fills = prefix is not None or suffix_context is not None
    if (prompt is not None) + (prompt_file is not None) + bool(turns) + (jsonl is not None) + fills != 1:
        raise click.UsageError(f"give one of {', '.join(INPUTS)}")
    _refuse_options_without_effect(lines=jsonl is not None, fills=fills)
    if "" in stop:
        raise click.UsageError("--stop with an empty text would end everything at once")
    record: dict[str, Any] = {}
    if turns:
        record["turns"] = list(turns)
    elif prompt_file is not None:
        record["prompt"] = _read(prompt_file)
    texts = {"prompt": prompt, "prefix": prefix, "suffix_context": suffix_context}
    record |= {name: text for name, text in texts.items() if text is not None}
    sampling = Sampling(
        repetition_penalty=repetition_penalty, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    )
    pretrained = open_pretrained(checkpoint)
    with _all_processes() as parallel:
        if parallel.world_size > 1 and "-" in (getattr(file, "name", None) for file in (prompt_file, jsonl)):
            raise ConfigError("several processes cannot read one standard input", remedy="give a file")
        generator = TextGenerator(
            model=pretrained.load_model().to(parallel.device, COMPUTE_DTYPES[dtype]),
            tokenizer=pretrained.load_tokenizer(),
            mask_id=pretrained.mask_token_id,
            sampling=sampling,
            prefix=pretrained.reads_prompts == "prefix" if causal is None else not causal,
            max_new_tokens=max_new_tokens,
            stop=stop,
            use_cache=use_cache,
            gap_tokens=gap_tokens,
        )
        if jsonl is None:
            _answer_one(generator, record, shown=parallel.is_main)
            return
        with _destination(out, parallel.is_main) as write:
            failed = _answer_many(generator, jsonl, batch_size, write)
        if failed:
            raise DataError(
                f"{failed:,} {'line' if failed == 1 else 'lines'} could not be answered; each has its error",
                where=out or "standard output",
            )


def _refuse_options_without_effect(*, lines: bool, fills: bool) -> None:
    """A usage error where an option was given that what is asked for takes no notice of."""
    context = click.get_current_context()
    without_effect = {name: "goes with --jsonl" for name in OF_LINES if not lines}
    without_effect |= {name: "goes with --prefix and --suffix-context" for name in OF_GAPS if not (lines or fills)}
    without_effect |= {name: "has no meaning for a gap" for name in OF_CONTINUATIONS if fills}
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "") == ParameterSource.COMMANDLINE
        if given and parameter.name in without_effect:
            name = "/".join([*parameter.opts, *parameter.secondary_opts])
            raise click.UsageError(f"{name} {without_effect[parameter.name]}")


def _answer_one(generator: "TextGenerator", record: dict[str, Any], *, shown: bool) -> None:
    from foreword.console import say

    def show(text: str) -> None:
        if shown:
            click.echo(text, nl=False)

    request = generator.request(record, key=0)
    if "turns" not in record:
        # as the tokenizer gives it back: what comes behind it is decoded together with it
        show(generator.tokenizer.decode(request.prompt))
    (answer,) = generator.answer([request], show)
    show(f"{record.get('suffix_context', '')}\n")
    if shown and answer["ended_by"] == "positions":
        say(f"it ends because the model has {generator.model.config.max_position_embeddings} positions")


def _answer_many(
    generator: "TextGenerator", lines: IO[bytes], batch_size: int, write: Callable[[dict[str, Any]], None]
) -> int:
    """Returns how many lines could not be answered."""
    from pipeline.generation.lines import answer_lines

    failed = 0
    for answer in answer_lines(lines, generator, batch_size):
        write(answer)
        failed += "error" in answer
    return failed


@contextmanager
def _destination(out: Path | None, is_main: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that writes a record as a line, each so that it can be read at once."""
    import orjson

    from foreword.errors import ConfigError

    with ExitStack() as stack:
        try:
            file = stack.enter_context(out.open("xb")) if out and is_main else sys.stdout.buffer
        except FileExistsError:
            raise ConfigError("exists already", where=out, remedy="choose another name") from None
        except OSError as error:
            raise ConfigError(f"cannot be written: {error.strerror}", where=out) from None

        def write(record: dict[str, Any]) -> None:
            if is_main:
                file.write(orjson.dumps(record) + b"\n")
                file.flush()

        yield write


@contextmanager
def _all_processes() -> Iterator["Parallel"]:
    """This process alone, or all processes of torchrun as one tensor-parallel group, whose errors are the same ones."""
    from foreword.errors import ForewordError
    from pipeline.distributed.parallel import initialize
    from pipeline.distributed.placement import find_placement

    parallel = initialize(find_placement(os.environ).world_size)
    try:
        yield parallel
    except ForewordError as error:
        if parallel.is_main:
            raise
        sys.exit(error.exit_code)
    finally:
        parallel.destroy()


def _read(file: IO[str]) -> str:
    from foreword.errors import ConfigError

    try:
        return file.read()
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 text: {error.reason}", where=file.name) from None
