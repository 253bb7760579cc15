"""What was measured -> tables, the targets that were met or missed, and one JSON file."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu_attention import PLAIN, AttentionTiming, Correctness
from gpu_models import Speed
from rich.console import Console
from rich.table import Table

# tokens/s of one H200-class GPU that would lead the published figures for 8 (llm-foundry, llm.c), sequence 1024
BAR_TOKENS_PER_S = {"124m": 465_000, "774m": 79_000, "1.5b": 47_000}
PREFIX_TO_CAUSAL = 0.95
TO_PLAIN = 1.0
LAYOUTS = {
    "whole": "causal, whole rows",
    "packed": "causal, packed documents",
    "prefix": "prefix, packed documents",
    "encoder": "bidirectional, packed documents",
}


@dataclasses.dataclass(frozen=True)
class Check:
    """A target: what was wanted, what was found."""

    what: str
    found: str
    met: bool


@dataclasses.dataclass
class Results:
    """All that a run measured."""

    conditions: dict[str, str]
    correctness: list[Correctness] = dataclasses.field(default_factory=list)
    attention: list[AttentionTiming] = dataclasses.field(default_factory=list)
    speeds: list[Speed] = dataclasses.field(default_factory=list)
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)

    def checks(self) -> list[Check]:
        """The targets that what was measured can be held against."""
        return [*self._kernel_checks(), *self._bar_checks(), *self._prefix_checks(), *self._plain_checks()]

    def write(self, path: Path) -> None:
        """As JSON."""
        values: dict[str, Any] = dataclasses.asdict(self) | {"checks": [dataclasses.asdict(c) for c in self.checks()]}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    def _kernel_checks(self) -> list[Check]:
        return [
            Check(f"{c.backend} equals the oracle, {LAYOUTS[c.layout]}", f"{c.error:.1e} of {c.allowed:.1e}", c.right)
            for c in self.correctness
            if c.why_not is None
        ]

    def _bar_checks(self) -> list[Check]:
        return [
            Check(
                f"{speed.model} {LAYOUTS[speed.layout]}: at least {BAR_TOKENS_PER_S[speed.model]:,} tokens/s",
                f"{speed.tokens_per_s:,.0f}",
                speed.tokens_per_s >= BAR_TOKENS_PER_S[speed.model],
            )
            for speed in self.speeds
            if speed.contender.startswith("foreword") and speed.model in BAR_TOKENS_PER_S
        ]

    def _prefix_checks(self) -> list[Check]:
        pairs = [(s, self._speed(s.model, "foreword", "packed")) for s in self.speeds if s.layout == "prefix"]
        return [
            _at_least(f"{prefix.model} prefix, tokens/s over causal's", prefix, causal, PREFIX_TO_CAUSAL)
            for prefix, causal in pairs
            if causal is not None
        ]

    def _plain_checks(self) -> list[Check]:
        pairs = [(self._speed(s.model, "foreword", "whole"), s) for s in self.speeds if s.contender.startswith("plain")]
        return [
            _at_least(
                f"{plain.model} causal over whole rows, tokens/s over those of {plain.contender}", own, plain, TO_PLAIN
            )
            for own, plain in pairs
            if own is not None
        ]

    def _speed(self, model: str, contender: str, layout: str) -> Speed | None:
        return next(
            (s for s in self.speeds if (s.model, s.layout) == (model, layout) and s.contender.startswith(contender)),
            None,
        )


def _at_least(what: str, speed: Speed, other: Speed, wanted: float) -> Check:
    ratio = speed.tokens_per_s / other.tokens_per_s
    return Check(f"{what}: at least {wanted}", f"{ratio:.3f}", ratio >= wanted)


def show(results: Results, console: Console) -> None:
    """Print all of it; what is empty is left away."""
    if results.correctness:
        console.print(_correctness_table(results.correctness))
    if results.speeds:
        console.print(_speed_table(results.speeds))
    if results.attention:
        console.print(_attention_table(results.attention))
    for check in results.checks():
        console.print(f"{'met   ' if check.met else 'MISSED'}  {check.what}: {check.found}")
    for name, reason in results.left_out.items():
        console.print(f"left out  {name}: {reason}")


def _correctness_table(checked: Sequence[Correctness]) -> Table:
    table = _table(
        "Against attention in float64: largest error of output and gradients, relative",
        "backend",
        "batch",
        "error",
        "allowed",
        "",
    )
    for c in checked:
        if c.why_not is not None:
            table.add_row(c.backend, LAYOUTS[c.layout], "", "", f"not available: {c.why_not}")
        else:
            table.add_row(
                c.backend, LAYOUTS[c.layout], f"{c.error:.1e}", f"{c.allowed:.1e}", "right" if c.right else "WRONG"
            )
    return table


def _speed_table(speeds: Sequence[Speed]) -> Table:
    table = _table(
        "Optimizer steps",
        "model", "", "batch", "rows", "step s", "tokens/s", "targets/s", "MFU", "memory GB", "loss",
    )  # fmt: skip
    for s in speeds:
        table.add_row(
            s.model,
            s.contender,
            LAYOUTS[s.layout],
            str(s.rows),
            f"{s.step_s:.3f}",
            f"{s.tokens_per_s:,.0f}",
            f"{s.targets_per_s:,.0f}",
            "" if s.mfu is None else f"{s.mfu:.1%}",
            "" if s.peak_bytes is None else f"{s.peak_bytes / 1e9:.1f}",
            f"{s.loss:.2f}",
        )
    return table


def _attention_table(timings: Sequence[AttentionTiming]) -> Table:
    table = _table(
        "One layer's attention, forward and backward, equal numbers of tokens",
        "tokens a row", "batch", "backend", "forward ms", "both ms", "TFLOP/s", "plan ms", f"x {PLAIN}",
    )  # fmt: skip
    plain_ms = {t.sequence_length: t.both_ms for t in timings if t.backend == PLAIN}
    for t in timings:
        over = t.both_ms / plain_ms[t.sequence_length] if t.sequence_length in plain_ms else None
        table.add_row(
            str(t.sequence_length),
            LAYOUTS[t.layout],
            t.backend,
            f"{t.forward_ms:.3f}",
            f"{t.both_ms:.3f}",
            f"{t.tflops_per_s:.0f}",
            f"{t.plan_ms:.3f}",
            "" if over is None else f"{over:.2f}",
        )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    left = ("", "model", "batch", "backend")
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right")
    return table
