"""What is computed again is what was computed before, to the bit; and what is not kept takes no memory."""

import gc
from functools import partial

import pytest
import torch
from engine_steps import batch_of, engine_config, steps_of_each
from torch.profiler import ProfilerActivity, profile

from pipeline.attention.sdpa import SdpaPlan
from pipeline.distributed.parallel import Parallel
from pipeline.engine.recompute import RUNS, run_blocks
from pipeline.model import GPT2, build_model

KINDS = ("none", "selective", "full")
# ZeRO stage, tensor-parallel size, sequence parallelism
CUTS = [(0, 2, False), (1, 1, False), (2, 2, True), (3, 1, False)]


def parallel_section(zero: int, tensor: int, sequence_parallel: bool) -> dict:
    return {"zero_stage": zero, "tensor_parallel_size": tensor, "sequence_parallel": sequence_parallel}


def test_losses_and_gradient_norms_are_the_same_to_the_bit_at_every_cut() -> None:
    configs = [
        engine_config(activation_checkpointing=kind, parallel=parallel_section(*cut)) for cut in CUTS for kind in KINDS
    ]
    found = dict(zip([(cut, kind) for cut in CUTS for kind in KINDS], steps_of_each(2, *configs), strict=True))
    for cut in CUTS:
        assert found[cut, "selective"] == found[cut, "none"], cut
        assert found[cut, "full"] == found[cut, "none"], cut


def kept_per_token(model: GPT2, kind: str) -> float:
    """What a forward pass leaves behind for the backward pass, for each layer and token, in hidden_size numbers.

    Counted by what the allocator has given and not got back: the caches of selective checkpointing are none of
    autograd's.
    """
    run_blocks(model, RUNS[kind])
    x_TD = torch.zeros(64, model.config.hidden_size, requires_grad=True)
    plan = SdpaPlan(is_causal=True)
    gc.collect()  # nothing from before shall be given back meanwhile
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        out_TD = x_TD
        for layer, block in enumerate(model.blocks):
            out_TD = block(out_TD, 2, plan, None, layer)
    kept_bytes = sum(event.self_cpu_memory_usage for event in profiled.events())
    out_TD.sum().backward()  # what was kept is enough
    return kept_bytes / (out_TD.nbytes * len(model.blocks))


def test_selective_keeps_less_than_none_and_full_keeps_the_input_alone(one_process: Parallel) -> None:
    """The numbers that `recompute` derives; what is beyond them are statistics of the layer norms and the attention."""
    config = engine_config(model__hidden_size=64).model
    kept = {kind: kept_per_token(build_model(config, 97, seed=1), kind) for kind in KINDS}
    assert kept["none"] == pytest.approx(16, abs=0.3)
    assert kept["selective"] == pytest.approx(11, abs=0.3)
    assert kept["full"] == pytest.approx(1, abs=0.3)


def test_without_gradients_nothing_is_kept_and_nothing_differs(one_process: Parallel) -> None:
    model = build_model(engine_config().model, 97, seed=1)
    batch = batch_of(step=0, first=0, size=2)
    with torch.no_grad():
        plain = model(batch, reduction="none")
        for kind in KINDS:
            run_blocks(model, RUNS[kind])
            assert torch.equal(model(batch, reduction="none"), plain)
            run_blocks(model, partial(fail, kind))
            model(batch)


def fail(kind: str, *_: object) -> torch.Tensor:
    raise AssertionError(f"{kind} is for backward passes")
