"""Training equals a plain PyTorch implementation in one process, however the work is cut.

The plain one is written here from the rule alone: nn.Linear and nn.Embedding, a mask from nested loops, the loss by
cross entropy over the whole vocabulary, torch's AdamW, a norm and a clip of its own, and no code of the trainer but the
order of the rows and the initial weights.

Shape suffixes: B rows, S positions, D hidden size, H heads, K head dimension, V vocabulary.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from processes import run_distributed
from stored_weights import load_weights
from tiny_corpus import SEQUENCE_LENGTH, VOCAB_SIZE, make_corpus
from torch import Tensor, nn
from training import curve, train_all, train_config

from data_prep.shards import PADDING, Corpus
from pipeline.data.order import DataOrder
from pipeline.distributed.parallel import initialize
from pipeline.model import build_model

STEPS, WARMUP, ROWS, HEADS, LAYERS, WIDTH = 20, 2, 8, 4, 2, 32
LR, MIN_LR_RATIO, CLIP, DECAY = 5e-3, 0.1, 1.4, 0.1
LAST = f"checkpoints/step_{STEPS:08d}"
# ZeRO stage, tensor-parallel size, sequence parallelism
ON_TWO = [(stage, *cut) for stage in (0, 1, 2, 3) for cut in ((1, False), (2, False), (2, True))]
ON_FOUR = [(0, 2, False), (1, 1, False), (2, 4, True), (3, 2, True)]


class PlainBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.projection = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x_BSD: Tensor, mask_B1SS: Tensor) -> Tensor:
        # the rows of qkv are ordered (head, q | k | v, feature)
        q_BHSK, k_BHSK, v_BHSK = self.qkv(self.ln_1(x_BSD)).unflatten(-1, (HEADS, 3, -1)).permute(3, 0, 2, 1, 4)
        scores_BHSS = q_BHSK @ k_BHSK.transpose(-1, -2) / math.sqrt(WIDTH // HEADS)
        weights_BHSS = scores_BHSS.masked_fill(~mask_B1SS, -torch.inf).softmax(-1)
        x_BSD = x_BSD + self.projection((weights_BHSS @ v_BHSK).transpose(1, 2).flatten(2))
        return x_BSD + self.down(F.gelu(self.up(self.ln_2(x_BSD)), approximate="tanh"))


class PlainGPT2(nn.Module):
    def __init__(self, rows_of_embedding: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(rows_of_embedding, WIDTH), nn.Embedding(SEQUENCE_LENGTH, WIDTH)
        self.blocks = nn.ModuleList(PlainBlock() for _ in range(LAYERS))
        self.ln_f = nn.LayerNorm(WIDTH)

    def forward(self, tokens_BS: Tensor, positions_BS: Tensor, mask_B1SS: Tensor) -> Tensor:
        x_BSD = self.wte(tokens_BS) + self.wpe(positions_BS)
        for block in self.blocks:
            x_BSD = block(x_BSD, mask_B1SS)
        return self.ln_f(x_BSD) @ self.wte.weight[:VOCAB_SIZE].T


def read_row(corpus: Corpus, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(tokens [S + 1], positions [S], visible [S, S], scored [S]) of a row, by the rule."""
    stored = corpus.split("train").row(row)
    starts = stored.segments[:, 0].tolist()
    positions = np.zeros(SEQUENCE_LENGTH, dtype=np.int64)
    visible = np.zeros((SEQUENCE_LENGTH, SEQUENCE_LENGTH), dtype=bool)
    scored = np.zeros(SEQUENCE_LENGTH, dtype=bool)
    for (start, prefix_len), end in zip(stored.segments, [*starts[1:], SEQUENCE_LENGTH + 1], strict=True):
        for q in range(start, min(end, SEQUENCE_LENGTH)):
            positions[q] = q - start
            visible[q, [k for k in range(start, min(end, SEQUENCE_LENGTH)) if k <= q or k < start + prefix_len]] = True
            scored[q] = prefix_len != PADDING and q + 1 < end and q + 1 >= start + prefix_len
    return stored.tokens.astype(np.int64), positions, visible, scored


