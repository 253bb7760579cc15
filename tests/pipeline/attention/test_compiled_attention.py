"""Under torch.compile `attend` is part of one graph, and new batches do not mean new graphs.

No kernel is compiled here: what is counted is how often Dynamo, which decides that, asks for one.
"""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from attention_oracle import HEAD_DIM, HEADS, batch_of, leaves
from emulated_varlen import CAUSAL, FULL, emulated_varlen_attn
from segment_lists import Segments
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.nn.attention import varlen

from pipeline.attention import AttentionBackend
from pipeline.attention.flex import FlexBackend
from pipeline.attention.varlen import VarlenBackend
from pipeline.config.model import ModelConfig
from pipeline.data.batch import Batch
from pipeline.distributed.parallel import Parallel
from pipeline.model import build_model
from pipeline.model.gpt2 import Block

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

ROWS, ROW_LENGTH = 3, 257


@torch.library.custom_op("foreword_tests::varlen_attn", mutates_args=())
def opaque(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, causal: bool) -> Tensor:
    return emulated_varlen_attn(q, k, v, cu_q, cu_k, max_q, max_k, window_size=CAUSAL if causal else FULL)


@opaque.register_fake
def _(q: Tensor, *_: object) -> Tensor:
    return q.new_empty(q.shape)


@pytest.fixture
def varlen_is_opaque(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the real one is for the compiler: an operator that it knows the shapes of and nothing else."""

    def varlen_attn(*inputs: object, window_size: tuple[int, int]) -> Tensor:
        return opaque(*inputs, window_size == CAUSAL)

    monkeypatch.setattr(varlen, "varlen_attn", varlen_attn)


def batches(count: int, *, prefixes: bool) -> Iterator[Batch]:
    """Each with other numbers of segments, other longest ones, and other numbers of tokens in prefixes."""
    random = np.random.default_rng(0)
    for _ in range(count):
        rows: list[Segments] = []
        for _ in range(ROWS):
            starts = np.unique(np.concatenate([[0], random.integers(1, ROW_LENGTH - 2, size=random.integers(1, 9))]))
            lengths = np.diff(np.append(starts, ROW_LENGTH))
            prefix_lens = random.integers(2, np.maximum(lengths, 2) + 1) * prefixes
            rows.append([(int(s), int(min(p, n))) for s, p, n in zip(starts, prefix_lens, lengths, strict=True)])
        yield batch_of(rows, ROW_LENGTH)


@pytest.mark.usefixtures("varlen_is_opaque")
@pytest.mark.parametrize(
    ("backend", "prefixes", "graphs"),
    [
        (VarlenBackend(), True, 2),  # one for the first batch's sizes, one for any
        (VarlenBackend(), False, 2),
        (FlexBackend(), True, 1),
    ],
    ids=["varlen with prefixes", "varlen without", "flex"],
)
def test_a_new_batch_is_not_a_new_graph(backend: AttentionBackend, prefixes: bool, graphs: int) -> None:
    torch._dynamo.reset()
    counter = CompileCounter()

    def attend(q: Tensor, k: Tensor, v: Tensor, plan) -> Tensor:
        return plan.attend(2 * q, k, v) + 1

    compiled = torch.compile(attend, backend=counter, fullgraph=True)
    q, k, v = (x.detach().float() for x in leaves(ROWS, ROW_LENGTH - 1, seed=0)[0])
    for batch in batches(5, prefixes=prefixes):
        plan = backend.prepare(batch)
        torch.testing.assert_close(compiled(q, k, v, plan), attend(q, k, v, plan))
    assert counter.frame_count == graphs


@pytest.mark.usefixtures("varlen_is_opaque")
@pytest.mark.parametrize(("backend", "graphs"), [(VarlenBackend(), 2), (FlexBackend(), 1)], ids=["varlen", "flex"])
def test_a_whole_layer_is_part_of_that_graph(one_process: Parallel, backend: AttentionBackend, graphs: int) -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    config = ModelConfig(num_layers=2, hidden_size=HEADS * HEAD_DIM, num_attention_heads=HEADS)
    model = build_model(config, 100, seed=1)
    compiled = torch.compile(Block.forward, backend=counter, fullgraph=True)
    x_TD = torch.zeros(ROWS * (ROW_LENGTH - 1), config.hidden_size)
    with torch.no_grad():
        for batch in batches(3, prefixes=True):
            for layer, block in enumerate(model.blocks):
                compiled(block, x_TD, ROWS, backend.prepare(batch), None, layer)
    assert counter.frame_count == graphs
