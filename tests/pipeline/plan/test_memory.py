"""The arithmetic of memory, held to live engines, to autograd, and to what the allocator gave out."""

import os
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from processes import run_distributed

from foreword.config import validate
from pipeline.config.model import ModelConfig
from pipeline.config.parallel import ParallelConfig
from pipeline.config.train import TrainConfig
from pipeline.plan import memory
from pipeline.plan.memory import Memory, RankLoad, memory_of
from pipeline.plan.sizes import count_parameters, parameter_sizes
from slurm.job.port import reserve_port

MODEL = {"num_layers": 3, "hidden_size": 96, "num_attention_heads": 4, "max_position_embeddings": 64}
ROWS, SEQUENCE_LENGTH, VOCABULARY = 4, 64, 5000
STAGES = [(precision, stage) for precision in ("fp32", "bf16") for stage in range(4)]


def make_rows(vocab_size: int, prefix_len: int) -> Any:
    from pipeline.data.batch import make_batch

    tokens = np.random.default_rng(0).integers(0, vocab_size, (ROWS, SEQUENCE_LENGTH + 1))
    return make_batch(tokens, [np.array([[0, prefix_len], [30, 3]])] * ROWS, np.arange(ROWS))


def load_of(config: TrainConfig, batch: Any, data_parallel_size: int, attention: str = "sdpa") -> RankLoad:
    return RankLoad(
        model=config.model,
        vocab_size=VOCABULARY,
        precision=config.precision,
        parallel=config.parallel,
        data_parallel_size=data_parallel_size,
        rows=ROWS,
        sequence_length=SEQUENCE_LENGTH,
        targets=batch.num_targets,
        prefix_tokens=int(batch.segments_G3[:, 2].sum()),
        attention=attention,
        device="cpu",
    )


def config_of(precision: str = "fp32", **parallel) -> TrainConfig:
    values = {
        "run_dir": "unused",
        "data": {"corpus": "unused"},
        "model": MODEL,
        "precision": precision,
        "batch": {"global_batch_size": 4 * ROWS, "micro_batch_size": ROWS},
        "parallel": parallel,
        "optimizer": {"lr": 1e-3},
        "schedule": {"total_steps": 10},
    }
    return validate(values, TrainConfig)


# ---- parameters


@pytest.mark.parametrize(
    ("size", "shape", "total"),
    [
        ("124M", (12, 768, 12), 124_439_808),
        ("355M", (24, 1024, 16), 354_823_168),
        ("774M", (36, 1280, 20), 774_030_080),
        ("1.5B", (48, 1600, 25), 1_557_611_200),
    ],
)
def test_gpt2s_sizes_are_those_of_the_published_weights(size, shape, total):
    model = ModelConfig(num_layers=shape[0], hidden_size=shape[1], num_attention_heads=shape[2])
    counts = count_parameters(model, 50257)
    assert counts.total == total
    assert counts.total_with_padding == total + 47 * shape[1]  # 50,304 rows


