"""The model sees what the rule allows and nothing else, and is one model whatever the tensor-parallel size."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.distributed as dist
from processes import run_distributed
from segment_lists import Segments, visible
from torch import Tensor

from data_prep.shards import PADDING
from foreword.errors import CheckpointError, ConfigError
from pipeline.config.model import ModelConfig
from pipeline.data.batch import Batch, make_batch
from pipeline.distributed.parallel import Parallel, initialize
from pipeline.model import GPT2, build_model, load_full_state, padded_vocab_size, parameter_layout

VOCAB_SIZE = 100  # padded to 128: with tensor-parallel size 2 the second part holds the padding
CONFIG = ModelConfig(num_layers=2, hidden_size=32, num_attention_heads=4, max_position_embeddings=40)
# causal, prefix, whole, two tokens, prefix again, padding
ROW: Segments = [(0, 0), (7, 5), (17, 6), (23, 1), (25, 2), (30, PADDING)]
ROW_LENGTH = 33
SIZES = ["tp1", "tp2", "sequence parallel"]


def batch_of(rows: list[Segments], seed: int = 0, row_length: int = ROW_LENGTH) -> Batch:
    tokens = np.random.default_rng(seed).integers(0, VOCAB_SIZE, (len(rows), row_length))
    return make_batch(tokens, [np.array(row) for row in rows], np.arange(len(rows)))


def loud_model(seed: int = 3, *, sequence_parallel: bool = False) -> GPT2:
    """A small model with large weights and biases, so that whatever can move an output does move it."""
    config = CONFIG.model_copy(update={"initializer_range": 0.3})
    model = build_model(config, VOCAB_SIZE, seed=seed, sequence_parallel=sequence_parallel)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 and parameter_layout(model)[name].partition_dim is None:
            with torch.no_grad():
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
    return model


def hidden_states(model: GPT2, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model.hidden(batch.tokens_BS, batch.position_ids_BS, model.backend.prepare(batch))


def moved_by_each_token(model: GPT2) -> Tensor:
    """bool [perturbed token, position]: which final hidden states change when one input token does."""
    batch = batch_of([ROW])
    before_SD = hidden_states(model, batch)
    moved = []
    for column in range(ROW_LENGTH - 1):
        tokens_BS = batch.tokens_BS.clone()
        tokens_BS[0, column] = (tokens_BS[0, column] + 1) % VOCAB_SIZE
        after_SD = hidden_states(model, Batch(**{**vars(batch), "tokens_BS": tokens_BS}))
        moved.append((after_SD != before_SD).any(-1))
    return torch.stack(moved)


@dataclass
class Observed:
    """What a model computes, in logical tensors."""

    state: dict[str, Tensor]
    logits_TV: Tensor
    loss: Tensor
    nll_N: Tensor
    gradients: dict[str, Tensor]
    empty_loss: Tensor
    empty_gradients: dict[str, Tensor]
    moved_kq: Tensor
    refusals: list[str]


def observe(tensor_parallel_size: int, sequence_parallel: bool = False) -> Observed:
    parallel = initialize(tensor_parallel_size)
    model = loud_model(sequence_parallel=sequence_parallel)
    batch = batch_of([ROW, [(0, 20)]])
    loss = model(batch)
    loss.backward()
    gradients = logical(model, {name: p.grad for name, p in model.named_parameters()})
    model.zero_grad()
    empty_loss = model(batch_of([[(0, PADDING)]]))
    empty_loss.backward()
    observed = Observed(
        state=logical(model, model.state_dict()),
        logits_TV=model.logits(hidden_states(model, batch)),
        loss=loss.detach(),
        nll_N=model(batch, reduction="none"),
        gradients=gradients,
        empty_loss=empty_loss.detach(),
        empty_gradients=logical(model, {name: p.grad for name, p in model.named_parameters()}),
        moved_kq=moved_by_each_token(model),
        refusals=[
            refusal(lambda: build_model(CONFIG.model_copy(update={"num_attention_heads": 1}), VOCAB_SIZE, seed=1)),
            refusal(lambda: model(batch_of([[(0, 0)]], row_length=32))),
        ],
    )
    parallel.destroy()
    return observed


def refusal(work: Callable[[], object]) -> str:
    try:
        work()
    except ConfigError as error:
        return str(error)
    return ""


def logical(model: GPT2, slices: dict[str, Tensor]) -> dict[str, Tensor]:
    """Full tensors from all ranks' slices."""
    full = {}
    for name, layout in parameter_layout(model).items():
        parts = [torch.empty_like(slices[name]) for _ in range(model.ranks.size)]
        dist.all_gather(parts, slices[name].contiguous(), group=model.ranks.group)
        full[name] = layout.join(parts)
        if layout.partition_dim is None:
            assert all(torch.equal(part, parts[0]) for part in parts), f"{name} differs between ranks"
    return full


@pytest.fixture(scope="module")
def observed() -> dict[str, list[Observed]]:
    return {
        "tp1": run_distributed(1, observe, 1),
        "tp2": run_distributed(2, observe, 2),
        "sequence parallel": run_distributed(2, observe, 2, True),
    }


@pytest.mark.parametrize("size", SIZES)
def test_a_token_moves_exactly_the_outputs_that_may_see_it(size: str, observed: dict[str, list[Observed]]) -> None:
    for rank in observed[size]:
        assert torch.equal(rank.moved_kq, visible(ROW, ROW_LENGTH - 1).T)


