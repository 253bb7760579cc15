"""A run's directory as training leaves it, with everything that can happen to a run, written without training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from training import train_config

from foreword.config import dump_config

BUCKETS = {"0-1": 0.3, "2-15": 0.2, "16-63": 0.0, "64-255": -0.2}
PROMPT, TRUTH = "The <b>old</b> bridge\nwas", " closed in the spring."


def write_run(run_dir: Path, corpus: Path, *, steps: int = 40, seed: int = 0, **changes: Any) -> Path:
    """Steps, validations and samples; a crash after half of the steps, a stop after three quarters, a skipped step."""
    random = np.random.default_rng(seed)
    run_dir.mkdir(parents=True)
    config = train_config(run_dir, corpus, schedule__total_steps=steps, schedule__warmup_steps=2, **changes)
    (run_dir / "config.yaml").write_text(dump_config(config))
    clock, written = 1.7e9, []

    def write(seconds: float, **record: Any) -> None:
        nonlocal clock
        clock += seconds
        written.append({**record, "time": round(clock, 3)})

    def write_step(step: int) -> None:
        loss = 8 * (step + 4) ** -0.3 + random.normal(0, 0.05)
        rates = {"tokens_per_s": random.normal(4000, 100), "targets_per_s": random.normal(2000, 50), "mfu": None}
        rates |= {"flops_per_s": 1e9, "data_wait_fraction": abs(random.normal(0, 0.01)), "memory_bytes": 10**9}
        consumed = {"samples_consumed": 8 * step, "tokens_consumed": 256 * step, "targets_consumed": 130 * step}
        norm = {"lr": 1e-3 * min(1, step / 5), "grad_norm": float(np.exp(random.normal())), "targets": 130}
        write(1.0, step=step, loss=loss, **consumed, **norm, **rates)
        if step % max(steps // 8, 1) == 0:
            values = {"prefix_loss": loss - 0.1, "causal_loss": loss + 0.1, "targets": 300}
            values |= {"prefix_bits_per_byte": loss / 3, "causal_bits_per_byte": loss / 2.9}
            for bucket, shift in BUCKETS.items():
                values |= {f"prefix_loss/{bucket}": loss + shift - 0.1, f"causal_loss/{bucket}": loss + shift + 0.1}
            write(2.0, event="validation", step=step, **values)
            sample = {"prompt": PROMPT, "truth": TRUTH, "reading": "prefix", "continuation": f" words of step {step}"}
            write(0.1, event="samples", step=step, samples=[sample])

    def write_summary(step: int) -> None:
        seconds = {"start_up_s": 2.0, "training_s": 30.5, "data_wait_s": 0.5, "evaluating_s": 4.0}
        write(0.1, event="summary", step=step, steps=10, tokens_per_s=4000.0, total_s=37.0, **seconds)

    half, three_quarters = steps // 2, 3 * steps // 4
    write(0.0, event="start", step=0, topology={}, resumed_from=None, origin=None)
    for step in range(1, half + 1):
        write_step(step)
    write(0.5, event="skipped", step=half, reason="the loss is not finite", rows=list(range(12)))
    crash = clock + 1.0
    write(100.0, event="start", step=half - 2, topology={}, resumed_from=str(run_dir / "checkpoints/step_00000018"))
    for step in range(half - 1, three_quarters + 1):
        write_step(step)
    write(0.1, event="stop", step=three_quarters, reason="SIGUSR1")
    write_summary(three_quarters)
    write(
        50.0, event="start", step=three_quarters, topology={}, resumed_from=str(run_dir / "checkpoints/step_00000030")
    )
    for step in range(three_quarters + 1, steps + 1):
        write_step(step)
    write(0.1, event="finish", step=steps, loss=1.0)
    write_summary(steps)
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in written))
    (run_dir / "slurm").mkdir()
    job = {"job_id": "17", "nodes": ["node3"]}
    events = [
        {"event": "submitted", "time": 1.7e9 - 9, "job_id": "17", "kind": "train"},
        {"event": "crashed", "time": crash, **job, "reason": "rank 3 was ended by SIGKILL", "exit_code": 137},
        {"event": "requeued", "time": crash + 1, **job, "reason": "restart 1 of 10"},
    ]
    (run_dir / "slurm" / "jobs.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return run_dir
