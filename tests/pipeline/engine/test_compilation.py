"""Compiled layers do what plain ones do, in one graph for all layers and batches; where that fails, all ranks know."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from engine_steps import Steps, batch_of, engine_config, steps_here, steps_of_each
from processes import run_distributed
from torch._dynamo.testing import CompileCounterWithBackend

from foreword.config import dump_config, load_config
from foreword.errors import ConfigError
from pipeline.config.train import TrainConfig
from pipeline.distributed.parallel import Parallel
from pipeline.engine import compilation
from pipeline.model import build_model, loss
from slurm.job.port import reserve_port

# ZeRO stage, tensor-parallel size, sequence parallelism, activation checkpointing
CUTS = [(0, 1, False, "none"), (1, 2, False, "full"), (2, 2, True, "selective"), (3, 1, False, "selective")]


def config_of(cut: tuple, switch: str) -> TrainConfig:
    zero, tensor, sequence_parallel, kind = cut
    parallel = {"zero_stage": zero, "tensor_parallel_size": tensor, "sequence_parallel": sequence_parallel}
    return engine_config(compile=switch, parallel=parallel, activation_checkpointing=kind)


def compile_with(backend: Any) -> Any:
    """torch.compile with another backend than Inductor, which takes many seconds."""
    real = torch.compile

    def compile_(function: Callable, *, fullgraph: bool = False) -> Callable:
        return real(function, fullgraph=fullgraph, backend=backend)

    return mock.patch.object(torch, "compile", compile_)


def compiled_steps(configs: list[TrainConfig], ports: list[int]) -> tuple[list[Steps], list[int]]:
    """Their steps, and how many graphs each took."""
    steps, graphs = [], []
    for config, port in zip(configs, ports, strict=True):
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("aot_eager")
        with compile_with(counter):
            steps += steps_here([config], [port])
        graphs.append(counter.frame_count)
    return steps, graphs


@pytest.mark.slow
def test_compiled_training_equals_plain_training_at_every_cut_in_one_graph_for_all_layers_and_batches() -> None:
    plain = steps_of_each(2, *(config_of(cut, "off") for cut in CUTS))
    compiled = [config_of(cut, "on") for cut in CUTS]
    for steps, graphs in run_distributed(2, compiled_steps, compiled, [reserve_port() for _ in compiled]):
        assert steps == plain
        # of the trial, the loss and a layer; of a layer once more where ZeRO 3 has changed what a module is made of
        assert graphs == [4 if zero == 3 else 3 for zero, *_ in CUTS]


@pytest.mark.slow
def test_inductor_compiles_training() -> None:
    """Not only the graphs: the code that is made of them, which needs a C++ compiler."""
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        cpp_builder.get_cpp_compiler()
    except InvalidCxxCompiler:
        pytest.skip("there is no C++ compiler")
    plain, compiled = steps_of_each(1, *(config_of(CUTS[0], switch) for switch in ("off", "on")))
    assert compiled == [pytest.approx(step, rel=1e-5) for step in plain]


@dataclass
class WithoutCompiler:
    """What a rank meets when rank 1 has no C++ compiler."""

    steps: Steps
    warnings: list[str]
    refusal: ConfigError


def train_without_a_compiler_on_rank_1(ports: list[int]) -> WithoutCompiler:
    from torch._inductor import config as inductor

    warnings: list[str] = []
    broken = inductor.patch({"cpp.cxx": ("/nowhere/g++",)})
    with (
        broken if os.environ["RANK"] == "1" else compile_with("eager"),
        mock.patch.object(compilation, "is_wanted", lambda *_: True),  # by `auto`, as on a GPU
        mock.patch.object(compilation, "warn", warnings.append),
    ):
        (steps,) = steps_here([config_of(CUTS[0], "auto")], ports[:1])
        with pytest.raises(ConfigError) as refused:
            steps_here([config_of(CUTS[0], "on")], ports[1:])
    return WithoutCompiler(steps, warnings, refused.value)


def test_when_one_rank_cannot_compile_auto_goes_on_without_on_all_ranks_and_says_so_once_and_on_is_refused() -> None:
    (plain,) = steps_of_each(2, config_of(CUTS[0], "off"))
    first, second = run_distributed(2, train_without_a_compiler_on_rank_1, [reserve_port(), reserve_port()])
    assert first.steps == second.steps == plain
    (line,) = first.warnings
    assert "nothing is compiled: torch.compile does not work on rank 1: " in line
    assert "C++ compiler" in line and "\n" not in line
    assert second.warnings == []
    for rank in (first, second):
        assert "torch.compile does not work on rank 1: " in rank.refusal.what
        assert (rank.refusal.where, rank.refusal.remedy) == ("compile", "compile=off goes on without it")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["none", "selective", "full"])
@pytest.mark.parametrize("attention", ["varlen", "flex"])
def test_on_a_gpu_compiled_training_is_near_plain_training(attention: str, kind: str) -> None:
    def steps(switch: str) -> Steps:
        changes = {"attention": attention, "precision": "bf16", "activation_checkpointing": kind}
        return steps_here([engine_config(compile=switch, **changes)], [reserve_port()])[0]

    assert steps("on") == [pytest.approx(step, rel=0.02) for step in steps("off")]


class BreakingPlan:
    """Attention that no compiler could make one graph of."""

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        return v


class BreakingBackend:
    name = "breaking"

    def prepare(self, batch: object) -> BreakingPlan:
        return BreakingPlan()


def test_a_layer_of_several_graphs_is_not_compiled(one_process: Parallel, capsys: pytest.CaptureFixture) -> None:
    config = engine_config(compile="on")
    model = build_model(config.model, 97, backend=BreakingBackend(), seed=1)
    batch = batch_of(step=0, first=0, size=2)
    with compile_with("eager"), pytest.raises(ConfigError, match=r"Unsupported: Call to `torch\._dynamo\.graph_break"):
        compilation.compile_model(model, config, batch, one_process)
    with compile_with("eager"), mock.patch.object(compilation, "is_wanted", lambda *_: True):
        compilation.compile_model(model, engine_config(), batch, one_process)
    assert "nothing is compiled" in capsys.readouterr().err
    assert model.chunk_loss is loss.chunk_loss


@pytest.mark.parametrize(
    ("switch", "device", "wanted"),
    [("on", "cpu", True), ("off", "cuda", False), ("auto", "cpu", False), ("auto", "cuda", True)],
)
def test_auto_is_for_gpus(switch: str, device: str, wanted: bool) -> None:
    assert compilation.is_wanted(switch, torch.device(device)) == wanted


@pytest.mark.parametrize("word", ["auto", "on", "off"])
def test_the_switch_is_a_word_although_yaml_reads_booleans(word: str, tmp_path: Path) -> None:
    base, written = tmp_path / "base.yaml", tmp_path / "written.yaml"
    base.write_text(dump_config(engine_config(compile=word)))
    written.write_text(f"extends: base.yaml\ncompile: {word}\n")
    assert load_config(base, [], TrainConfig).compile == word
    assert load_config(written, [], TrainConfig).compile == word
    assert load_config(base, [f"compile={word}"], TrainConfig).compile == word
