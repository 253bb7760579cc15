"""What one start of a run has done, as a table for a person."""

from collections.abc import Mapping
from typing import Any

TITLES = {
    "start_up_s": "start-up",
    "training_s": "training steps",
    "data_wait_s": "waiting for data",
    "evaluating_s": "evaluating",
    "saving_s": "saving",
    "profiling_s": "writing the profile",
}


def summary_table(summary: Mapping[str, Any]) -> str:
    """The lines of `Throughput.summary`: counts, rates, and the time by part with its sum."""
    skipped = f", {summary['skipped_steps']:,} of them skipped" if summary["skipped_steps"] else ""
    lines = [
        f"this start: {summary['steps']:,} steps{skipped}; {summary['tokens']:,} tokens, "
        f"{summary['targets']:,} of them targets"
    ]
    if summary["steps"]:
        mfu = f", MFU {summary['mfu']:.1%}" if summary["mfu"] is not None else ""
        lines.append(
            f"  {summary['tokens_per_s']:,.0f} tokens/s, {summary['targets_per_s']:,.0f} targets/s, "
            f"{summary['flops_per_s'] / 1e12:,.3g} TFLOP/s{mfu}, while training"
        )
    parts = {title: summary[key] for key, title in TITLES.items() if summary[key]}
    for title, seconds in {**parts, "in all": summary["total_s"]}.items():
        lines.append(f"  {title:<20}{seconds:>12,.2f} s{seconds / summary['total_s']:>9.1%}")
    return "\n".join(lines)