def rank_of_a_model(config: TrainConfig) -> tuple[dict[str, tuple], int, dict[str, int]]:
    """The layout of a model, its elements on this rank, and what a forward pass leaves behind, in each way to do it.

    What autograd saves is counted as it is saved. What checkpointing keeps is none of autograd's: it is what the
    allocator has not got back, which can be told on one rank alone, because gloo gives back in its own threads.
    """
    from live_memory import allocated_by, saved_for_backward

    from pipeline.distributed.parallel import initialize
    from pipeline.engine.recompute import RUNS, run_blocks
    from pipeline.model import build_model

    parallel = initialize(config.parallel.tensor_parallel_size)
    model = build_model(config.model, VOCABULARY, seed=1, sequence_parallel=config.parallel.sequence_parallel)
    layout = {name: (entry.full_shape, entry.partition_dim is not None) for name, entry in model.layout.items()}
    numel = sum(parameter.numel() for parameter in model.parameters())
    kept = {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        model.to(dtype)
        for attention, backend in backends().items():
            batch = make_rows(VOCABULARY, prefix_len=20)
            hidden = partial(model.hidden, batch.tokens_BS, batch.position_ids_BS, backend.prepare(batch))
            run_blocks(model, RUNS["none"])
            own = [*model.parameters(), *(value for value in vars(batch).values() if torch.is_tensor(value))]
            kept[f"{precision} {attention} none"] = saved_for_backward(hidden, but=own)
            result_bytes = ROWS * SEQUENCE_LENGTH * config.model.hidden_size * dtype.itemsize
            # with varlen, selective checkpointing keeps the kernel's results, and here is no kernel
            for checkpointing in ("full", "selective") if attention == "sdpa" and parallel.world_size == 1 else ():
                run_blocks(model, RUNS[checkpointing])
                kept[f"{precision} {attention} {checkpointing}"] = allocated_by(hidden)[1] - result_bytes
    parallel.destroy()
    return layout, numel, kept


class FlashAttention(torch.autograd.Function):
    """Saves what the kernel saves, and computes nothing."""

    calls: ClassVar[int] = 0

    @staticmethod
    def forward(ctx, q, k, v):
        ctx.save_for_backward(q, k, v, out := torch.empty_like(q), torch.empty(q.shape[:2], dtype=torch.float32))
        return out


def backends() -> dict[str, Any]:
    from pipeline.attention import varlen
    from pipeline.attention.sdpa import SdpaBackend

    varlen.varlen.varlen_attn = lambda q, k, v, *_, **__: FlashAttention.apply(q, k, v)
    return {"sdpa": SdpaBackend(), "varlen": varlen.VarlenBackend()}


@pytest.mark.parametrize(("tensor_parallel_size", "sequence_parallel"), [(1, False), (2, False), (2, True)])
def test_parameters_and_activations_of_a_rank_are_those_of_a_live_model(tensor_parallel_size, sequence_parallel):
    config = config_of(tensor_parallel_size=tensor_parallel_size, sequence_parallel=sequence_parallel)
    ranks = run_distributed(tensor_parallel_size, rank_of_a_model, config)
    sizes = parameter_sizes(config.model, VOCABULARY)
    batch = make_rows(VOCABULARY, prefix_len=20)
    for layout, numel, kept in ranks:
        assert layout == {size.name: (size.shape, size.is_cut) for size in sizes}
        assert list(layout) == [size.name for size in sizes]
        assert numel == sum(size.numel(tensor_parallel_size) for size in sizes)
        for name, kept_bytes in kept.items():
            precision, attention, checkpointing = name.split()
            load = replace(load_of(config, batch, 1, attention), precision=precision)
            load = replace(load, activation_checkpointing=checkpointing)
            assert memory.activation_bytes(load) == pytest.approx(kept_bytes, rel=0.03), name


# ---- engines


def engines_at_work(configs: list[TrainConfig], ports: list[int]) -> list[tuple[dict[str, int], int, int]]:
    """Bytes by what they are, bytes that are live after two steps, and the peak of a third; and DeepSpeed's sizes."""
    from live_memory import allocated_by, live_storages

    import pipeline.engine.engine as engine_room
    from pipeline.distributed.parallel import initialize
    from pipeline.engine import Engine
    from pipeline.engine.optimizer import make_optimizer
    from pipeline.model import build_model

    # as on a GPU: without fused kernels AdamW makes temporary copies
    engine_room.make_optimizer = lambda model, config, fused: make_optimizer(model, config, fused=True)
    measured = []
    for config, port in zip(configs, ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        parallel = initialize()
        before = live_storages()
        engine = Engine(build_model(config.model, VOCABULARY, seed=1), config, parallel, max_accumulation_steps=2)

        def step(engine=engine, parallel=parallel) -> None:
            batches = [make_rows(VOCABULARY, prefix_len=20) for _ in range(2)]
            engine.step(batches, sum(batch.num_targets for batch in batches) * parallel.data_parallel_size, 1e-3)

        step()
        step()
        live = sum(storage.nbytes() for storage in live_storages(but=before))
        measured.append((parts_of(engine), live, allocated_by(step)[0]))
        parallel.destroy()
        del engine, step
    return measured


def parts_of(engine: Any) -> dict[str, int]:
    weights = [tensor for p in engine.model.parameters() for tensor in (p.data, getattr(p, "ds_tensor", p.data))]
    state = [tensor for of_one in engine.adam.state.values() for tensor in of_one.values()]
    masters = [p for group in engine.adam.param_groups for p in group["params"]]
    if engine.zero_stage == 3:  # they stand there only while they are updated
        masters = engine.optimizer.fp32_partitioned_groups_flat
    sizes = {
        "weights": storage_bytes(weights),
        "optimizer": storage_bytes([*state, *masters], but=weights),
    }
    if engine.zero_stage == 3:
        sizes["persistence_threshold"] = engine.deepspeed.zero_param_persistence_threshold()
        sizes["max_live"] = engine.deepspeed.zero_max_live_parameters()
    return sizes | {"reduce_bucket": engine.deepspeed.zero_reduce_bucket_size()}


def storage_bytes(tensors: list[torch.Tensor], but: list[torch.Tensor] = ()) -> int:
    known = {tensor.untyped_storage().data_ptr() for tensor in but}
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(size for address, size in storages.items() if address not in known)


@pytest.fixture(scope="module")
def measured() -> dict[tuple[str, int], tuple[dict[str, int], int, int]]:
    """(precision, ZeRO stage) -> what the first of two ranks measured."""
    configs = [config_of(precision, zero_stage=stage) for precision, stage in STAGES]
    first, _ = run_distributed(2, engines_at_work, configs, [reserve_port() for _ in configs], timeout_s=300.0)
    return dict(zip(STAGES, first, strict=True))


def predicted(precision: str, stage: int) -> tuple[RankLoad, Memory]:
    load = load_of(config_of(precision, zero_stage=stage), make_rows(VOCABULARY, prefix_len=20), 2)
    return load, memory_of(load)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "stage"), STAGES)