def plain_training(corpus_path: Path) -> tuple[dict[int, float], dict[int, float], dict[str, Tensor]]:
    """Losses and gradient norms by step, and the final parameters under the trainer's names."""
    torch.set_num_threads(1)
    corpus = Corpus.open(corpus_path)
    parallel = initialize()
    config = train_config(corpus_path / "unused", corpus_path)
    initial = build_model(config.model, VOCAB_SIZE, seed=config.seed).state_dict()
    parallel.destroy()
    model = PlainGPT2(len(initial["wte.weight"]))
    renamed = {name.replace("attention.", "").replace("mlp.", ""): name for name in initial}
    model.load_state_dict({plain: initial[name] for plain, name in renamed.items()})

    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    adam = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
        eps=1e-5,
    )
    order = DataOrder(len(corpus.split("train")), corpus.manifest_sha256, seed=7)
    losses, norms = {}, {}
    for step in range(STEPS):
        rows = order.rows_at(np.arange(step * ROWS, (step + 1) * ROWS))
        read = [read_row(corpus, int(row)) for row in rows]
        tokens, positions, visible, scored = (torch.from_numpy(np.stack(part)) for part in zip(*read, strict=True))
        logits_BSV = model(tokens[:, :-1], positions, visible[:, None])
        loss = F.cross_entropy(logits_BSV[scored], tokens[:, 1:][scored])
        adam.zero_grad()
        loss.backward()
        norm = torch.stack([p.grad.double().square().sum() for p in model.parameters()]).sum().sqrt()
        for parameter in model.parameters():
            parameter.grad *= min(1.0, CLIP / (float(norm) + 1e-6))
        done = (step - WARMUP) / (STEPS - WARMUP)
        cosine = MIN_LR_RATIO + (1 - MIN_LR_RATIO) * (1 + math.cos(math.pi * done)) / 2
        for group in adam.param_groups:
            group["lr"] = LR * ((step + 1) / WARMUP if step < WARMUP else cosine)
        adam.step()
        losses[step + 1], norms[step + 1] = loss.item(), norm.item()
    return losses, norms, {name: model.state_dict()[plain] for plain, name in renamed.items()}


def config_of(
    run: Path, corpus: Path, zero: int, tensor: int, sequence_parallel: bool = False, *, micro_batch_size: int = 2
):
    return train_config(
        run,
        corpus,
        schedule={"total_steps": STEPS, "warmup_steps": WARMUP, "min_lr_ratio": MIN_LR_RATIO},
        optimizer={"lr": LR, "clip_grad_norm": CLIP, "eps": 1e-5, "weight_decay": DECAY},
        evaluation__every_steps=None,
        checkpoint__every_steps=STEPS,
        parallel={"zero_stage": zero, "tensor_parallel_size": tensor, "sequence_parallel": sequence_parallel},
        batch={"global_batch_size": ROWS, "micro_batch_size": micro_batch_size},
    )


def name_of(processes: int, zero: int, tensor: int, sequence_parallel: bool) -> str:
    return f"on{processes}_zero{zero}_tp{tensor}{'_sp' * sequence_parallel}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    corpus = make_corpus(root / "corpus").path
    for processes, cuts in ((2, ON_TWO), (4, ON_FOUR)):
        configs = [config_of(root / name_of(processes, *cut), corpus, *cut) for cut in cuts]
        assert train_all(processes, *configs) == [[None] * len(configs)] * processes
    return root


@pytest.fixture(scope="module")
def plain(runs) -> tuple[dict[int, float], dict[int, float], dict[str, Tensor]]:
    (result,) = run_distributed(1, plain_training, runs / "corpus")
    return result


def assert_equal_training(run: Path, plain) -> None:
    losses, norms, parameters = plain
    assert curve(run) == pytest.approx(losses, rel=1e-6)
    assert curve(run, "grad_norm") == pytest.approx(norms, rel=1e-6)
    weights = load_weights(run / LAST)
    for name, expected in parameters.items():
        torch.testing.assert_close(weights[name], expected, rtol=1e-5, atol=5e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    "cut", [(2, *cut) for cut in ON_TWO] + [(4, *cut) for cut in ON_FOUR], ids=lambda cut: name_of(*cut)
)
def test_every_cut_of_the_work_equals_plain_pytorch(runs, plain, cut):
    assert_equal_training(runs / name_of(*cut), plain)
    assert plain[0][STEPS] < 0.8 * plain[0][1]
    assert max(plain[1].values()) > CLIP > min(plain[1].values())  # some steps are clipped, others are not


def test_micro_batches_and_unequal_targets_do_not_change_the_update(runs, plain, tmp_path):
    """One row at a time or all at once; and rows of one target per segment beside rows that are scored everywhere."""
    configs = [config_of(tmp_path / f"micro{size}", runs / "corpus", 1, 1, micro_batch_size=size) for size in (1, 8)]
    assert train_all(1, *configs) == [[None, None]]
    for config in configs:
        assert_equal_training(config.run_dir, plain)

    uneven = make_corpus(tmp_path / "uneven", prefix_len=uneven_prefix_len).path
    cuts = {1: [(0, 1, 8)], 2: [(1, 1, 1), (2, 1, 4)], 4: [(3, 1, 2), (2, 2, 1)]}
    for processes, settings in cuts.items():
        configs = [
            config_of(tmp_path / f"uneven{processes}_{zero}", uneven, zero, tensor, micro_batch_size=rows)
            for zero, tensor, rows in settings
        ]
        assert train_all(processes, *configs) == [[None] * len(configs)] * processes
    reference = tmp_path / "uneven1_0"
    for run in tmp_path.glob("uneven[24]_?"):
        assert curve(run) == pytest.approx(curve(reference), rel=1e-6)
        assert curve(run, "grad_norm") == pytest.approx(curve(reference, "grad_norm"), rel=1e-6)


def uneven_prefix_len(random: np.random.Generator, length: int) -> int:
    """All but the last token, or nothing."""
    return length - 1 if random.random() < 0.8 else 0