def test_initial_weights_do_not_depend_on_the_tensor_parallel_size(observed: dict[str, list[Observed]]) -> None:
    (whole,), cut = observed["tp1"], observed["tp2"]
    for name, expected in whole.state.items():
        assert torch.equal(cut[0].state[name], expected), name


@pytest.mark.parametrize("size", ["tp2", "sequence parallel"])
def test_logits_losses_and_gradients_do_not_depend_on_the_tensor_parallel_size(
    size: str, observed: dict[str, list[Observed]]
) -> None:
    (whole,), cut = observed["tp1"], observed[size]
    for rank in cut:
        torch.testing.assert_close(rank.logits_TV, whole.logits_TV, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(rank.nll_N, whole.nll_N, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(rank.loss, whole.loss, rtol=1e-6, atol=0)
        for name, expected in whole.gradients.items():
            torch.testing.assert_close(rank.gradients[name], expected, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("size", ["tp2", "sequence parallel"])
def test_every_tensor_parallel_rank_has_the_same_loss_to_the_bit(
    size: str, observed: dict[str, list[Observed]]
) -> None:
    first, second = observed[size]
    assert torch.equal(first.loss, second.loss)
    assert torch.equal(first.nll_N, second.nll_N)


@pytest.mark.parametrize("size", SIZES)
def test_a_batch_without_targets_has_loss_zero_and_zero_gradients(
    size: str, observed: dict[str, list[Observed]]
) -> None:
    for rank in observed[size]:
        assert rank.empty_loss == 0
        for name, gradient in rank.empty_gradients.items():
            assert not gradient.any(), name


def test_the_loss_is_the_sum_of_cross_entropies_over_the_vocabulary_without_padding(one_process: Parallel) -> None:
    model, batch = loud_model(), batch_of([ROW, [(0, 20)]])
    logits_TV = model.logits(hidden_states(model, batch))
    assert logits_TV.shape[-1] == VOCAB_SIZE
    scored_T = batch.loss_mask_BS.flatten()
    expected = torch.nn.functional.cross_entropy(
        logits_TV[scored_T], batch.labels_BS.flatten()[scored_T], reduction="sum"
    )
    torch.testing.assert_close(model(batch), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(model(batch, reduction="none").sum(), expected, rtol=1e-6, atol=0)


def test_state_dict_has_one_entry_per_parameter_and_loads_strictly(one_process: Parallel) -> None:
    model = loud_model()
    state = model.state_dict()
    assert list(state) == list(parameter_layout(model)) == [name for name, _ in model.named_parameters()]
    other = build_model(CONFIG, VOCAB_SIZE, seed=9)
    other.load_state_dict(state, strict=True)
    load_full_state(other, state)
    assert all(torch.equal(state[name], tensor) for name, tensor in other.state_dict().items())


def test_initial_weights_follow_gpt2(one_process: Parallel) -> None:
    config = CONFIG.model_copy(update={"hidden_size": 64, "num_layers": 8})
    state = build_model(config, VOCAB_SIZE, seed=1).state_dict()
    residual = 0.02 / (2 * 8) ** 0.5
    for name, tensor in state.items():
        if "ln_" in name:
            assert (tensor == (1.0 if name.endswith("weight") else 0.0)).all(), name
        elif name.endswith("bias"):
            assert not tensor.any(), name
        else:
            scaled = name.endswith(("projection.weight", "down.weight"))
            assert float(tensor.std()) == pytest.approx(residual if scaled else 0.02, rel=0.06), name
    assert not torch.equal(state["blocks.0.mlp.up.weight"], state["blocks.1.mlp.up.weight"])
    assert not torch.equal(state["wte.weight"], build_model(config, VOCAB_SIZE, seed=2).state_dict()["wte.weight"])


@pytest.mark.parametrize(("vocab_size", "padded"), [(1, 128), (128, 128), (129, 256), (50257, 50304)])
def test_the_vocabulary_is_padded_to_a_multiple_of_128(vocab_size: int, padded: int) -> None:
    assert padded_vocab_size(vocab_size) == padded


def test_weights_of_another_model_are_refused_and_nothing_is_copied(one_process: Parallel) -> None:
    model = build_model(CONFIG, VOCAB_SIZE, seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {name: torch.ones_like(tensor) for name, tensor in before.items()}
    with pytest.raises(CheckpointError, match=r"lacks ln_f\.bias and has surplus"):
        load_full_state(
            model, {name: t for name, t in state.items() if name != "ln_f.bias"} | {"surplus": state["ln_f.bias"]}
        )
    with pytest.raises(CheckpointError, match=r"ln_f.bias has shape \(3,\), this model's has \(32,\)"):
        load_full_state(model, state | {"ln_f.bias": torch.ones(3)})
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_rows_longer_than_the_positions_are_refused(one_process: Parallel) -> None:
    model = build_model(CONFIG, VOCAB_SIZE, seed=1)
    with pytest.raises(ConfigError, match="rows of 41 tokens, but the model has 40 positions"):
        model(batch_of([[(0, 0)]], row_length=42))


def test_a_tensor_parallel_size_that_does_not_divide_the_heads_is_refused(
    observed: dict[str, list[Observed]],
) -> None:
    assert all("2 does not divide the number of attention heads, 1" in rank.refusals[0] for rank in observed["tp2"])


def test_tokens_that_the_ranks_cannot_share_equally_are_refused(observed: dict[str, list[Observed]]) -> None:
    for rank in observed["sequence parallel"]:
        assert "micro-batches of 31 tokens are not 2 equal parts" in rank.refusals[1]
    assert not any(rank.refusals[1] for rank in observed["tp2"])