def test_state_is_what_a_live_engine_keeps(measured, precision, stage):
    parts, live, _ = measured[precision, stage]
    load, planned = predicted(precision, stage)
    assert parts["weights"] == pytest.approx(planned.weights, rel=0.01)
    assert parts["optimizer"] == pytest.approx(planned.optimizer, rel=0.01)
    kept = planned.weights + planned.optimizer
    if precision == "bf16" and stage < 2:
        kept += load.numel * 4
    elif stage == 3:
        kept += planned.gradients + planned.reduce_bucket
    assert live == pytest.approx(kept, rel=0.01)  # and nothing else is kept


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "stage"), STAGES)
def test_the_peak_is_about_what_the_allocator_gave_out(measured, precision, stage):
    """In pages that nobody touches a bucket costs a processor nothing, and it hides what comes before it."""
    _, live, above = measured[precision, stage]
    _, planned = predicted(precision, stage)
    without_bucket = replace(
        planned, reduce_bucket=0, logits=0 if planned.reduce_bucket and stage < 3 else planned.logits
    )
    ratio = without_bucket.peak / (live + above - planned.reduce_bucket)
    assert 0.85 < ratio < 1.2


@pytest.mark.slow
def test_deepspeeds_own_sizes_are_those_that_the_arithmetic_knows(measured):
    for (_, stage), (parts, _, _) in measured.items():
        if stage:
            assert parts["reduce_bucket"] == memory.REDUCE_BUCKET
        if stage == 3:
            assert parts["persistence_threshold"] == memory.persistence_threshold(config_of().model)
            assert parts["max_live"] == memory.STAGE_3_MAX_LIVE


def test_the_loss_takes_chunks_of_the_size_that_the_arithmetic_knows():
    from pipeline.attention import flex
    from pipeline.model import loss

    assert (memory.POSITIONS_PER_CHUNK, memory.FLEX_BLOCK) == (loss.POSITIONS_PER_CHUNK, flex.BLOCK)


# ---- what must hold between settings


@pytest.fixture
def load() -> RankLoad:
    """GPT-2 1.5B in bf16 on 8 ranks, ZeRO 2."""
    model = ModelConfig(num_layers=48, hidden_size=1600, num_attention_heads=25)
    return RankLoad(model, 50257, "bf16", ParallelConfig(zero_stage=2), 8, 8, 1024, 4096, 4096, "varlen")


def test_each_stage_of_zero_cuts_what_it_says(load):
    by_stage = [memory_of(replace(load, parallel=ParallelConfig(zero_stage=stage))) for stage in range(4)]
    assert by_stage[0].optimizer == pytest.approx(8 * by_stage[1].optimizer, rel=1e-6)
    assert by_stage[1].optimizer == by_stage[2].optimizer == by_stage[3].optimizer
    assert by_stage[1].gradients > 8 * by_stage[2].gradients == 8 * by_stage[3].gradients
    assert by_stage[2].weights > 7 * by_stage[3].weights


def test_offload_moves_the_optimizer_to_the_machine(load):
    offloaded = memory_of(replace(load, parallel=ParallelConfig(zero_stage=2, offload_optimizer=True)))
    assert offloaded.optimizer == offloaded.gradients == 0
    assert offloaded.host - memory_of(load).host > memory_of(load).optimizer


def test_tensor_parallelism_divides_all_but_what_every_rank_needs(load):
    five = memory_of(replace(load, parallel=ParallelConfig(zero_stage=2, tensor_parallel_size=5)))
    one = memory_of(load)
    assert five.weights == pytest.approx(one.weights / 5, rel=0.01)
    assert one.activations / 5 < five.activations < one.activations / 2


def test_activations_grow_with_the_micro_batch_and_nothing_else_of_the_state_does(load):
    double, single = memory_of(replace(load, rows=16, targets=8192, prefix_tokens=8192)), memory_of(load)
    assert double.activations == pytest.approx(2 * single.activations, rel=1e-6)
    for part in ("weights", "gradients", "optimizer", "reduce_bucket", "host"):
        assert getattr(double, part) == getattr(single, part)
