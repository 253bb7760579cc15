"""docs/scaling.md's figures are what the code computes; UPDATE_GOLDEN=1 writes them anew. Read the diff then."""

import os
import re
from dataclasses import dataclass

import pytest
from paper_plans import ROOT, paper_plan, shape

from pipeline.plan.hardware import Hardware, gpu_named, network_named
from pipeline.plan.prediction import Prediction, describe_prediction, duration, predict

PAGE = ROOT / "docs" / "scaling.md"
MODELS = {
    "124M": (shape(12, 768, 12), 32),
    "355M": (shape(24, 1024, 16), 16),
    "774M": (shape(36, 1280, 20), 8),
    "1.5B": (shape(48, 1600, 25), 8),
}  # and rows that are tried as a micro-batch
GPUS = (8, 64, 256, 1024)
TOKENS = 10e9
FILES_BYTES_PER_S = 20e9


def run(gpus: int, *overrides: str, gpu: str = "h100", network: str = "ndr400", length: int = 1024) -> Prediction:
    plan = paper_plan(gpus, *overrides, sequence_length=length)
    return predict(plan, Hardware(gpu_named(gpu), 8, network_named(network)))


@dataclass(frozen=True)
class Anchor:
    """A published run: what was said of it, and what is predicted for it."""

    run: str
    unit: str
    published: float
    predicted: float

    @property
    def ratio(self) -> float:
        return self.predicted / self.published


def causal(gpus: int, model: list[str], rows: int, micro_batch: int, *more: str, **options) -> Prediction:
    batch = [f"batch.global_batch_size={rows}", f"batch.micro_batch_size={micro_batch}"]
    return run(gpus, "objective=causal", *model, *batch, *more, **options)


def single_nodes() -> list[Anchor]:
    small, large = MODELS["124M"][0], MODELS["1.5B"][0]
    llm_c = causal(8, small, 512, 64, gpu="a100")
    llm_c_h100, llm_c_large = causal(8, small, 512, 64), causal(8, large, 1024, 16)
    nanogpt = causal(8, small, 480, 12, "parallel.zero_stage=0", gpu="a100")
    return [
        Anchor("nanoGPT, 124M, 8 A100, 300B tokens", "days", 4, 300e9 / nanogpt.tokens_per_s / 86400),
        Anchor("llm.c, 124M, 8 A100", "s a step", 0.300, llm_c.step_s),
        Anchor("llm.c, 124M, 8 H100, 10B tokens", "minutes", 45, TOKENS / llm_c_h100.tokens_per_s / 60),
        Anchor("llm.c, 1558M, 8 H100", "s a step", 2.80, llm_c_large.step_s),
    ]


def weak_scaling() -> list[Anchor]:
    published = {
        "125m": (shape(12, 768, 12, 2048), 26, {8: 136334, 64: 125234, 128: 123936}),
        "350m": (shape(24, 1024, 16, 2048), 18, {8: 55995, 64: 52689, 128: 51934}),
        "760m": (shape(24, 1536, 12, 2048), 12, {8: 30173, 64: 29344, 128: 28940}),
        "1b": (shape(24, 2048, 16, 2048), 10, {8: 19271, 64: 19001, 128: 18647}),
    }
    options = {"gpu": "a100", "network": "200,9.6", "length": 2048}
    found = []
    for name, (model, rows, per_gpu) in published.items():
        for gpus, tokens_per_s in per_gpu.items():
            made = causal(gpus, model, rows * gpus, rows, "parallel.zero_stage=3", **options)
            what = f"llm-foundry, {name}, {gpus} A100"
            found.append(Anchor(what, "tokens/s a GPU", tokens_per_s, made.tokens_per_s / gpus))
    return found


def table(*rows: tuple[object, ...]) -> str:
    head, *body = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def anchors_table() -> str:
    found = [*single_nodes(), *weak_scaling()]
    rows = [
        (
            a.run,
            a.unit,
            f"{a.published:,g}",
            f"{a.predicted:,.0f}" if a.predicted > 1000 else f"{a.predicted:.3g}",
            f"{a.ratio:.2f}",
        )
        for a in found
    ]
    return table(("run", "unit", "published", "predicted", "predicted / published"), *rows)


