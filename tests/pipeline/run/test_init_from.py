"""A new run begins with another one's weights, and with as much of its optimizer and position as it is told to keep."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from stored_weights import load_weights
from tiny_checkpoint import make_checkpoint
from tiny_corpus import VOCAB_SIZE, make_corpus
from training import HALF, STEPS, curve, fork_run, records, train_all, train_config

from data_prep.manifest import FileInfo, Manifest
from foreword.errors import CheckpointError, ConfigError
from foreword.files import sha256_of
from pipeline.checkpoint.meta import MOMENTS, BlendPart, CorpusIdentity, read_meta
from pipeline.checkpoint.read import CheckpointReader
from pipeline.config.run import InitFrom
from pipeline.config.train import TrainConfig
from pipeline.run.init_from import find_origin
from pipeline.schedule import Schedule
from pipeline.weights.directory import META_NAME, WEIGHTS_NAME, WeightsMeta

SHORT = {"schedule__total_steps": 4, "schedule__warmup_steps": 0, "checkpoint__every_steps": 2, "objective": "prefix"}
CAUSAL = {"objective": "causal"}
ZERO3_TP2 = {"parallel": {"zero_stage": 3, "tensor_parallel_size": 2}}
BF16_AT_REST = {"precision": "bf16", "optimizer__lr": 1e-30, "schedule__total_steps": 1}


def step(number: int) -> str:
    return f"checkpoints/step_{number:08d}"


def save_weights_alone(checkpoint: Path, corpus: Path, out: Path) -> Path:
    """A weights directory of what a checkpoint holds; its tokenizer has no files that could be loaded."""
    out.mkdir()
    meta = read_meta(checkpoint)
    save_file(load_weights(checkpoint), out / WEIGHTS_NAME)
    file = FileInfo(size=(out / WEIGHTS_NAME).stat().st_size, sha256=sha256_of(out / WEIGHTS_NAME))
    weights = WeightsMeta(
        model=meta.config["model"],
        vocab_size=VOCAB_SIZE,
        objective={"causal": 1.0},
        tokenizer=Manifest.load(corpus).tokenizer.model_copy(update={"files": {}}),
        source="a test",
        files={WEIGHTS_NAME: file},
    )
    (out / META_NAME).write_text(weights.model_dump_json())
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A causal run, and runs that begin with what it has left."""
    root = tmp_path_factory.mktemp("runs")
    corpus = make_corpus(root / "corpus").path
    source = train_config(root / "source", corpus, **CAUSAL)
    assert train_all(2, source) == [[None]] * 2
    weights = save_weights_alone(root / "source" / step(STEPS), corpus, root / "imported")

    def begin(name: str, path: Path, optimizer: str = "reset", position: str = "reset", **changes: Any) -> TrainConfig:
        init_from = {"path": str(path), "optimizer": optimizer, "position": position}
        return train_config(root / name, corpus, init_from=init_from, **changes)

    middle, end = root / "source" / step(HALF), root / "source"
    configs = [
        begin("same", middle, "keep", "keep", **CAUSAL),
        begin("same_elsewhere", middle, "keep", "keep", **CAUSAL, **ZERO3_TP2),
        begin("position", middle, "reset", "keep", **CAUSAL, parallel={"zero_stage": 0}),
        begin("optimizer", end, "keep", "reset", **SHORT, parallel={"zero_stage": 2}),
        begin("neither", end, **SHORT),
        begin("weights", weights, **SHORT),
        begin("weights_elsewhere", weights, **SHORT, **ZERO3_TP2),
        begin("bf16", end, **(SHORT | BF16_AT_REST)),
    ]
    assert train_all(2, *configs) == [[None] * len(configs)] * 2
    return root


def test_keeping_everything_is_going_on(runs):
    """The curve behind step 4 is the source's: to the bit on the same topology."""
    going_on = {number: loss for number, loss in curve(runs / "source").items() if number > HALF}
    assert curve(runs / "same") == going_on
    assert curve(runs / "same_elsewhere") == pytest.approx(going_on, rel=1e-5)
    ours, theirs = (read_meta(runs / name / step(STEPS)) for name in ("same", "source"))
    assert ours.progress == theirs.progress
    assert ours.optimizer_steps == theirs.optimizer_steps == STEPS


def test_keeping_the_position_alone_goes_on_in_schedule_and_data_with_an_optimizer_that_is_new(runs):
    assert min(curve(runs / "position")) == HALF + 1
    for key in ("lr", "targets", "samples_consumed", "tokens_consumed"):
        behind = {number: value for number, value in curve(runs / "source", key).items() if number > HALF}
        assert curve(runs / "position", key) == behind
    assert read_meta(runs / "position" / step(STEPS)).optimizer_steps == STEPS - HALF
    kept, reset = curve(runs / "same"), curve(runs / "position")
    assert reset[HALF + 1] == kept[HALF + 1]  # the same weights on the same rows
    assert reset[HALF + 2] != pytest.approx(kept[HALF + 2], rel=1e-5)


