"""`foreword cancel`: jobs save first, and none of them comes back."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fake_slurm import FakeSlurm

from foreword.cli import foreword
from foreword.errors import ConfigError, DataError, MachineError
from slurm.events import append_event, read_events


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    append_event(tmp_path / "run", "12", "submitted", kind="train")
    (tmp_path / "run" / "slurm" / "train-ab.sbatch").touch()
    return tmp_path / "run"


def cancel(run_dir: Path, *options: str) -> Result:
    return CliRunner().invoke(foreword, ["cancel", str(run_dir), *options])


def test_a_running_job_loses_its_right_to_come_back_and_then_is_told_to_save(
    run_dir: Path, fake_slurm: FakeSlurm
) -> None:
    fake_slurm.show(("12", "RUNNING"), steps="12.batch\n12.0\n")
    result = cancel(run_dir)
    assert result.stdout == "job 12 (RUNNING): told to save and to end; it does not come back\n"
    assert fake_slurm.asked("scontrol") == [["update", "JobId=12", "Requeue=0"]]
    assert fake_slurm.asked("scancel") == [["--signal=TERM", "12"]]
    assert read_events(run_dir)[-1].event == "cancelled"


def test_a_job_that_waits_leaves_the_queue(run_dir: Path, fake_slurm: FakeSlurm) -> None:
    fake_slurm.show(("12", "PENDING"))
    assert "job 12 (PENDING): taken out of the queue" in cancel(run_dir).stdout
    assert fake_slurm.asked("scancel") == [["12"]]


def test_a_job_that_has_not_begun_to_work_is_ended(run_dir: Path, fake_slurm: FakeSlurm) -> None:
    fake_slurm.show(("12", "RUNNING"), steps="12.batch\n")
    assert "job 12 (RUNNING): ended" in cancel(run_dir).stdout
    assert fake_slurm.asked("scancel") == [["12"]]


def test_now_does_not_wait_for_a_save(run_dir: Path, fake_slurm: FakeSlurm) -> None:
    fake_slurm.show(("12", "RUNNING"), steps="12.0\n")
    assert "job 12 (RUNNING): ended" in cancel(run_dir, "--now").stdout
    assert fake_slurm.asked("scancel") == [["12"]]


def test_waiting_jobs_go_first_and_ended_ones_are_left_alone(run_dir: Path, fake_slurm: FakeSlurm) -> None:
    fake_slurm.show(("12_0", "RUNNING"), ("12_1", "COMPLETED"), ("12_2", "PENDING"), steps="12_0.0\n")
    assert cancel(run_dir).exit_code == 0
    assert fake_slurm.asked("scancel") == [["12_2"], ["--signal=TERM", "12_0"]]


def test_a_job_that_was_submitted_by_hand_is_found_by_what_it_says_of_itself(
    run_dir: Path, fake_slurm: FakeSlurm
) -> None:
    (run_dir / "slurm" / "jobs.jsonl").unlink()
    fake_slurm.show(("77", "PENDING"), comment=f"foreword:{run_dir}")
    assert "job 77" in cancel(run_dir).stdout
    (run_dir / "slurm" / "jobs.jsonl").unlink()
    fake_slurm.show(("78", "PENDING"), comment=f"foreword:{run_dir}-other")
    assert "no job of it is in the queue" in cancel(run_dir).stderr


def test_many_waiting_elements_are_cancelled_together(run_dir: Path, fake_slurm: FakeSlurm) -> None:
    fake_slurm.show(*((f"12_{number}", "PENDING") for number in range(450)))
    assert len(cancel(run_dir).stdout.splitlines()) == 450
    assert [len(words) for words in fake_slurm.asked("scancel")] == [200, 200, 50]


def test_a_job_that_is_ending_is_left_alone(run_dir: Path, fake_slurm: FakeSlurm) -> None:
    fake_slurm.show(("12", "COMPLETING"))
    assert "ending already" in cancel(run_dir).stdout
    assert fake_slurm.asked("scontrol") == fake_slurm.asked("scancel") == []


def test_a_refusal_is_in_slurms_words(run_dir: Path, fake_slurm: FakeSlurm) -> None:
    fake_slurm.show(("12", "PENDING"))
    fake_slurm.refuse("scancel", "scancel: error: Access/permission denied")
    result = cancel(run_dir)
    assert isinstance(result.exception, MachineError)
    assert "Access/permission denied" in str(result.exception)


def test_what_is_no_run_is_refused(tmp_path: Path, fake_slurm: FakeSlurm) -> None:
    assert isinstance(cancel(tmp_path).exception, DataError)
    assert isinstance(cancel(tmp_path / "nowhere").exception, ConfigError)
