"""`make bench-gpu`: is the attention right, how fast does the trainer train, and beside what.

    python benchmarks/bench_gpu.py [--budget-s 450] [--sizes 124m 774m 1.5b 355m] [--output bench-run/bench_gpu.json]
    python benchmarks/bench_gpu.py --device cpu --tiny      every path that needs no GPU kernel, in seconds

In the order of what matters, as far as the time goes: every backend against float64; optimizer steps of each size at
sequence 1024, causal and prefix in turns; the backends side by side at 1k, 4k and 8k; a plain compiled PyTorch GPT-2.
What found no time is named. Exit code 1: a kernel is wrong (it is not measured) or a measurement failed; 2: no GPU.
"""

import argparse
import gc
import importlib.metadata
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import yaml
from conditions import say
from gpu_attention import BACKENDS, PLAIN, AttentionTiming, Correctness, Shape, check_backend, time_backend
from gpu_batches import LAYOUTS
from gpu_budget import OUT_OF_MEMORY, Budget
from gpu_models import Speed, Workload, measure_foreword, measure_plain
from gpu_report import Results, show
from rich.console import Console

from pipeline.attention.select import why_not
from pipeline.config.model import ModelConfig
from pipeline.distributed.parallel import Parallel, initialize

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "model"
GPT2_VOCAB_SIZE = 50257
# rows of a micro-batch: about 10, 27, 25, 43 GB of activations without checkpointing
ROWS = {"124m": 32, "774m": 16, "1.5b": 16, "355m": 32}
ACCUMULATION_STEPS = {"124m": 4, "774m": 2, "1.5b": 2, "355m": 4}
MEASURED_LAYOUTS = ("whole", "packed", "prefix")
SECONDS_PER_SIZE, SECONDS_PLAIN, TINY_SECONDS = 9.0, 4.0, 0.1
LIMIT_S = {"kernel": 60.0, "foreword": 110.0, "plain": 70.0, "attention": 45.0}
SEQUENCE_LENGTHS, TOKENS_OF_A_LAYER = (1024, 4096, 8192), 32768
COMPILED_WHOLE = ("124m",)  # as one graph, the larger ones take minutes


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns the exit code."""
    options = _options(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print(
            "bench-gpu needs a CUDA device, and PyTorch finds none here; "
            "--device cpu --tiny goes through what needs no GPU",
            file=sys.stderr,
        )
        return 2
    if options.device == "cpu" and (not options.tiny or torch.cuda.is_available()):
        print("bench-gpu: --device cpu is for --tiny, on a machine without a GPU", file=sys.stderr)
        return 2
    budget = Budget(options.budget_s)
    device = torch.device(options.device, 0) if options.device == "cuda" else torch.device("cpu")
    console = Console(width=150, highlight=False)
    results = Results(_conditions(device, options), left_out=budget.left_out)
    console.print(", ".join(f"{what} {value}" for what, value in results.conditions.items()))

    results.correctness = _check_kernels(device, budget, tiny=options.tiny)
    usable = [name for name in BACKENDS if _is_right(name, results.correctness)]
    parallel = initialize()
    try:
        speeds, plain = _measure_foreword(options, parallel, usable[0], budget) if usable else ([], [])
        results.speeds = speeds
        results.attention = _measure_attention(device, usable, budget, tiny=options.tiny)
        results.speeds = speeds + _measure_plain(options, parallel.device, plain, budget)
    finally:
        parallel.destroy()
    show(results, console)
    results.write(options.output)
    console.print(f"{options.budget_s - budget.left_s:.0f} s of {options.budget_s:.0f} s; written to {options.output}")
    wrong = [c for c in results.correctness if c.why_not is None and not c.right]
    return 1 if wrong or budget.failed else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-gpu", description="Measure training on a GPU.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a model of two layers and short rows, to try the harness")
    parser.add_argument("--budget-s", type=float, default=450.0, help="how long all of it may take")
    parser.add_argument("--sizes", nargs="+", choices=tuple(ROWS), default=list(ROWS), help="which, and in which order")
    parser.add_argument("--rows", type=int, help="rows of a micro-batch, for all sizes")
    parser.add_argument("--output", type=Path, default=Path("bench-run/bench_gpu.json"))
    return parser.parse_args(arguments)


def _check_kernels(device: torch.device, budget: Budget, *, tiny: bool) -> list[Correctness]:
    shape = Shape(2, 2, 64, 16, torch.float32, device) if tiny else Shape(4, 4, 1024, 64, torch.bfloat16, device)
    checked = []
    for name in BACKENDS:
        reason = why_not(name, device, shape.dtype)
        for layout in LAYOUTS:
            if reason is not None:
                checked.append(Correctness(name, layout, None, None, reason))
                continue
            say(f"{name} against float64, {layout}")
            check = partial(check_backend, name, layout, shape)
            found = budget.measure(f"{name} against float64, {layout}", LIMIT_S["kernel"], check)
            checked += [found] if found else []
    return checked


def _is_right(name: str, correctness: list[Correctness]) -> bool:
    """Whether every batch was tried on this backend, and every one came out right."""
    own = [c.right for c in correctness if c.backend == name]
    return len(own) == len(LAYOUTS) and all(own)


def _measure_foreword(
    options: argparse.Namespace, parallel: Parallel, attention: str, budget: Budget
) -> tuple[list[Speed], list[Workload]]:
    """All sizes; also what each came to be, for the plain model to do the same."""
    speeds, done = [], []
    for size in ["tiny"] if options.tiny else options.sizes:
        say(f"foreword, {size}")
        work = _workload(size, options)
        found = _with_fewer_rows_if_need_be(
            f"foreword, {size}",
            work,
            budget,
            LIMIT_S["foreword"],
            partial(
                measure_foreword,
                layouts=MEASURED_LAYOUTS,
                parallel=parallel,
                attention=attention,
                seconds=TINY_SECONDS if options.tiny else SECONDS_PER_SIZE,
            ),
        )
        speeds += found
        fewer = work.rows // found[0].rows if found else 1
        done.append(replace(work, rows=work.rows // fewer, accumulation_steps=work.accumulation_steps * fewer))
    return speeds, done


def _measure_plain(
    options: argparse.Namespace, device: torch.device, workloads: list[Workload], budget: Budget
) -> list[Speed]:
    speeds = []
    for work in workloads:
        say(f"plain PyTorch, {work.name}")
        speeds += _with_fewer_rows_if_need_be(
            f"plain PyTorch, {work.name}",
            work,
            budget,
            LIMIT_S["plain"],
            partial(
                measure_plain,
                device=device,
                compile_whole=work.name in COMPILED_WHOLE,
                seconds=TINY_SECONDS if options.tiny else SECONDS_PLAIN,
            ),
        )
    return speeds


def _with_fewer_rows_if_need_be(
    name: str, work: Workload, budget: Budget, limit_s: float, measure: Callable[[Workload], list[Speed]]
) -> list[Speed]:
    """Measure; where memory is short, again with half the rows and twice the micro-batches."""
    while True:
        found = budget.measure(f"{name}, {work.rows} rows", limit_s, partial(measure, work))
        gc.collect()  # the model before it, which its hooks hold in circles
        torch._dynamo.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if found is not None:
            return found
        if budget.left_out[f"{name}, {work.rows} rows"] != OUT_OF_MEMORY or work.rows == 1:
            return []
        work = replace(work, rows=work.rows // 2, accumulation_steps=work.accumulation_steps * 2)


def _workload(size: str, options: argparse.Namespace) -> Workload:
    if size == "tiny":
        shape = ModelConfig(num_layers=2, hidden_size=32, num_attention_heads=2, max_position_embeddings=64)
        return Workload("tiny", shape, 100, options.rows or 2, 64, 2, "fp32")
    values = yaml.safe_load((CONFIGS / f"gpt2-{size}.yaml").read_text(encoding="utf-8"))
    shape = ModelConfig.model_validate(values["model"])
    return Workload(size, shape, GPT2_VOCAB_SIZE, options.rows or ROWS[size], 1024, ACCUMULATION_STEPS[size], "bf16")


def _measure_attention(device: torch.device, usable: list[str], budget: Budget, *, tiny: bool) -> list[AttentionTiming]:
    """The heads and head dimension of the 124M model."""
    timings = []
    for sequence_length in (64,) if tiny else SEQUENCE_LENGTHS:
        rows = 2 if tiny else TOKENS_OF_A_LAYER // sequence_length
        dtype = torch.float32 if tiny else torch.bfloat16
        shape = Shape(rows, 2 if tiny else 12, sequence_length, 16 if tiny else 64, dtype, device)
        for name in (PLAIN, *usable):
            for layout in ("whole",) if name == PLAIN else ("packed", "prefix"):
                what = f"attention of {sequence_length} tokens, {name}, {layout}"
                say(what)
                found = budget.measure(what, LIMIT_S["attention"], partial(time_backend, name, layout, shape))
                timings += [found] if found else []
    return timings


def _conditions(device: torch.device, options: argparse.Namespace) -> dict[str, str]:
    packages = ("torch", "deepspeed", "megatron-core", "triton", "numpy")
    present = {d.metadata["Name"] for d in importlib.metadata.distributions()}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "python": platform.python_version(),
        "cuda": str(torch.version.cuda),
        **{name: importlib.metadata.version(name) for name in packages if name in present},
        "command": f"bench_gpu.py --budget-s {options.budget_s:.0f} --sizes {' '.join(options.sizes)}",
    }


if __name__ == "__main__":
    sys.exit(main())
