"""Mixed objectives on a blend of corpora, and rows with one target beside rows with many: one curve however it is cut.

The draws (objective, boundary, masked tokens) and the turns of the corpora are functions of the position in the run; so
neither processes, micro-batches nor a resume change what a step is about.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from stored_weights import load_weights
from tiny_corpus import make_corpus
from training import curve, fork_run, records, train_all, train_config

from data_prep.shards import Corpus
from pipeline.checkpoint.meta import read_meta
from pipeline.commands.evaluation import evaluate as evaluate_command
from pipeline.config.train import TrainConfig
from pipeline.data.corpora import open_corpora
from pipeline.data.rows import TrainingRows

STEPS, STOP, ROWS = 10, 5, 8
LAST = f"checkpoints/step_{STEPS:08d}"
MIX = {"causal": 1, "prefix": 1, "bidirectional": 1}
# processes -> (ZeRO stage, tensor-parallel size, micro-batch size)
CUTS = {1: [(0, 1, 8)], 2: [(1, 1, 2), (0, 2, 4)], 4: [(3, 1, 1), (2, 2, 2)]}
UNEVEN_CUTS = {1: [(0, 1, 8)], 2: [(1, 1, 4), (2, 1, 1)], 4: [(3, 1, 1)]}


def config_of(run: Path, data: dict, zero: int, tensor_parallel_size: int, micro_batch_size: int, **changes):
    return train_config(
        run,
        run,
        data=data | {"seed": 7},
        parallel={"zero_stage": zero, "tensor_parallel_size": tensor_parallel_size},
        batch={"global_batch_size": ROWS, "micro_batch_size": micro_batch_size},
        schedule={"total_steps": STEPS, "warmup_steps": 2},
        checkpoint__every_steps=STOP,
        **{"evaluation__every_steps": STEPS} | changes,
    )


def name_of(processes: int, cut: tuple[int, int, int]) -> str:
    return "on{}_zero{}_tp{}_micro{}".format(processes, *cut)


def mixed(root: Path, run: str, *cut: int) -> TrainConfig:
    corpora = {"large": {"path": str(root / "large"), "weight": 0.75}, "small": {"path": str(root / "small")}}
    corpora["small"]["weight"] = 0.25
    return config_of(root / run, {"corpora": corpora}, *cut, objective=MIX, boundaries={"policy": "uniform"})


def uneven(root: Path, run: str, *cut: int) -> TrainConfig:
    return config_of(root / f"uneven_{run}", {"corpus": str(root / "uneven")}, *cut)


def one_or_all(random: np.random.Generator, length: int) -> int:
    """All but the last token, or nothing."""
    return length - 1 if random.random() < 0.8 else 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Mixed: 80 rows, 60 from a corpus of 29, whose epochs end inside batches, and 20 from one of 13.

    Uneven: rows of one segment each, with one target or with all 32.
    """
    root = tmp_path_factory.mktemp("runs")
    make_corpus(root / "large", rows=29, seed=1)
    make_corpus(root / "small", rows=13, seed=2)
    make_corpus(root / "uneven", prefix_len=one_or_all, whole_rows=True)
    for processes in CUTS:
        configs = [mixed(root, name_of(processes, cut), *cut) for cut in CUTS[processes]]
        configs += [uneven(root, name_of(processes, cut), *cut) for cut in UNEVEN_CUTS[processes]]
        assert train_all(processes, *configs) == [[None] * len(configs)] * processes
    return root


def assert_same_training(run: Path, reference: Path) -> None:
    assert curve(run, "targets") == curve(reference, "targets")
    for key in ("loss", "grad_norm"):
        assert curve(run, key) == pytest.approx(curve(reference, key), rel=2e-6), key
    expected = load_weights(reference / LAST)
    for name, weight in load_weights(run / LAST).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-5, atol=5e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("processes", [2, 4])
