"""What a start does with the checkpoints that are there, as the options say, and that nothing is ever lost by it."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from processes import run_distributed
from training import HALF, STEPS, curve, finished_run, records

from foreword.errors import ConfigError
from pipeline.checkpoint.choose import choose_checkpoint
from pipeline.checkpoint.find import complete_checkpoints
from pipeline.checkpoint.inspect import verify_checkpoint
from pipeline.commands.train import train as train_command
from pipeline.run.start import Start

NEWEST, OLDER = f"step_{STEPS:08d}", f"step_{HALF:08d}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A finished run on two processes, with its corpus and its configuration."""
    return finished_run(tmp_path_factory.mktemp("finished"), 2)


@pytest.fixture
def start(finished, tmp_path, run_alone):
    """Starts training in a copy of the finished run, whose directory is `start.run`."""
    run = shutil.copytree(finished / "run", tmp_path / "run")

    def call(*arguments: str):
        return run_alone(finished / "c.yaml", f"run_dir={run}", *arguments)

    call.run = run
    return call


def steps_of(run: Path) -> list[int]:
    return [step for step, _ in complete_checkpoints(run)]


def files_of(run: Path) -> list[Path]:
    """All but those that tell who trained last: every start leaves a mark there."""
    return sorted(path for path in run.rglob("*") if ".lease" not in path.parts)


def flip_a_bit(checkpoint: Path) -> Path:
    path = min(checkpoint.glob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    return path


def test_from_goes_back_and_sets_aside_what_came_later(finished, start):
    result = start("--from", str(HALF))
    assert result.code == 0, result.errors
    assert f"resumed from {start.run / 'checkpoints' / OLDER}" in result.errors
    aside = start.run / "set_aside" / "001"
    assert f"set aside, and yours to remove: {aside}" in result.errors
    assert curve(start.run) == pytest.approx(curve(finished / "run"), rel=1e-5)
    assert steps_of(aside) == [STEPS]
    assert verify_checkpoint(aside) == []
    assert curve(aside) == {step: loss for step, loss in curve(finished / "run").items() if step > HALF}
    assert (aside / "tokenizer").is_dir()
    later = [record for record in records(finished / "run") if record["step"] > HALF]
    assert records(aside) == later
    assert not any(record in records(start.run) for record in later)


def test_from_a_step_that_has_no_whole_checkpoint_names_those_that_have(start):
    before = files_of(start.run)
    result = start("--from", "5")
    assert result.code == 3
    assert f"steps with a complete checkpoint: {HALF}, {STEPS}" in result.errors
    assert files_of(start.run) == before


def test_fresh_begins_at_step_0_and_sets_the_old_run_aside(finished, start):
    result = start("--fresh", f"schedule.total_steps={HALF}")
    assert result.code == 0, result.errors
    assert "a new run in" in result.errors
    aside = start.run / "set_aside" / "001"
    assert records(aside) == records(finished / "run")
    assert steps_of(aside) == [HALF, STEPS]
    assert verify_checkpoint(aside) == []
    assert steps_of(start.run) == [HALF]
    assert sorted(curve(start.run)) == list(range(1, HALF + 1))

    assert start("--fresh").code == 0
    assert steps_of(start.run / "set_aside" / "002") == [HALF]


def test_no_resume_refuses_when_there_is_something_to_resume(start):
    result = start("--no-resume")
    assert result.code == 2
    assert f"there are checkpoints up to step {STEPS}, and --no-resume was given" in result.errors
    shutil.rmtree(start.run / "checkpoints")
    assert start("--no-resume", f"schedule.total_steps={HALF}").code == 0


def test_options_that_contradict_each_other_are_refused(start):
    result = start("--fresh", "--from", "4")
    assert result.code == 2
    assert "--from 4 and --fresh exclude each other" in result.errors


def test_verify_finds_a_flipped_bit_and_passes_to_the_older_checkpoint(start):
    broken = flip_a_bit(start.run / "checkpoints" / NEWEST)
    result = start("--verify")
    assert result.code == 0, result.errors
    assert f"checkpoint passed over: {broken}: its SHA-256 is" in result.errors
    assert f"resumed from {start.run / 'checkpoints' / OLDER}" in result.errors
    assert verify_checkpoint(start.run) == []


def test_a_run_whose_checkpoints_are_all_broken_is_not_begun_again_by_itself(start):
    for _, checkpoint in complete_checkpoints(start.run):
        flip_a_bit(checkpoint)
    result = start("--verify")
    assert result.code == 3
    assert "the run has checkpoints, and none is whole" in result.errors
    for checkpoint in (start.run / "checkpoints").iterdir():
        (checkpoint / "foreword.json").unlink()
    result = start()
    assert result.code == 3
    assert "the run has checkpoints, and none is whole" in result.errors


def chosen(run_dir: Path, start: Start) -> str | None:
    from pipeline.distributed.parallel import initialize

    parallel = initialize()
    checkpoint = choose_checkpoint(run_dir, start)
    parallel.destroy()
    return None if checkpoint is None else checkpoint.name


def test_ranks_verify_together_and_agree(start):
    flip_a_bit(start.run / "checkpoints" / NEWEST)
    assert run_distributed(4, chosen, start.run, Start(verify=True)) == [OLDER] * 4
    assert run_distributed(4, chosen, start.run, Start()) == [NEWEST] * 4


def test_a_job_that_comes_back_from_the_queue_does_not_begin_again(start, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert start("--fresh", f"schedule.total_steps={HALF}").code == 0
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    again = start("--fresh")
    assert again.code == 0, again.errors
    assert f"resumed from {start.run / 'checkpoints' / OLDER}" in again.errors
    assert not (start.run / "set_aside" / "002").exists()

    monkeypatch.setenv("SLURM_JOB_ID", "18")  # restarted before it had begun
    assert "a new run in" in start("--fresh").errors


def test_a_job_that_was_told_not_to_resume_comes_back_to_its_own_checkpoints(start, monkeypatch):
    shutil.rmtree(start.run / "checkpoints")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert start("--no-resume", f"schedule.total_steps={HALF}").code == 0
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert start("--no-resume").code == 0
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    assert start("--no-resume").code == 2


@pytest.mark.parametrize("start", [Start(), Start(from_step=7, verify=True), Start(fresh=True), Start(no_resume=True)])
def test_a_start_written_as_arguments_is_read_as_the_same_start(start, monkeypatch):
    """The launcher and the job's script pass it on in this form."""
    seen = []
    monkeypatch.setattr(train_command, "callback", lambda **options: seen.append(options))
    CliRunner().invoke(train_command, [*start.arguments(), "c.yaml", "a=1"], catch_exceptions=False)
    (options,) = seen
    assert Start(*(options[name] for name in ("from_step", "fresh", "no_resume", "verify"))) == start
    assert (options["config"], options["overrides"]) == ("c.yaml", ("a=1",))


def test_exclusions_are_those_of_the_class():
    with pytest.raises(ConfigError, match="--fresh and --no-resume exclude each other"):
        Start(fresh=True, no_resume=True)