def test_keeping_the_optimizer_alone_begins_at_the_first_step_with_moments_and_their_count(runs):
    for name, updates_before in (("optimizer", STEPS), ("neither", 0)):
        assert sorted(curve(runs / name)) == [1, 2, 3, 4]
        meta = read_meta(runs / name / step(4))
        assert meta.optimizer_steps == updates_before + 4
        assert (meta.progress.step, meta.progress.samples_consumed) == (4, 32)
    kept, reset = curve(runs / "optimizer"), curve(runs / "neither")
    assert reset[1] == kept[1]
    assert reset[2] != pytest.approx(kept[2], rel=1e-5)


def test_another_objective_goes_on_from_what_was_learned(runs):
    """A causal model that is adapted to prefixes begins far below where one with drawn weights does."""
    assert curve(runs / "neither")[1] < 0.95 * curve(runs / "source")[1]


def test_weights_without_a_run_begin_as_those_of_a_checkpoint_do(runs):
    assert curve(runs / "weights") == curve(runs / "neither")
    assert curve(runs / "weights_elsewhere") == pytest.approx(curve(runs / "neither"), rel=1e-5)


def test_in_bf16_the_masters_are_the_weights_that_were_given(runs):
    """And not what bf16 makes of them; the learning rate of this run is as good as none."""
    given, begun = (load_weights(runs / place) for place in (f"source/{step(STEPS)}", f"bf16/{step(1)}"))
    for name, weight in given.items():
        torch.testing.assert_close(begun[name], weight, rtol=0, atol=1e-25)
    with CheckpointReader(runs / "bf16" / step(1), meta := read_meta(runs / "bf16" / step(1))) as reader:
        assert all(reader.read_full(name, MOMENTS[1]).abs().max() < 1.0 for name in meta.parameters)


def test_where_it_came_from_is_recorded_and_kept(runs):
    source = runs / "source" / step(HALF)
    (start,) = [record for record in records(runs / "same") if record.get("event") == "start"]
    assert (start["step"], start["resumed_from"]) == (HALF, None)
    assert start["origin"] == {
        "path": str(source),
        "meta_sha256": sha256_of(source / "foreword.json"),
        "objective": "causal",
        "progress": read_meta(source).progress.model_dump(),
        "optimizer": "keep",
        "position": "keep",
    }
    origin = read_meta(runs / "same" / step(STEPS)).origin
    assert origin is not None
    assert origin.model_dump(mode="json") == start["origin"]
    assert read_meta(runs / "source" / step(STEPS)).origin is None
    (start,) = [record for record in records(runs / "weights") if record.get("event") == "start"]
    assert (start["origin"]["path"], start["origin"]["progress"]) == (str(runs / "imported"), None)


def test_a_run_goes_on_from_its_own_checkpoints_and_needs_its_origin_no_more(runs, tmp_path, run_alone):
    run = fork_run(runs / "neither", tmp_path / "run", 2)
    config = yaml.safe_load((runs / "neither" / "config.yaml").read_text())
    assert config["init_from"] == {"path": str(runs / "source"), "optimizer": "reset", "position": "reset"}
    config["init_from"]["path"] = str(tmp_path / "gone")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    result = run_alone(tmp_path / "c.yaml", f"run_dir={run}")
    assert result.code == 0, result.errors
    assert f"resumed from {run / step(2)}" in result.errors
    assert "init_from has no effect: the run continues from its own checkpoint" in result.errors
    assert curve(run) == pytest.approx(curve(runs / "neither"), rel=1e-5)
    assert read_meta(run / step(4)).origin == read_meta(runs / "neither" / step(4)).origin


def test_the_short_form_takes_the_weights_of_the_newest_checkpoint(runs, tmp_path, run_alone):
    config = yaml.safe_load((runs / "source" / "config.yaml").read_text())
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    overrides = [f"run_dir={tmp_path / 'run'}", f"init_from={runs / 'source'}", "objective=prefix"]
    overrides += ["schedule.total_steps=1", "schedule.warmup_steps=0"]
    result = run_alone(tmp_path / "c.yaml", *overrides)
    assert result.code == 0, result.errors
    newest = runs / "source" / step(STEPS)
    assert f"its weights are those of {newest} (step {STEPS}), trained with objective causal" in result.errors
    assert "optimizer reset, position reset: it begins after step 0" in result.errors
    assert curve(tmp_path / "run")[1] == pytest.approx(curve(runs / "neither")[1], rel=1e-5)


def test_a_refused_beginning_leaves_the_run_directory_as_it_was(runs, tmp_path, run_alone):
    config = yaml.safe_load((runs / "source" / "config.yaml").read_text())
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    run = shutil.copytree(runs / "neither", tmp_path / "run")
    result = run_alone(tmp_path / "c.yaml", "--fresh", f"run_dir={run}", f"init_from={tmp_path / 'nothing'}")
    assert result.code == 3
    assert f"{tmp_path / 'nothing'}: neither a checkpoint nor a run with a complete one" in result.errors
    assert not (run / "set_aside").exists()
    assert curve(run) == curve(runs / "neither")


