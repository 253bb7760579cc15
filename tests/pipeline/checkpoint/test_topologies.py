"""Any topology continues from any other's checkpoint: the same bits after loading, and one curve from there on.

{ZeRO 0, 1, 2, 3} x {tensor-parallel size 1, 2} x {1, 2, 4 processes}, as far as they fit together, are 20 topologies.
One run goes through all of them, two steps in each, over several epochs; then some of them load what the others wrote.
"""

from itertools import pairwise
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from processes import run_distributed
from safetensors.torch import load_file
from tiny_corpus import make_corpus
from tiny_gpt2 import save_tokenizer_files
from training import curve, train_all, train_config

from data_prep.tokenizers import load_tokenizer
from pipeline.checkpoint.find import complete_checkpoints, step_directory
from pipeline.checkpoint.inspect import verify_checkpoint
from pipeline.checkpoint.meta import Topology, read_meta
from pipeline.weights.compare import compare
from pipeline.weights.hugging_face import export_weights
from pipeline.weights.pretrained import Pretrained

Cut = tuple[int, int, int]  # processes, ZeRO stage, tensor-parallel size

TOPOLOGIES = [(n, zero, tp) for n in (1, 2, 4) for zero in (0, 1, 2, 3) for tp in (1, 2) if tp <= n]
# 11 and 20 have no common divisor, so all are visited
CHAIN = [TOPOLOGIES[11 * i % len(TOPOLOGIES)] for i in range(len(TOPOLOGIES))]
READERS = [(1, 0, 1), (1, 3, 1), (2, 0, 2), (2, 1, 1), (2, 3, 2), (4, 1, 2), (4, 2, 1), (4, 3, 1)]
STEPS_EACH = 2
STEPS = STEPS_EACH * len(CHAIN)
EPOCH_STEPS = 6  # 48 rows, 8 a step


def test_the_chain_goes_through_every_topology_and_changes_whatever_can_change():
    changes = [{(a[key], b[key]) for a, b in pairwise(CHAIN) if a[key] != b[key]} for key in range(3)]
    assert sorted(CHAIN) == sorted(TOPOLOGIES)
    assert all(before[0] != after[0] for before, after in pairwise(CHAIN))
    assert [len(kinds) for kinds in changes] == [6, 11, 2]  # of 6, 12 and 2: READERS go from ZeRO 3 to 0
    assert STEPS > 5 * EPOCH_STEPS


def chain_config(run_dir: Path, corpus: Path, topology: Cut, total_steps: int, **changes):
    _, zero_stage, tensor_parallel_size = topology
    return train_config(
        run_dir,
        corpus,
        parallel__zero_stage=zero_stage,
        parallel__tensor_parallel_size=tensor_parallel_size,
        schedule={"kind": "constant", "warmup_steps": 1, "total_steps": total_steps},
        checkpoint={"every_steps": STEPS, "keep_last": 2 * len(CHAIN)},
        evaluation__every_steps=None,
        **changes,
    )


def partition_matrices() -> None:
    """ZeRO 3 keeps small parameters whole, and here all would be small: let only the vectors be."""
    from pipeline.engine import deepspeed

    real = deepspeed.deepspeed_settings

    def settings(*args) -> dict:
        found = real(*args)
        found["zero_optimization"]["stage3_param_persistence_threshold"] = 1000
        return found

    mock.patch.object(deepspeed, "deepspeed_settings", settings).start()  # until this process ends


def train_partitioned(config) -> None:
    from pipeline.train import train

    partition_matrices()
    train(config)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """`whole`, an uninterrupted run on one process, and `chain`."""
    root = tmp_path_factory.mktemp("topologies")
    corpus = make_corpus(root / "corpus").path
    # two steps more, for those who continue from the chain's end
    whole = chain_config(root / "whole", corpus, (1, 0, 1), STEPS + 2, checkpoint__every_steps=STEPS_EACH)
    assert train_all(1, whole) == [[None]]
    for number, topology in enumerate(CHAIN, start=1):
        config = chain_config(root / "chain", corpus, topology, STEPS_EACH * number)
        run_distributed(topology[0], train_partitioned, config)
    return root


