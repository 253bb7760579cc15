"""Plans of runs that have no corpus, for predictions: rows are one document each, of GPT-2's vocabulary."""

from pathlib import Path

from foreword.config import load_config
from pipeline.config.train import TrainConfig
from pipeline.plan.census import estimate_census
from pipeline.plan.run_plan import RunData, RunPlan, plan_run

ROOT = Path(__file__).parents[2]
BASE = ROOT / "configs" / "train" / "gpt2-124m-prefix.yaml"
GPT2_VOCAB_SIZE = 50257


def paper_plan(gpus: int, *overrides: str, sequence_length: int = 1024) -> RunPlan:
    """Of the 124M prefix configuration with overrides, as the command line takes them."""
    config = load_config(BASE, overrides, TrainConfig)
    data = RunData(sequence_length, GPT2_VOCAB_SIZE, estimate_census(sequence_length, config), {}, {})
    return plan_run(config, data, gpus)


def shape(layers: int, width: int, heads: int, positions: int = 1024) -> list[str]:
    """Overrides for a model."""
    keys = ("num_layers", "hidden_size", "num_attention_heads", "max_position_embeddings")
    return [f"model.{key}={value}" for key, value in zip(keys, (layers, width, heads, positions), strict=True)]
