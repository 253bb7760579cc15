"""`make demo`: from raw text to a model that was stopped, resumed on another topology, evaluated, and that generates.

    python demo/run.py [--data MY.jsonl]

Each step is printed as the command that a person could type, and then run. Everything is written below `demo-run/`,
which starts empty.
"""

import argparse
import json
import shlex
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

from data_prep.shards import PADDING, Corpus
from data_prep.tokenizers import load_tokenizer
from foreword.config import load_config
from foreword.errors import EXIT_STOPPED
from pipeline.config.train import TrainConfig

DIRECTORY = Path("demo-run")
TEXT = DIRECTORY / "text.jsonl"
CORPUS = DIRECTORY / "corpus"
RUN = DIRECTORY / "run"
METRICS = RUN / "metrics.jsonl"
EVALUATION = DIRECTORY / "evaluation.json"
PREP_CONFIG = "configs/data/demo.yaml"
TRAIN_CONFIG = "configs/train/demo.yaml"
START_TIMEOUT_S = 300.0
PROMPT_TOKENS = 40
NEW_TOKENS = 60


def main() -> None:
    """Run all steps; a step that fails ends the demo with its exit code."""
    parser = argparse.ArgumentParser(description="The whole way from raw text to a generating model.")
    parser.add_argument("--data", type=Path, help='your own text: JSON Lines with a field "text"')
    data = parser.parse_args().data
    if not Path(TRAIN_CONFIG).exists():
        sys.exit("demo: run this from the root of the repository: python demo/run.py")
    if data is not None and not data.is_file():
        sys.exit(f"demo: {data}: no such file")
    started = time.monotonic()
    show("source .venv/bin/activate   # so that the commands below work as you read them")
    run("rm", "-rf", str(DIRECTORY))

    title(1, "The raw text, one JSON record per document")
    source = []
    if data is None:
        run("python", "demo/stdlib_text.py", str(TEXT))
    else:
        source = [f"sources=[{{kind: jsonl, path: {json.dumps(str(data))}}}]"]
        print(f"Taken from {data}")

    title(2, "A sentencepiece tokenizer from that text")
    run("foreword", "tokenizer", "train", PREP_CONFIG, *source)

    title(3, "Packed shards with prefix boundaries, and a check of every hash")
    run("foreword", "prep", PREP_CONFIG, *source)
    run("foreword", "verify", str(CORPUS))

    title(4, "Training on two processes; in the middle it is told to stop, and saves")
    train = ["foreword", "train", TRAIN_CONFIG, "--processes", "2"]
    stop_half_way(train, load_config(TRAIN_CONFIG, [], TrainConfig).schedule.total_steps)

    title(5, "The same command on another topology: it resumes and finishes")
    run(*train, "parallel.tensor_parallel_size=2")

    title(6, "Evaluation on held-out text, and the continuation of a held-out prompt, read in both directions")
    run("foreword", "eval", str(RUN), "--data", str(CORPUS), "--unigram", "--json", output=EVALUATION)
    prompt = held_out_prompt()
    run("foreword", "generate", str(RUN), "--max-new-tokens", str(NEW_TOKENS), "--prompt", prompt)
    summarize(json.loads(EVALUATION.read_text()), prompt, time.monotonic() - started)


def title(number: int, text: str) -> None:
    """Announce a step."""
    print(f"\n=== {number}. {text}", flush=True)


def show(command: str) -> None:
    """Print a command as it would be typed."""
    print(f"\n$ {command}", flush=True)


def run(*command: str, output: Path | None = None) -> None:
    """Show and run a command, with its standard output in the file `output` if there is one."""
    show(shlex.join(command) + (f" > {output}" if output else ""))
    with output.open("w") if output else nullcontext() as file:
        code = subprocess.run(command, stdout=file, check=False).returncode
    if code:
        print(f"demo: that command ended with exit code {code}", file=sys.stderr)
        sys.exit(code)


def stop_half_way(command: list[str], total_steps: int) -> None:
    """Start training, send it SIGTERM after half of its steps, and check that it stopped as promised."""
    show(shlex.join(command) + " &")
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while last_step() < total_steps // 2:
            if process.poll() is not None:
                print(
                    f"demo: training ended before it was stopped, with exit code {process.returncode}", file=sys.stderr
                )
                sys.exit(process.returncode or 1)
            if last_step() == 0 and time.monotonic() > deadline:
                sys.exit(f"demo: no step was taken in {START_TIMEOUT_S:.0f} s")
            time.sleep(0.2)
        show(f"kill -TERM {process.pid}")
        process.send_signal(signal.SIGTERM)
        code = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
    if code != EXIT_STOPPED:
        sys.exit(f"demo: training should have stopped with exit code {EXIT_STOPPED}; it was {code}")
    print(f"exit code {code}: stopped with a checkpoint; the same command continues")


def losses() -> list[dict]:
    """The records of the steps that were logged so far; the last line may still be being written."""
    if not METRICS.exists():
        return []
    records = [json.loads(line) for line in METRICS.read_text().split("\n")[:-1]]
    return [record for record in records if "event" not in record]


def last_step() -> int:
    """The last step that was logged, 0 before the first."""
    return losses()[-1]["step"] if losses() else 0


def held_out_prompt() -> str:
    """The beginning of the shortest document of the valid split that has something left to continue."""
    split = Corpus.open(CORPUS).split("valid")
    documents = []
    for index in range(len(split)):
        row = split.row(index)
        ends = [*row.segments[1:, 0], len(row.tokens)]
        documents += [
            row.tokens[start:end] for (start, prefix), end in zip(row.segments, ends, strict=True) if prefix != PADDING
        ]
    enough = [document for document in documents if len(document) >= 2 * PROMPT_TOKENS]
    chosen = min(enough, key=len) if enough else max(documents, key=len)
    return load_tokenizer(CORPUS / "tokenizer").decode(chosen[: min(PROMPT_TOKENS, len(chosen) // 2)].tolist())


def summarize(evaluation: dict, prompt: str, elapsed_s: float) -> None:
    """Where everything is, what was reached, and what to try next."""
    first, last = losses()[0], losses()[-1]
    checkpoints = sorted((RUN / "checkpoints").glob("step_*"))
    bits = {name: evaluation[name]["bits_per_byte"] for name in ("unigram", "causal", "prefix")}
    print(
        f"""
=== Done in {elapsed_s:.0f} s

corpus       {CORPUS}/, with a report for the browser: {CORPUS / "report.html"}
run          {RUN}/
checkpoints  {", ".join(str(path) for path in checkpoints)}
metrics      {METRICS}
loss         {first["loss"]:.3f} at step {first["step"]}, {last["loss"]:.3f} at step {last["step"]}

Bits per byte on held-out text, each over the same {evaluation["prefix"]["targets"]:,} tokens (less is better):
  {bits["unigram"]:.3f}  a unigram model, which knows only how frequent each token is
  {bits["causal"]:.3f}  this model, reading the prefixes causally
  {bits["prefix"]:.3f}  this model, reading the prefixes in both directions, as it was trained

Try next:
  foreword report {RUN}                      # the run's curves as one HTML page
  foreword inspect {CORPUS} --row 0          # one row with its prefix boundaries
  foreword generate {RUN} --causal --prompt {shlex.quote(prompt.splitlines()[0])}
  foreword train {TRAIN_CONFIG} --processes 2 objective=causal run_dir={DIRECTORY / "causal"}
  make demo DATA=my.jsonl                          # your own text
  foreword submit train {TRAIN_CONFIG} --cluster configs/cluster/local_cpu.yaml --dry-run"""
    )


if __name__ == "__main__":
    main()