# what is refused, and why: from a checkpoint of step 3 that was written by hand

IDENTITY = CorpusIdentity(
    parts=(BlendPart(name="corpus", path="/c", manifest_sha256="aa", weight=1),),
    tokenizer_sha256="t",
    vocab_size=VOCAB_SIZE,
    sequence_length=32,
)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return make_checkpoint(tmp_path / "source", 3, config=train_config(tmp_path / "source", tmp_path), corpus=IDENTITY)


def find(path: Path, tmp_path: Path, corpus: CorpusIdentity = IDENTITY, keep: str = "", **changes: Any) -> Any:
    config = train_config(tmp_path / "run", tmp_path, **changes)
    schedule = Schedule(config.schedule, 1.0, config.batch, corpus.sequence_length)
    return find_origin(InitFrom(path=path, **dict.fromkeys(keep.split(), "keep")), config, corpus, schedule)


def test_what_is_found_is_what_was_asked_for(checkpoint, tmp_path):
    origin = find(checkpoint.parent.parent, tmp_path, keep="optimizer position")
    assert (origin.path, origin.optimizer, origin.position) == (str(checkpoint), "keep", "keep")
    assert origin.objective == {"prefix": 1.0}
    assert origin.progress.step == 3
    assert find(checkpoint, tmp_path).optimizer == find(checkpoint, tmp_path).position == "reset"


def test_a_model_of_another_shape_vocabulary_or_tokenizer_is_refused_with_every_difference(checkpoint, tmp_path):
    model = {"num_layers": 3, "hidden_size": 32, "num_attention_heads": 8, "max_position_embeddings": 32}
    other = IDENTITY.model_copy(update={"vocab_size": 300, "tokenizer_sha256": "u"})
    with pytest.raises(CheckpointError, match="these weights are of another model:") as caught:
        find(checkpoint, tmp_path, other, model=model)
    for line in (
        "model.num_layers: 2 there, 3 in this run",
        "model.num_attention_heads: 4 there, 8 in this run",
        "rows of the embedding: 128 there, 384 in this run",
        "tokenizer sha256: t there, u in this run",
    ):
        assert line in str(caught.value)
    assert "hidden_size" not in str(caught.value)


def test_how_other_weights_would_have_been_drawn_does_not_matter(checkpoint, tmp_path):
    find(checkpoint, tmp_path, model__initializer_range=0.5)


def test_a_position_in_other_data_is_refused_with_the_difference(checkpoint, tmp_path):
    part = IDENTITY.parts[0].model_copy(update={"manifest_sha256": "bb"})
    other = IDENTITY.model_copy(update={"parts": (part,)})
    with pytest.raises(ConfigError, match="is one in the order of other data:\n  corpus manifest_sha256: aa") as caught:
        find(checkpoint, tmp_path, other, keep="position")
    assert caught.value.where == "init_from.position"
    with pytest.raises(ConfigError, match=r"data\.seed: 7 in the checkpoint, 8 now"):
        find(checkpoint, tmp_path, keep="position", data__seed=8)
    find(checkpoint, tmp_path, other, keep="optimizer", data__seed=8)


def test_a_position_behind_the_schedule_s_end_is_refused(checkpoint, tmp_path):
    with pytest.raises(ConfigError, match=r"the schedule, of 3 steps, is over at the position of .*: step 3") as caught:
        find(checkpoint, tmp_path, keep="position", schedule__total_steps=3)
    assert "make schedule.total_steps larger" in str(caught.value)


@pytest.mark.parametrize("keep", ["optimizer", "position", "optimizer position"])
def test_weights_without_a_run_have_nothing_to_keep(runs, tmp_path, keep):
    config = train_config(tmp_path / "run", runs / "corpus")
    corpus = IDENTITY.model_copy(update={"tokenizer_sha256": Manifest.load(runs / "corpus").tokenizer.sha256})
    schedule = Schedule(config.schedule, 1.0, config.batch, 32)
    init = InitFrom(path=runs / "imported", **dict.fromkeys(keep.split(), "keep"))
    what = keep.replace(" ", " and no ")
    with pytest.raises(ConfigError, match=f"holds weights alone: there is no {what} to keep"):
        find_origin(init, config, corpus, schedule)


def test_a_run_does_not_begin_with_itself(tmp_path):
    own = make_checkpoint(tmp_path / "run", 3, config=train_config(tmp_path / "run", tmp_path), corpus=IDENTITY)
    with pytest.raises(ConfigError, match="lies in the run's own directory"):
        find(own, tmp_path)


def test_damage_is_found_on_request(checkpoint, tmp_path):
    (path,) = checkpoint.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    config = train_config(tmp_path / "run", tmp_path)
    arguments = InitFrom(path=checkpoint), config, IDENTITY, Schedule(config.schedule, 1.0, config.batch, 32)
    find_origin(*arguments)
    with pytest.raises(CheckpointError, match="its SHA-256 is"):
        find_origin(*arguments, verify=True)