def test_a_run_that_changes_its_topology_at_every_start_continues_one_curve(root):
    chain, whole = curve(root / "chain"), curve(root / "whole")
    assert sorted(chain) == list(range(1, STEPS + 1))
    for step, loss in chain.items():
        assert loss == pytest.approx(whole[step], rel=1e-5), (step, CHAIN[(step - 1) // STEPS_EACH])
    assert whole[STEPS] < 0.1 * whole[1]


def test_its_checkpoints_are_whole_and_say_who_wrote_them(root):
    assert verify_checkpoint(root / "chain") == []
    written = [read_meta(path) for _, path in complete_checkpoints(root / "chain")]
    topologies = [meta.topology for meta in written]
    assert [(t.world_size, t.zero_stage, t.tensor_parallel_size) for t in topologies] == CHAIN
    assert [meta.optimizer_steps for meta in written] == list(range(2, STEPS + 1, 2))
    assert [meta.progress.samples_consumed for meta in written] == list(range(16, 8 * STEPS + 1, 16))


def test_after_all_changes_weights_and_moments_are_those_of_the_uninterrupted_run(root, tmp_path):
    config = chain_config(tmp_path / "whole", root / "corpus", (1, 0, 1), STEPS)
    assert train_all(1, config) == [[None]]
    comparison = compare(tmp_path / "whole", root / "chain")
    assert (comparison.facts, comparison.structure) == ({}, [])  # steps, samples, tokens
    tolerances = {"fp32": 5e-6, "exp_avg": 2e-7, "exp_avg_sq": 2e-8}
    for difference in comparison.differences:
        assert difference.max_abs < tolerances[difference.kind], difference


def test_every_topology_exports_the_weights_of_the_uninterrupted_run_and_needs_no_processes(
    root, tmp_path, monkeypatch
):
    save_tokenizer_files(tmp_path / "bytes")
    tokenizer = load_tokenizer(tmp_path / "bytes")  # the tiny corpus has none
    monkeypatch.setattr(Pretrained, "load_tokenizer", lambda self: tokenizer)
    assert not dist.is_initialized()
    for number, topology in enumerate(CHAIN, start=1):
        exported = []
        for run in ("whole", "chain"):
            out = tmp_path / f"{run}-{number}"
            export_weights(step_directory(root / run, STEPS_EACH * number), out)
            exported.append(load_file(out / "model.safetensors"))
        torch.testing.assert_close(*exported, rtol=0, atol=5e-6, msg=lambda why, cut=topology: f"{cut}: {why}")
    assert not dist.is_initialized()


def load_save_and_step(config, sources: list[Path], out: Path) -> list[list[float]]:
    """Load one checkpoint after the other into the same engine, save each again as it is, and take two steps.

    Returns:
        The losses of the two steps, for each checkpoint.
    """
    from pipeline.checkpoint.restore import restore
    from pipeline.checkpoint.save import Saver
    from pipeline.checkpoint.workspace import Workspace
    from pipeline.data.corpora import open_corpora
    from pipeline.data.loader import TrainLoader
    from pipeline.data.rows import TrainingRows
    from pipeline.data.share import Share
    from pipeline.distributed.agreement import main_rank
    from pipeline.distributed.parallel import initialize
    from pipeline.engine import Engine
    from pipeline.model import build_model
    from pipeline.run.lease import acquire
    from pipeline.schedule import Schedule

    partition_matrices()
    parallel = initialize(config.parallel.tensor_parallel_size)
    corpora = open_corpora(config)
    schedule = Schedule(config.schedule, config.optimizer.lr, config.batch, corpora.sequence_length)
    share = Share.of(parallel, schedule)
    model = build_model(config.model, corpora.tokenizer.vocab_size, seed=999)  # no weight that comes by itself
    engine = Engine(model, config, parallel, share.max_accumulation_steps)
    topology = Topology(
        world_size=parallel.world_size,
        tensor_parallel_size=parallel.tensor_parallel_size,
        data_parallel_size=parallel.data_parallel_size,
        zero_stage=config.parallel.zero_stage,
        precision=config.precision,
    )
    lease = acquire(out, 5.0) if parallel.is_main else None
    workspace = Workspace(out, 1)
    main_rank(workspace.open)
    losses: list[list[float]] = []
    with Saver(engine, workspace, config.checkpoint, lease) as saver:
        for source in sources:
            meta = restore(source, engine)
            saver.begin(meta.model_copy(update={"topology": topology}))
            while saver.in_flight:
                saver.advance()
            progress = meta.progress
            loader = TrainLoader(
                TrainingRows(corpora, config),
                share,
                samples_consumed=progress.samples_consumed,
                batch_sizes=schedule.batch_sizes(*progress.position),
            )
            losses.append([])
            for _ in range(2):
                micro_batches = next(loader)
                targets = torch.tensor(sum(batch.num_targets for batch in micro_batches))
                dist.all_reduce(targets, group=parallel.data_parallel_group)
                lr = schedule.learning_rate(*progress.position)
                losses[-1].append(engine.step(micro_batches, int(targets), lr).loss)
                progress = progress.after_step(8, 0, 0, skipped=False)
            loader.close()
    parallel.destroy()
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: "{}_processes_zero{}_tp{}".format(*reader))
def test_what_any_of_the_others_wrote_is_loaded_to_the_bit_and_continued(root, tmp_path, reader):
    sources = [step_directory(root / "chain", STEPS_EACH * (CHAIN.index(other) + 1)) for other in READERS]
    config = chain_config(tmp_path / "run", root / "corpus", reader, STEPS + 2)
    all_losses = run_distributed(reader[0], load_save_and_step, config, sources, tmp_path / "again")
    whole = curve(root / "whole")
    for source, losses in zip(sources, all_losses[0], strict=True):
        again = tmp_path / "again" / "checkpoints" / source.name
        assert compare(source, again).same, source
        step = read_meta(source).progress.step
        assert losses == pytest.approx([whole[step + 1], whole[step + 2]], rel=1e-5), source


@pytest.mark.parametrize("reader", [(2, 0, 1), (2, 1, 2), (2, 3, 1)])
def test_the_masters_of_bf16_are_loaded_to_the_bit(root, tmp_path, reader):
    sources = [step_directory(root / "chain", step) for step in (2, STEPS)]
    config = chain_config(tmp_path / "run", root / "corpus", reader, STEPS + 2, precision="bf16")
    ((first, last), *_) = run_distributed(reader[0], load_save_and_step, config, sources, tmp_path / "again")
    whole = curve(root / "whole")
    for source in sources:
        assert compare(source, tmp_path / "again" / "checkpoints" / source.name).same, source
    assert first == pytest.approx([whole[3], whole[4]], rel=1e-2)
    assert last == pytest.approx([whole[STEPS + 1], whole[STEPS + 2]], rel=5e-2)