def scaling_table(rows_of_a_step) -> str:
    shown = ("rows a GPU", "step", "tokens/s", "MFU", "against separate nodes", "sent a GPU", "between nodes")
    lines: list[tuple[object, ...]] = [("model", "GPUs", *shown, "10B tokens", "most is")]
    for name, (model, micro_batch) in MODELS.items():
        for gpus in GPUS:
            rows = rows_of_a_step(gpus)
            batch = [f"batch.global_batch_size={rows}", f"batch.micro_batch_size={min(micro_batch, rows // gpus)}"]
            made = run(gpus, *model, *batch)
            sent = [f"{volume / 1e6:,.0f} MB" for volume in (made.sent.bytes, made.sent.between_nodes_bytes)]
            speed = (f"{1000 * made.step_s:,.0f} ms", f"{made.tokens_per_s:,.0f}", f"{made.mfu:.1%}")
            ending = (duration(TOKENS / made.tokens_per_s), made.bound)
            lines.append((name, gpus, rows // gpus, *speed, f"{made.scaling_efficiency:.0%}", *sent, *ending))
    return table(*lines)


def stages_table() -> str:
    model = MODELS["1.5B"][0]
    batch = ["batch.global_batch_size=1024", "batch.micro_batch_size=4"]
    lines: list[tuple[object, ...]] = [("ZeRO", "network", "step", "sent a GPU", "between nodes", "most is")]
    for stage in range(4):
        for network in ("ndr400", "ethernet-100g"):
            made = run(64, *model, *batch, f"parallel.zero_stage={stage}", network=network)
            sent = [f"{volume / 1e9:,.1f} GB" for volume in (made.sent.bytes, made.sent.between_nodes_bytes)]
            lines.append((stage, network, f"{1000 * made.step_s:,.0f} ms", *sent, made.bound))
    return table(*lines)


def measured_preparation() -> tuple[float, float]:
    """Bytes/s of one worker, and bytes of text a token, as docs/benchmarks.md has them."""
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    rate = re.search(r"`foreword prep`, 2 workers, verified shards \| [\d.]+ \| [\d.]+ \| (\d+) \|", text)
    size = re.search(r"The file: (\d+) MB of JSON Lines,\s+([\d,]+) documents", text)
    sample = re.search(r"ids of ([\d,]+) documents \(([\d,]+) tokens", text)
    assert rate is not None
    assert size is not None
    assert sample is not None
    documents, of_sample, tokens = (int(n.replace(",", "")) for n in (size[2], sample[1], sample[2]))
    return float(rate[1]) * 1e6 / 2, float(size[1]) * 1e6 / (tokens * documents / of_sample)


def preparation_table() -> str:
    worker_bytes_per_s, bytes_per_token = measured_preparation()
    lines: list[tuple[object, ...]] = [
        ("tokens", "text", "workers", "they would read", "time", "with files at 20 GB/s")
    ]
    for tokens in (10e9, 300e9):
        for workers in (64, 256, 1024):
            text, rate = tokens * bytes_per_token, workers * worker_bytes_per_s
            slowed = text / min(rate, FILES_BYTES_PER_S)
            lines.append((f"{tokens / 1e9:.0f}B", f"{text / 1e9:,.0f} GB", f"{workers:,}", f"{rate / 1e9:.1f} GB/s",
                          duration(text / rate), duration(slowed)))  # fmt: skip
    return table(*lines)


def example() -> str:
    made = run(64, "batch.global_batch_size=1024", "batch.micro_batch_size=16")
    return "\n".join(f"    {line}" for line in describe_prediction(made).splitlines())


PARTS = {
    "example": example,
    "anchors": anchors_table,
    "fixed batch": lambda: scaling_table(lambda gpus: 1024),
    "growing batch": lambda: scaling_table(lambda gpus: 16 * gpus),
    "stages": stages_table,
    "preparation": preparation_table,
}


@pytest.mark.parametrize("part", PARTS)
def test_the_page_shows_what_the_code_computes(part):
    pattern = re.compile(rf"(<!-- computed: {part} -->\n\n)((?:(?!<!--).)*?)(\n\n<!-- end -->)", re.DOTALL)
    text, computed = PAGE.read_text(), PARTS[part]()
    if os.environ.get("UPDATE_GOLDEN"):
        PAGE.write_text(text := pattern.sub(lambda match: match[1] + computed + match[3], text))
    found = pattern.search(text)
    assert found is not None
    assert found[2] == computed


def test_published_runs_are_predicted_within_half():
    assert all(0.95 < anchor.ratio < 1.2 for anchor in weak_scaling())
    assert all(0.65 < anchor.ratio < 1.5 for anchor in single_nodes())
