"""A damaged checkpoint is found out, named and passed over, whatever was done to whichever of its files."""

import os
import random
import shutil
from pathlib import Path

import pytest
from tiny_checkpoint import make_checkpoint
from training import train_config

from foreword.errors import CheckpointError
from pipeline.checkpoint.choose import choose_checkpoint
from pipeline.checkpoint.find import find_checkpoint, newest_complete
from pipeline.checkpoint.headers import header_problems
from pipeline.checkpoint.inspect import verify_checkpoint
from pipeline.checkpoint.meta import META_NAME, damage, read_meta, write_meta
from pipeline.checkpoint.read import CheckpointReader
from pipeline.run.start import Start

FILES = ["tp_00_dp_000.safetensors", "tp_01_dp_000.safetensors", META_NAME]
TENSORS = FILES[:2]


@pytest.fixture
def run(tmp_path) -> Path:
    config = train_config(tmp_path / "run", tmp_path)
    for step in (1, 2):
        make_checkpoint(config.run_dir, step, config=config, tensor_parallel_size=2, seed=step)
    return config.run_dir


@pytest.fixture
def older(run) -> Path:
    return run / "checkpoints" / "step_00000001"


@pytest.fixture
def newest(run) -> Path:
    return run / "checkpoints" / "step_00000002"


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def make_unreadable(path: Path) -> None:
    """As a test can that may run as root, whom no permission stops."""
    path.unlink()
    path.mkdir()


def point_to_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def swap(path: Path) -> None:
    """With the older checkpoint's file of the same name: whole, and of another step."""
    shutil.copyfile(path.parent.with_name("step_00000001") / path.name, path)


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def bits_of(path: Path) -> int:
    return 8 * path.stat().st_size


def header_bytes(path: Path) -> int:
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", [truncate, empty, lengthen, Path.unlink, make_unreadable, point_to_nowhere])
def test_a_file_without_its_size_is_named_and_the_older_checkpoint_used(
    run, older, newest, name, harm, one_process, capsys
):
    harm(newest / name)
    assert choose_checkpoint(run, Start()) == older
    told = capsys.readouterr().err
    assert told.startswith(f"warning: checkpoint passed over: {newest}")
    assert name in told
    assert newest_complete(run) == older
    problems = verify_checkpoint(run)
    assert len(problems) == 1
    assert name in problems[0]
    with pytest.raises(CheckpointError, match=name):
        find_checkpoint(newest)


@pytest.mark.parametrize("name", TENSORS)
def test_a_bit_of_a_tensor_that_has_turned_is_found_by_the_hashes(run, older, newest, name, one_process, capsys):
    draw = random.Random(name)
    for _ in range(20):
        bit = draw.randrange(8 * header_bytes(newest / name), bits_of(newest / name))
        flip(newest / name, bit)
        assert choose_checkpoint(run, Start(verify=True)) == older
        assert f"checkpoint passed over: {newest / name}: its SHA-256 is" in capsys.readouterr().err
        (problem,) = verify_checkpoint(run)
        assert problem.startswith(f"{newest / name}: its SHA-256 is")
        flip(newest / name, bit)
    assert choose_checkpoint(run, Start(verify=True)) == newest


def test_a_bit_of_any_byte_of_a_header_that_has_turned_is_found_without_the_hashes(newest):
    meta, path = read_meta(newest), newest / TENSORS[1]
    for byte in range(header_bytes(path)):
        bit = 8 * byte + byte % 8
        flip(path, bit)
        (problem,) = header_problems(newest, meta)
        assert problem.startswith(f"{path}: ")
        flip(path, bit)
    assert header_problems(newest, meta) == []


@pytest.mark.parametrize("name", TENSORS)
def test_a_header_that_is_damaged_is_named_and_the_older_checkpoint_used(run, older, newest, name, one_process, capsys):
    flip(newest / name, 8 * 8)  # its opening brace
    assert choose_checkpoint(run, Start()) == older
    assert f"checkpoint passed over: {newest / name}: " in capsys.readouterr().err
    assert newest_complete(run) == older
    assert f"checkpoint passed over: {newest / name}: " in capsys.readouterr().err
    with pytest.raises(CheckpointError, match=name):
        find_checkpoint(newest)
    with CheckpointReader(newest, read_meta(newest)) as reader, pytest.raises(CheckpointError, match=name):
        for parameter in reader.meta.parameters:
            reader.read_full(parameter, "fp32")


def test_a_bit_of_foreword_json_that_has_turned_is_found(run, older, newest, one_process, capsys):
    path = newest / META_NAME
    draw = random.Random(META_NAME)
    for bit in [*range(0, 8 * 80, 3), *(draw.randrange(bits_of(path)) for _ in range(100))]:
        flip(path, bit)
        with pytest.raises(CheckpointError, match=META_NAME):
            read_meta(newest)
        flip(path, bit)
    flip(path, bits_of(path) // 2)
    assert choose_checkpoint(run, Start()) == older
    assert META_NAME in capsys.readouterr().err


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_checkpoint_is_found(run, older, newest, name, one_process, capsys):
    swap(newest / name)
    assert choose_checkpoint(run, Start(verify=True)) == older
    assert str(newest) in capsys.readouterr().err
    assert verify_checkpoint(older) == []
    assert verify_checkpoint(newest) != []


def test_a_checkpoint_that_was_copied_to_another_name_is_not_taken_for_a_later_one(run, newest, one_process, capsys):
    shutil.copytree(newest, run / "checkpoints" / "step_00000009")
    shutil.copytree(newest, run / "checkpoints" / "step_00000002.old")
    assert choose_checkpoint(run, Start()) == newest
    problem = f"{run / 'checkpoints' / 'step_00000009'}: this is the checkpoint of step 2 under another name"
    assert problem in capsys.readouterr().err
    assert verify_checkpoint(run) == [problem]


@pytest.mark.parametrize("harm", [truncate, lambda path: flip(path, 64), lambda path: flip(path, bits_of(path) - 5)])
def test_a_start_from_a_damaged_checkpoint_is_refused_with_the_damage_and_the_choice(run, newest, harm, one_process):
    harm(newest / TENSORS[1])
    with pytest.raises(CheckpointError) as caught:
        choose_checkpoint(run, Start(from_step=2, verify=True))
    assert str(newest / TENSORS[1]) in str(caught.value)
    assert str(caught.value).endswith("steps with a complete checkpoint: 1")


def test_a_marker_of_another_version_is_refused(newest):
    write_meta(newest, read_meta(newest).model_copy(update={"version": 2}))
    with pytest.raises(CheckpointError, match="version"):
        read_meta(newest)


def test_what_has_several_problems_has_a_line_for_each(newest):
    for name in TENSORS:
        truncate(newest / name)
    assert len(damage(newest, read_meta(newest))) == 2