def test_every_cut_of_a_mix_is_the_same_training(runs, processes):
    reference = runs / name_of(1, CUTS[1][0])
    for cut in CUTS[processes]:
        assert_same_training(runs / name_of(processes, cut), reference)
    losses = curve(reference)
    assert losses[STEPS] < losses[1]


def test_the_mix_is_one(runs):
    """Each step has rows of both corpora; and segments of all three objectives are among its rows."""
    config = mixed(runs, "unused", 0, 1, 8)
    rows = TrainingRows(open_corpora(config), config)
    batch = rows.batch_at(np.arange(STEPS * ROWS))
    assert (batch.corpus_ids.reshape(STEPS, ROWS).sum(1) % ROWS > 0).all()
    length, prefix_len = batch.segments_G3[:, 1], batch.segments_G3[:, 2]
    for found in (prefix_len == 0, (prefix_len > 0) & (prefix_len < length), prefix_len == length):
        assert found.mean() > 0.1
    _, _, epoch = rows.places_at(np.arange(STEPS * ROWS))
    assert epoch[: STOP * ROWS].max() == 1
    assert epoch.max() == 2


def test_resuming_a_mix_elsewhere_and_past_an_epoch_s_end_continues_the_curve(runs, tmp_path):
    """On one process, from four with ZeRO 3; and on two, from one; with other micro-batches."""
    for source, processes, cut in (
        (name_of(4, CUTS[4][0]), 1, (1, 1, 4)),
        (name_of(1, CUTS[1][0]), 2, (2, 1, 1)),
    ):
        run = fork_run(runs / source, tmp_path / source, STOP)
        config = mixed(runs, str(run), *cut)
        assert train_all(processes, config) == [[None]] * processes
        starts = [record["resumed_from"] for record in records(run) if record.get("event") == "start"]
        assert starts == [None, str(run / "checkpoints" / f"step_{STOP:08d}")]
        assert curve(run, "targets") == curve(runs / source, "targets")
        assert curve(run) == pytest.approx(curve(runs / source), rel=1e-5)


def test_a_mixed_run_is_validated_on_each_corpus_and_evaluated_like_any_other(runs):
    """The validation losses of the blend are the corpora's by their weights; `foreword eval` scores one corpus."""
    run = runs / name_of(1, CUTS[1][0])
    (measured,) = [record for record in records(run) if record.get("event") == "validation"]
    told = CliRunner().invoke(evaluate_command, [str(run), "--data", str(runs / "large"), "--json"])
    for reading in ("causal", "prefix"):
        together = 0.75 * measured[f"large/{reading}_loss"] + 0.25 * measured[f"small/{reading}_loss"]
        assert measured[f"{reading}_loss"] == pytest.approx(together)
        targets = json.loads(told.stdout)[reading]["targets"]
        assert targets == Corpus.open(runs / "large").manifest.splits["valid"].targets
    assert read_meta(run / LAST).validation_loss == measured["prefix_loss"]


@pytest.mark.parametrize("processes", [2, 4])
def test_ranks_with_one_target_beside_ranks_with_many_make_the_same_update(runs, processes):
    """Dividing by a rank's or a micro-batch's own count would show."""
    reference = runs / f"uneven_{name_of(1, UNEVEN_CUTS[1][0])}"
    for cut in UNEVEN_CUTS[processes]:
        assert_same_training(runs / f"uneven_{name_of(processes, cut)}", reference)


def test_the_uneven_rows_are_so(runs):
    config = uneven(runs, "unused", 0, 1, 8)
    loss_mask_BS = TrainingRows(open_corpora(config), config).batch_at(np.arange(STEPS * ROWS)).loss_mask_BS
    per_row = loss_mask_BS.sum(1).reshape(STEPS, ROWS)
    assert sorted(set(per_row.flatten().tolist())) == [1, 32]
    of_four_ranks = per_row.reshape(STEPS, 4, 2).sum(2)
    assert (of_four_ranks.amax(1) >= 16 * of_four_ranks.amin(1)).any()
